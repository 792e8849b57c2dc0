"""Tables in a Markdown page are the outcomes', and the project's own page is up to date."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.errors import OspoError
from ospo_cli.instruments.experiment import command
from ospo_cli.instruments.experiment.plan import read
from ospo_cli.instruments.experiment.running import Folders
from tests.instruments.experiment.made import DOORS

ROOT = Path(__file__).resolve().parents[3]
EXPERIMENTS = [path for path in sorted((ROOT / "benchmarks" / "experiments").glob("*.yaml")) if path.with_suffix("").is_dir()]


def test_there_are_experiments_with_kept_outcomes():
    assert {"credit", "plateau"} <= {path.stem for path in EXPERIMENTS}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_results_page_holds_the_tables_of_the_kept_outcomes(file):
    page = ROOT / "docs" / "results.md"
    text = page.read_text(encoding="utf-8")
    data = command.gathered(file, read(file, DOORS), Folders(file.with_suffix("")))
    assert command.written_into(text, command._blocks(page, file.name), data, page) == text


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "no file"), ("# Results\n<!-- experiment other.yaml demo -->\n<!-- end -->\n", "no block")]
)
def test_a_page_without_a_block_is_refused_before_any_training(tmp_path, content, problem):
    page = tmp_path / "page.md"
    if content is not None:
        page.write_text(content, encoding="utf-8")
    with pytest.raises(OspoError, match=problem):
        command.execute(EXPERIMENTS[0], tmp_path / "credit", DOORS, into=page)
    assert not (tmp_path / "credit").exists()


def test_a_block_of_a_task_without_outcomes_is_refused(tmp_path):
    file = EXPERIMENTS[0]
    page = tmp_path / "page.md"
    page.write_text(f"<!-- experiment {file.name} nowhere -->\n<!-- end -->\n", encoding="utf-8")
    data = command.gathered(file, read(file, DOORS), Folders(file.with_suffix("")))
    with pytest.raises(OspoError, match="nowhere"):
        command.written_into(page.read_text(encoding="utf-8"), command._blocks(page, file.name), data, page)


def test_a_file_without_a_name_is_one_line():
    done = CliRunner().invoke(app, ["experiment", "", "--tables"])
    assert isinstance(done.exception, OspoError)

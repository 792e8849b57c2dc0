"""params.yaml as text, and `ospo params --write`: a file of an earlier version becomes one of the present."""

import dataclasses

import pytest
from typer.testing import CliRunner

from ospo_cli.cli import app
from ospo_cli.errors import ParameterError
from ospo_cli.params import whole, written
from ospo_cli.params.train import Train
from ospo_cli.params.whole import Params

PRESENT = written.render(Params())


@pytest.fixture
def old(tmp_path):
    """A file with another seed, without attribute.rule and all of section store, with a name, a section and a comment of former times."""
    text = PRESENT.replace("  seed: 0 ", "  seed: 7 ").replace("# root of every random number", "# the seed")
    lines = [line for line in text.splitlines() if not line.startswith("  rule: ")]
    lines = lines[: lines.index("store:")]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join([*lines, "oven:", "  heat: 3"]).replace("train:", "train:\n  speed: 9"), encoding="utf-8")
    return path


def write(path):
    return CliRunner().invoke(app, ["params", "--write", "--project", str(path.parent)])


def test_values_stay_missing_names_get_defaults_and_comments_are_those_of_today(old):
    assert write(old).exit_code == 0
    assert whole.load(old) == dataclasses.replace(Params(), train=Train(seed=7))
    assert old.read_text(encoding="utf-8") == PRESENT.replace("  seed: 0 ", "  seed: 7 ")


def test_names_that_are_gone_are_named_on_stderr_and_new_ones_on_stdout(old):
    done = write(old)
    assert done.stderr.splitlines() == ["ospo params: oven is gone: left out", "ospo params: train.speed is gone: left out"]
    assert done.stdout.strip().endswith("new: attribute.rule, store.values, store.products")


def test_a_second_time_nothing_is_written(old):
    write(old)
    before = old.stat().st_ino
    done = write(old)
    assert done.stdout.strip() == f"{old} is as this version writes it"
    assert done.stderr == ""
    assert old.stat().st_ino == before


def test_a_value_that_is_not_allowed_leaves_the_file_as_it_was(old):
    old.write_text(old.read_text(encoding="utf-8").replace("  iterations: 4 ", "  iterations: many "), encoding="utf-8")
    before = old.read_bytes()
    done = write(old)
    assert done.exit_code != 0
    assert "train.iterations" in str(done.exception)
    assert old.read_bytes() == before


def test_a_write_that_fails_leaves_the_file_as_it_was(old, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    before = old.read_bytes()
    monkeypatch.setattr("ospo_cli.tables.files.os.replace", fails)
    assert write(old).exit_code != 0
    assert old.read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == ["params.yaml"]


def test_values_that_are_mappings_are_kept_whole(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(PRESENT.replace("  gains: {} ", "  gains: {Exact: 2} ").replace("    rrf_k: 60 ", "    rrf_k: 61 "), encoding="utf-8")
    found = written.renewed(path)
    assert found.gone == found.added == []
    assert "  gains: {Exact: 2.0} " in found.text
    assert "    rrf_k: 61 " in found.text


def test_a_section_without_content_gets_all_its_defaults(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("train:\n", encoding="utf-8")
    found = written.renewed(path)
    assert found.text == PRESENT
    assert len(found.added) == len(whole.describe())


def test_a_missing_name_advises_the_command_that_adds_it():
    with pytest.raises(ParameterError, match="ospo params --write"):
        whole.from_mapping({section: values for section, values in whole.to_mapping(Params()).items() if section != "store"})

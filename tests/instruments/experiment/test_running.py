"""Trainings of a miniature: run once, kept as small tables, compared without their projects; what fails is named and tried again."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from ospo_cli.errors import OspoError
from ospo_cli.instruments.experiment import command, running
from ospo_cli.instruments.experiment.plan import Training, read
from ospo_cli.instruments.experiment.running import Folders
from tests.instruments.experiment.made import DOORS, outcome, small_params
from tests.report.reader import Reader

FILE = {
    "tasks": {"shop": {"preset": "demo"}},
    "methods": {"grpo": {"row": "dr-grpo"}, "ours": {"row": "ours"}},
    "seeds": [0],
    "learning_rates": [5e-4],
    "params": small_params(),
}


@pytest.fixture
def file(tmp_path):
    """The file of two methods on a miniature."""
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(FILE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The experiment, run."""
    folder = tmp_path_factory.mktemp("experiment")
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(FILE), encoding="utf-8")
    assert command.execute(path, folder / "own", DOORS, jobs=2) == []
    return path, folder / "own"


@pytest.mark.slow
def test_methods_share_what_comes_before_them_and_differ_in_what_they_do(done):
    _, folder = done
    one, two = (folder / "projects" / "shop" / "seed-0" / f"{name}-0.0005" / "data" for name in ("grpo", "ours"))
    for path in ("policies/000/model.safetensors", "iterations/001/rollouts.parquet"):
        assert (one / path).stat().st_ino == (two / path).stat().st_ino
    assert (one / "policies/002/model.safetensors").read_bytes() != (two / "policies/002/model.safetensors").read_bytes()


@pytest.mark.slow
def test_outcomes_alone_give_the_same_tables_and_page(done, capsys, tmp_path):
    path, folder = done
    command.execute(path, folder, DOORS, runs=False)
    first = capsys.readouterr().out
    assert "| grpo | 0.0005 | 1 |" in first
    assert "minus grpo" in first
    shutil.copytree(folder / "outcomes", tmp_path / "own" / "outcomes")
    assert command.execute(path, tmp_path / "own", DOORS) == []
    assert capsys.readouterr().out == first
    assert (tmp_path / "own" / "experiment.html").read_bytes() == (folder / "experiment.html").read_bytes()
    reader = Reader((folder / "experiment.html").read_text(encoding="utf-8"))
    assert (reader.unbalanced, reader.scripts) == ([], [])
    assert not (tmp_path / "own" / "projects").exists()


def stand_in(monkeypatch, curve=(0.1, 0.2, 0.3, 0.4), status=0):
    """Put a command that ends at once in the place of `ospo run`; return the projects that it was asked for."""
    asked = []

    class Ended:
        returncode = status

    def run(command, **options):
        project = Path(command[-1])
        asked.append(project.relative_to(project.parents[3]))
        options["stderr"].write(b"warm-start: 3 of 9\nospo: update: out of luck\n")
        (project / "data" / "manifests").mkdir(parents=True, exist_ok=True)
        (project / "data" / "manifests" / "warm-start.json").write_text("{}")
        return Ended

    monkeypatch.setattr(running.subprocess, "run", run)
    monkeypatch.setattr(running.outcomes, "of_project", lambda layout, training, iterations: outcome(training, curve, 0.5))
    return asked


def test_what_has_an_outcome_of_the_same_parameters_is_not_run_again(file, tmp_path, monkeypatch, capsys):
    asked = stand_in(monkeypatch)
    command.execute(file, tmp_path / "own", DOORS)
    assert [str(place) for place in asked] == ["projects/shop/seed-0/grpo-0.0005", "projects/shop/seed-0/ours-0.0005"]
    command.execute(file, tmp_path / "own", DOORS)
    assert len(asked) == 2
    assert [state for _, state in command.outlook(file, tmp_path / "own", DOORS)] == ["done", "done"]
    changed = yaml.safe_load(file.read_text()) | {
        "methods": {"grpo": {"row": "dr-grpo"}, "ours": {"row": "ours", "params": {"update.epochs": 2}}}
    }
    file.write_text(yaml.safe_dump(changed))
    assert [state.split(",")[0] for _, state in command.outlook(file, tmp_path / "own", DOORS)] == ["done", "to run: 2 iterations"]
    command.execute(file, tmp_path / "own", DOORS)
    assert str(asked[2:][0]) == "projects/shop/seed-0/ours-0.0005"
    assert len(asked) == 3
    assert "experiment: 1/1" in capsys.readouterr().err


def test_inputs_are_needed_for_what_is_trained_and_not_for_tables(file, tmp_path, monkeypatch):
    asked = stand_in(monkeypatch)
    given = yaml.safe_load(file.read_text())
    given["tasks"]["shop"]["inputs"] = "catalogues"
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(OspoError, match=r"tasks\.shop\.inputs: no such folder: found .*catalogues"):
        command.execute(file, tmp_path / "own", DOORS)
    assert not asked
    (tmp_path / "catalogues").mkdir()
    command.execute(file, tmp_path / "own", DOORS)
    (tmp_path / "catalogues").rmdir()
    command.execute(file, tmp_path / "own", DOORS, runs=False)
    assert len(asked) == 2


def test_an_outcome_tells_what_made_it_after_a_default_has_changed(file):
    params = read(file, DOORS).params(Training("shop", "grpo", 0, 5e-4))
    kept = running.settings(params)
    assert (kept["train.iterations"], kept["retrieval.k1"]) == (2, params.retrieval.k1)
    assert running.fits(kept, params)
    assert not running.fits(kept | {"retrieval.k1": 2.0}, params)
    assert not running.fits(kept | {"retrieval.gone": 2.0}, params)


def test_tables_leave_out_an_outcome_of_other_parameters_and_name_it(file, tmp_path, monkeypatch, capsys):
    stand_in(monkeypatch)
    command.execute(file, tmp_path / "own", DOORS)
    kept = tmp_path / "own" / "outcomes" / "shop" / "seed-0" / "ours-0.0005" / running.SETTINGS
    kept.write_text(json.dumps(json.loads(kept.read_text(encoding="utf-8")) | {"retrieval.k1": 2.0}), encoding="utf-8")
    capsys.readouterr()
    assert command.execute(file, tmp_path / "own", DOORS, runs=False) == ["shop/seed-0/ours-0.0005"]
    assert "| ours |" not in capsys.readouterr().out


def test_a_parameter_of_a_later_version_counts_where_it_is_not_its_default(file):
    params = read(file, DOORS).params(Training("shop", "grpo", 0, 5e-4))
    kept = running.settings(params)
    assert running.fits({name: value for name, value in kept.items() if name != "retrieval.k1"}, params)
    assert not running.fits({name: value for name, value in kept.items() if name != "train.iterations"}, params)


def test_a_failed_training_is_named_with_its_last_line_and_the_others_go_on(file, tmp_path, monkeypatch, capsys):
    asked = stand_in(monkeypatch, status=1)
    with pytest.raises(OspoError, match=r"no training has an outcome: found failed, see .*run\.log: ospo: update: out of luck"):
        command.execute(file, tmp_path / "own", DOORS)
    assert len(asked) == 2
    assert not (tmp_path / "own" / "outcomes").exists()
    stand_in(monkeypatch)
    assert command.execute(file, tmp_path / "own", DOORS) == []


def test_an_outcome_in_anothers_place_is_refused(file, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    command.execute(file, tmp_path / "own", DOORS)
    folders = Folders(tmp_path / "own")
    own, other = (folders.outcome(Training("shop", name, 0, 5e-4)) for name in ("ours", "grpo"))
    for path in own.glob("*.parquet"):
        path.write_bytes((other / path.name).read_bytes())
    with pytest.raises(OspoError, match="holds another training's outcome"):
        command.execute(file, tmp_path / "own", DOORS, runs=False)


def test_hostile_names_and_texts_do_nothing_on_the_page(file, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    file.write_text(file.read_text() + "# </pre><script>alert(1)</script> \x1b[31m\n".replace("\x1b", ""))
    command.execute(file, tmp_path / "own", DOORS)
    reader = Reader((tmp_path / "own" / "experiment.html").read_text(encoding="utf-8"))
    assert "<script>alert(1)</script>" in reader.text
    assert reader.scripts == []


def test_what_nothing_reads_in_this_mode_is_no_other_parameter(file):
    params = read(file, DOORS).params(Training("shop", "grpo", 0, 5e-4))
    kept = running.settings(params)
    clicks = {"prepare_data.clicks.prior_impressions": 77.0}
    assert clicks.keys() <= kept.keys()
    assert running.fits(kept | clicks, params)
    logged = dataclasses.replace(params, prepare_data=dataclasses.replace(params.prepare_data, source="clicks"))
    assert not running.fits(running.settings(logged) | clicks, logged)
    assert not running.fits(kept | {"prepare_data.source": "clicks"}, params)

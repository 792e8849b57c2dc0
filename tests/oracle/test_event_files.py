"""TensorBoard's own reader finds in the exported event file the numbers of the project's JSON files."""

import importlib.util
import json

import pytest

from ospo_cli.errors import MissingInputError, OspoError
from ospo_cli.exchange import event_files
from ospo_cli.layout import Layout

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed (extra [tensorboard])"
)
STEPS = {1: {"loss": [0.5, 0.25], "entropy": [1.5, None]}, 2: {"loss": [0.125], "entropy": [1.0]}}


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path)
    for iteration, steps in STEPS.items():
        folder = layout.iteration(iteration, "x").parent
        folder.mkdir(parents=True)
        (folder / "update_steps.json").write_text(json.dumps(steps))
        (folder / "update_metrics.json").write_text(json.dumps({"iteration": iteration, "loss": iteration / 8, "kept": True, "kl": None}))
        (folder / "rollout_metrics.json").write_text(json.dumps({"iteration": iteration, "tokens": 10 * iteration, "note": "text"}))
    layout.evaluation("x").parent.mkdir(parents=True)
    layout.evaluation("curves.json").write_text(json.dumps([{"iteration": 0, "greedy": 0.5}, {"iteration": 2, "greedy": 0.75}]))
    return layout


EXPECTED = {
    "evaluation/greedy": [(0, 0.5), (2, 0.75)],
    "rollout/tokens": [(1, 10.0), (2, 20.0)],
    "update/loss": [(1, 0.125), (2, 0.25)],
    "update_steps/entropy": [(1, 1.5), (3, 1.0)],
    "update_steps/loss": [(1, 0.5), (2, 0.25), (3, 0.125)],
}


def test_every_number_has_a_tag_and_the_step_of_all_iterations(layout):
    found = event_files.scalars(layout)
    assert {tag: [(step, value) for other, step, value in found if other == tag] for tag, _, _ in found} == EXPECTED


@needs_tensorboard
def test_tensorboards_reader_finds_them_and_two_exports_are_equal_bytes(layout, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = event_files.write(event_files.scalars(layout), tmp_path / "board")
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]} == EXPECTED
    before = path.read_bytes()
    assert event_files.write(event_files.scalars(layout), tmp_path / "board").read_bytes() == before
    assert [file.name for file in (tmp_path / "board").iterdir()] == [event_files.FILE]


def test_without_the_package_or_without_an_iteration_it_is_one_line(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(event_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OspoError, match=r"tensorboard is not installed; pip install '\.\[tensorboard\]'"):
        event_files.write([("a", 1, 1.0)], tmp_path / "board")
    with pytest.raises(MissingInputError, match="holds no measures"):
        event_files.scalars(Layout(tmp_path / "empty"))
    assert not (tmp_path / "board").exists()

"""Measures of a project's stages as a TensorBoard event file: what the JSON files beside the tables hold, of all iterations."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ospo_cli.errors import MissingInputError, OspoError, of_extra
from ospo_cli.layout import Layout
from ospo_cli.tables import files

# TensorBoard reads what is named so; between the dots another writer has time and host.
FILE = "events.out.tfevents.0.ospo"
Scalar = tuple[str, int, float]


def scalars(layout: Layout) -> list[Scalar]:
    """Return (tag, step, value) of every number, by tag, then step.

    Tags: `update_steps/NAME`, whose step counts the optimiser's steps of all iterations from 1; `rollout/NAME`, `update/NAME` … of
    `rollout_metrics.json` … and `evaluation/NAME` of the evaluation's curves, whose step is the iteration.

    Raises:
        MissingInputError: no iteration has been run.
        FileError: a file cannot be read.
    """
    folders = sorted(path for path in (layout.data / "iterations").glob("[0-9]*") if path.is_dir())
    found = [scalar for folder in folders for scalar in _of_iteration(folder)]
    taken = 0
    for folder in folders:
        if (folder / "update_steps.json").is_file():
            steps = files.read_json(folder / "update_steps.json", f"ospo update --iter {int(folder.name)}")
            for name, values in steps.items():
                found += [(f"update_steps/{name}", taken + place, value) for place, value in enumerate(values, 1) if _is_number(value)]
            taken += max(map(len, steps.values()), default=0)
    curves = layout.evaluation("curves.json")
    if curves.is_file():
        for point in files.read_json(curves, "ospo evaluate", list):
            found += [(f"evaluation/{name}", point["iteration"], value) for name, value in _numbers(point)]
    if not found:
        raise MissingInputError(layout.data / "iterations", "holds no measures", expected="an iteration's metrics", remedy="run `ospo run`")
    return sorted(found)


def write(found: list[Scalar], folder: Path) -> Path:
    """Write one event file into a folder, whole or not at all; return its path. Equal numbers, equal bytes: an event's time is its step.

    Raises:
        OspoError: the package tensorboard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise OspoError(
            "--to tensorboard",
            "the package tensorboard is not installed",
            remedy=of_extra("tensorboard"),
        )
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with files.replacing(folder / FILE) as temporary, open(temporary, "wb") as stream:
        writer = RecordWriter(stream)
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for tag, step, value in found:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(Event(wall_time=float(step), step=step, summary=summary).SerializeToString())
    return folder / FILE


def _of_iteration(folder: Path) -> Iterator[Scalar]:
    for path in sorted(folder.glob("*_metrics.json")):
        stage = path.name.removesuffix("_metrics.json")
        for name, value in _numbers(files.read_json(path, f"ospo run --to {stage}")):
            yield f"{stage}/{name}", int(folder.name), value


def _numbers(record: dict[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in record.items() if name != "iteration" and _is_number(value)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

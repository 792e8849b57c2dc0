"""An experiment's file: tasks, methods, seeds and learning rates, each combination one training."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.text.close_names import check_names, unknown_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_KEYS = ("tasks", "methods", "reference", "seeds", "learning_rates", "params")
_TASK_KEYS = ("preset", "project", "inputs", "params")
_METHOD_KEYS = ("row", "params")
Mapped = dict[str, Any]


@dataclass(frozen=True)
class Doors:
    """What the file's names stand for: parameters of a preset, and rows of the algorithms' table."""

    preset: Callable[[str], Params]
    row: Callable[[str], Mapped]


@dataclass(frozen=True)
class Task:
    """Parameters that all methods share, and a folder whose content every project needs (linked, not copied)."""

    name: str
    params: Mapped
    inputs: Path | None


@dataclass(frozen=True)
class Training:
    """One method on one task at one seed and learning rate."""

    task: str
    method: str
    seed: int
    rate: float

    @property
    def folder(self) -> Path:
        """Its folder below the experiment's; equal for equal trainings."""
        return Path(self.task) / f"seed-{self.seed}" / f"{self.method}-{self.rate:g}"


@dataclass(frozen=True)
class Plan:
    """What an experiment's file asks for; `reference` is the method that the others are compared with."""

    tasks: dict[str, Task]
    methods: dict[str, Mapped]
    reference: str
    seeds: tuple[int, ...]
    rates: tuple[float, ...]

    def trainings(self) -> list[Training]:
        """Return all, seed by seed, so that a first whole comparison is there early."""
        kinds = [(task, method, rate) for task in self.tasks for rate in self.rates for method in self.methods]
        return [Training(task, method, seed, rate) for seed in self.seeds for task, method, rate in kinds]

    def params(self, training: Training) -> Params:
        """Return the parameters of a training: the task's, over them the method's, its seed and learning rate.

        Only the warm start and the last policy are evaluated, with the reward's retriever alone.
        """
        content = {section: dict(values) for section, values in self.tasks[training.task].params.items()}
        _lay(content, self.methods[training.method])
        content["train"]["seed"] = training.seed
        content["update"]["learning_rate"] = training.rate
        content["evaluate"] |= {"every": content["train"]["iterations"], "retrievers": [content["score_coalitions"]["retriever"]]}
        content["evaluate"] |= {"temperatures": [], "choose_on": "none"}  # final policies are compared, greedy and as rollouts are sampled
        return whole.from_mapping(content, where=f"{training.task}, {training.method}")


def read(path: Path, doors: Doors) -> Plan:
    """Read an experiment's file.

    Raises:
        ParameterError: the file cannot be read, a name in it is unknown, a value is of the wrong kind, or parameters do not fit together.
    """
    content = whole.read(path)
    where = str(path)
    if not isinstance(content, dict):
        raise ParameterError(where, "is not a mapping", found=type(content).__name__, expected=", ".join(_KEYS))
    check_names(where, "name", content, _KEYS)
    shared = _changes(f"{where}: params", content.get("params", {}))
    tasks = {
        name: _task(f"{where}: tasks.{name}", (name, given), shared, path.parent, doors) for name, given in _named(where, content, "tasks")
    }
    methods = {name: _method(f"{where}: methods.{name}", given, doors) for name, given in _named(where, content, "methods")}
    reference = content.get("reference", next(iter(methods)))
    check_names(f"{where}: reference", "method", [reference], methods)
    plan = Plan(
        tasks, methods, reference, tuple(_numbers(where, content, "seeds", int)), tuple(_numbers(where, content, "learning_rates", float))
    )
    for training in plan.trainings()[: len(tasks) * len(methods) * len(plan.rates)]:  # a wrong value is said now, not after hours
        plan.params(training)
    return plan


def _named(where: str, content: Mapped, key: str) -> list[tuple[str, Mapped]]:
    given = content.get(key)
    if not isinstance(given, dict) or not given:
        raise ParameterError(f"{where}: {key}", "is missing or empty", expected="names, each with its settings")
    for name, settings in given.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ParameterError(
                f"{where}: {key}", "not a name", found=name, expected="letters, digits, dots, dashes, underscores, plus signs"
            )
        if not isinstance(settings, dict):
            raise ParameterError(f"{where}: {key}.{name}", "is not a mapping", found=settings, expected="such as {preset: demo}")
    return list(given.items())


def _numbers(where: str, content: Mapped, key: str, kind: type) -> list[Any]:
    given = content.get(key)
    allowed = (int,) if kind is int else (int, float)
    is_list = isinstance(given, list) and given and all(isinstance(value, allowed) and not isinstance(value, bool) for value in given)
    if not is_list or not isinstance(given, list) or len(set(given)) < len(given) or min(given) < 0:
        raise ParameterError(f"{where}: {key}", "is no list of different numbers ≥ 0", found=given, expected="such as [0, 1, 2]")
    return [kind(value) for value in given]


def _task(where: str, named: tuple[str, Mapped], shared: Mapped, root: Path, doors: Doors) -> Task:
    name, given = named
    check_names(where, "name", given, _TASK_KEYS)
    if ("preset" in given) == ("project" in given):
        raise ParameterError(where, "needs a preset or a project", found=", ".join(given) or "nothing", expected="one of the two")
    if "preset" in given:
        params = whole.to_mapping(doors.preset(str(given["preset"])))
    else:
        project = root / str(given["project"])
        params = whole.to_mapping(whole.load(project / "params.yaml"))
        if params["prepare_data"]["path"]:
            params["prepare_data"]["path"] = str((project / params["prepare_data"]["path"]).resolve())
    _lay(params, shared)
    _lay(params, _changes(f"{where}.params", given.get("params", {})))
    return Task(name, params, root / str(given["inputs"]) if "inputs" in given else None)


def _method(where: str, given: Mapped, doors: Doors) -> Mapped:
    check_names(where, "name", given, _METHOD_KEYS)
    changes: Mapped = {}
    try:
        for section, values in (doors.row(str(given["row"])) if "row" in given else {}).items():
            changes |= {f"{section}.{name}": value for name, value in values.items()}
    except KeyError:
        raise ParameterError(f"{where}.row", "no such algorithm", found=given["row"], expected="a name of `ospo init --help`") from None
    return changes | _changes(f"{where}.params", given.get("params", {}))


def _changes(where: str, given: object) -> Mapped:
    if not isinstance(given, dict) or not all(isinstance(name, str) and "." in name for name in given):
        raise ParameterError(where, "is no mapping of dotted names", found=given, expected="such as {update.epochs: 2}")
    return dict(given)


def _lay(content: dict[str, Mapped], changes: Mapping[str, Any]) -> None:
    """Lay values of dotted names over section -> name -> value."""
    for dotted, value in changes.items():
        *sections, name = dotted.split(".")
        inner: Any = content
        for section in sections:
            if not isinstance(inner, dict) or section not in inner:
                raise unknown_name(dotted, "section", section, inner if isinstance(inner, dict) else ())
            inner[section] = dict(inner[section]) if isinstance(inner[section], dict) else inner[section]
            inner = inner[section]
        if not isinstance(inner, dict):
            raise OspoError(dotted, "no such parameter", remedy="`ospo params` lists them")
        inner[name] = value

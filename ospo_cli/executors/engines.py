"""The place where shards are looped over, and the choice of who does it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ospo_cli.errors import ParameterError
from ospo_cli.executors import ENGINES, HELPERS
from ospo_cli.executors.base import Engine, Job
from ospo_cli.executors.progress import Progress

if TYPE_CHECKING:
    from ospo_cli.params.execution import Execution

_OVERRIDES = {"engine": "OSPO_ENGINE", "workers": "OSPO_WORKERS"}


class Local:
    """Shards in this process, one after another."""

    works_here = True

    def __init__(self, settings: Execution | None = None, command: Sequence[str] = ()) -> None:
        pass

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Compute what is not finished."""
        fresh = set()
        for number, shard in enumerate(job.shards):
            if job.is_done(number):
                progress.advance(shard.units, reused=True)
                continue
            job.do(number)
            fresh.add(number)
            progress.advance(shard.units)
        return fresh

    def end(self) -> None:
        """Nothing was started."""


_engine: Engine = Local()


def run(job: Job) -> set[int]:
    """Return when every shard is done: the numbers of those that were not before."""
    progress = Progress(job.label, sum(shard.units for shard in job.shards), job.unit)
    fresh = _engine.run(job, progress)
    progress.close()
    return fresh


def works_here() -> bool:
    """Tell whether shards are computed in this process; where not, it needs no weights."""
    return _engine.works_here


def is_helper() -> bool:
    """Tell whether this process computes shards for a command that holds the project's lock and writes its tables."""
    return _helper() is not None


def _helper() -> str | None:
    return next((target for variable, target in HELPERS.items() if variable in os.environ), None)


@contextlib.contextmanager
def engaged(settings: Execution, command: Sequence[str]) -> Iterator[None]:
    """Run the block's shards where the settings say, unless `using` says otherwise already.

    Args:
        settings: section execution; OSPO_ENGINE and OSPO_WORKERS go first.
        command: arguments of `ospo` with which a worker comes to the same shards.

    Raises:
        ParameterError: an environment variable, or an engine's own setting, is no such value.
    """
    if not isinstance(_engine, Local):
        yield
        return
    settings = settings if is_helper() else chosen(settings, os.environ)
    with using(pkgutil.resolve_name(_helper() or ENGINES[settings.engine])(settings, command)):
        yield


@contextlib.contextmanager
def using(engine: Engine) -> Iterator[None]:
    """Run the block's shards by this engine."""
    global _engine
    before, _engine = _engine, engine
    try:
        yield
    finally:
        _engine = before
        engine.end()


def chosen(settings: Execution, environment: Mapping[str, str]) -> Execution:
    """Return the settings with what the environment says in place of the file."""
    found = {name: environment[variable] for name, variable in _OVERRIDES.items() if environment.get(variable)}
    if found.get("engine", "local") not in ENGINES:
        raise ParameterError(f"--engine or {_OVERRIDES['engine']}", "no such engine", found=found["engine"], expected=", ".join(ENGINES))
    workers = found.get("workers", str(settings.workers))
    if not (workers.isascii() and workers.isdigit() and 1 <= int(workers) <= 100_000):
        raise ParameterError(f"--workers or {_OVERRIDES['workers']}", "is no number of workers", found=workers, expected="1 to 100000")
    return dataclasses.replace(settings, engine=found.get("engine", settings.engine), workers=int(workers))

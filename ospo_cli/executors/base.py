"""What a shard is, what a job of shards is, and what an engine that runs one must promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ospo_cli.executors.progress import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Shard:
    """A piece of work: content key (everything that its result depends on), number of units, payload for the function."""

    key: str
    units: int
    payload: Any


@dataclass(frozen=True)
class Job:
    """Shards that are looped over in one place of a command.

    Attributes:
        shards: in their order; a process that runs the same command on the same project has the same ones.
        is_done: whether the result of a shard, by its number, lies finished in the folder.
        do: computes a shard and writes its result, whole or not at all.
        label, unit: of the progress.
        folder: where results lie.
        counts: a dataclass of numbers that `do` adds to, such as `rewards.remembered.Tally`; what it adds elsewhere is brought here.
    """

    shards: Sequence[Shard]
    is_done: Callable[[int], bool]
    do: Callable[[int], None]
    label: str
    unit: str
    folder: Path
    counts: DataclassInstance | None = None


class Engine(Protocol):
    """Decides where a shard runs, and nothing else: not what it computes, not its name, not where its result lies."""

    # Whether shards are computed in this process: where not, it needs no weights.
    works_here: bool

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Return when every shard is done: the numbers of those that were not before. A shard may run more than once, in any order.

        Raises:
            OspoError: a shard cannot be done.
        """
        ...

    def end(self) -> None:
        """End what was started."""
        ...

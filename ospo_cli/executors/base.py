"""Where shards run: one protocol, so that a stage does not know whether it is alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from ospo_cli.tables.declare import Table


@dataclass(frozen=True)
class Shard:
    """A piece of work: content key (everything that its result depends on), number of units, payload for the function."""

    key: str
    units: int
    payload: Any


class Executor(Protocol):
    """Runs a function over shards and keeps finished ones, so that killed work resumes."""

    def map_shards(
        self, function: Callable[[Any], dict[str, pl.DataFrame]], shards: Sequence[Shard], tables: dict[str, Table], label: str, unit: str
    ) -> list[dict[str, pl.DataFrame]]:
        """Return each shard's tables by name, in the order of the shards."""
        ...

"""Finished shards lie, with their hashes, in a folder named by content: computed once, wherever that is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.executors import engines
from ospo_cli.executors.base import Job, Shard
from ospo_cli.tables import parquet, sealed
from ospo_cli.tables.declare import Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def content_key(*parts: object) -> str:
    """Return the SHA-256 (hex) of JSON-able parts; equal content gives equal keys on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


class ShardFolder:
    """A shard's tables are written whole or not at all under `folder/<key>/`.

    `fresh` holds the numbers of the last job's shards that were computed now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fresh = folder, set[int]()

    def map_shards(
        self,
        function: Callable[[Any], dict[str, pl.DataFrame]],
        shards: Sequence[Shard],
        tables: dict[str, Table],
        label: str,
        unit: str,
        counts: DataclassInstance | None = None,
    ) -> list[dict[str, pl.DataFrame]]:
        """Return each shard's tables, from the folder where they are finished, else from `function(shard.payload)`."""
        found: dict[int, dict[str, pl.DataFrame]] = {}

        def is_done(number: int) -> bool:
            if number not in found and (finished := self._finished(shards[number], tables)) is not None:
                found[number] = finished
            return number in found

        def do(number: int) -> None:
            made = function(shards[number].payload)
            for name, table in tables.items():
                parquet.write(made[name], self._path(shards[number], name), table)
            sealed.seal(self._folder(shards[number]))
            found[number] = made

        self.fresh = engines.run(Job(shards, is_done, do, label, unit, self.folder, counts))
        return [found[number] for number in range(len(shards))]

    def _folder(self, shard: Shard) -> Path:
        return self.folder / shard.key[:2] / shard.key

    def _path(self, shard: Shard, name: str) -> Path:
        return self._folder(shard) / f"{name}.parquet"

    def _finished(self, shard: Shard, tables: dict[str, Table]) -> dict[str, pl.DataFrame] | None:
        if not sealed.is_sealed(self._folder(shard)):
            return None
        try:
            return {name: parquet.read(self._path(shard, name), table) for name, table in tables.items()}
        except OspoError:  # another version's tables
            return None

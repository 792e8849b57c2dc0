"""Shards in this process, one after another; finished ones lie, with their hashes, in a folder named by content: computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.progress import Progress
from ospo_cli.tables import parquet, sealed
from ospo_cli.tables.declare import Table


def content_key(*parts: object) -> str:
    """Return the SHA-256 (hex) of JSON-able parts; equal content gives equal keys on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


class LocalExecutor:
    """Runs shards here; a shard's tables are written whole or not at all under `folder/<key>/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def map_shards(
        self, function: Callable[[Any], dict[str, pl.DataFrame]], shards: Sequence[Shard], tables: dict[str, Table], label: str, unit: str
    ) -> list[dict[str, pl.DataFrame]]:
        """Return each shard's tables, from the folder where they are finished, else from `function(shard.payload)`."""
        progress = Progress(label, sum(shard.units for shard in shards), unit)
        results = []
        for shard in shards:
            found = self._finished(shard, tables)
            if found is None:
                found = function(shard.payload)
                for name, table in tables.items():
                    parquet.write(found[name], self._path(shard, name), table)
                sealed.seal(self._folder(shard))
            else:
                progress.advance(shard.units, reused=True)
                results.append(found)
                continue
            progress.advance(shard.units)
            results.append(found)
        progress.close()
        return results

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

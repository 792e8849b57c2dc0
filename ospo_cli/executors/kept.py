"""What one process keeps from stage to stage in place of loading it again. Only `ospo run` does, within its iterations.

A thing is found by all that it was made from, hashes of files among it: what has changed is loaded anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.tables import files, placed
from ospo_cli.tables.declare import Table

_kept: dict[str, list[tuple[object, Any]]] | None = None  # by kind: origins and things, the newest last; None: nothing is kept


@contextlib.contextmanager
def between_stages() -> Iterator[None]:
    """Keep what the block's stages put by, and let go of it behind the block."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def clear() -> None:
    """Let go of everything."""
    if _kept is not None:
        _kept.clear()


def is_on() -> bool:
    """Tell whether anything is kept."""
    return _kept is not None


def take(kind: str, origin: object) -> Any | None:
    """Return what was put by under an equal origin, if it is there, and let go of it: whoever changes it misleads nobody."""
    things = [] if _kept is None else _kept.get(kind, [])
    for place, (known, _) in enumerate(things):
        if known == origin:
            return things.pop(place)[1]
    return None


def put(kind: str, origin: object, thing: Any, most: int = 1) -> None:
    """Keep a thing for the next stage, and of its kind no more than the `most` newest."""
    if _kept is not None:
        things = _kept.setdefault(kind, [])
        things.append((origin, thing))
        del things[:-most]


def read(table: Table, layout: Layout) -> pl.DataFrame:
    """Return a project's table as `placed.read` does, and keep it: for one that many stages read."""
    path = table.path(layout, 0)
    if not is_on() or not path.is_file():
        return placed.read(table, layout)
    origin = (path, files.file_hash(path))
    frame: pl.DataFrame | None = take(table.name, origin)
    frame = placed.read(table, layout) if frame is None else frame
    put(table.name, origin, frame)
    return frame

"""Readers of data sets; a new one is a file here and a line in SOURCES."""

from __future__ import annotations

import importlib
from pathlib import Path

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources.base import Source, SourceData
from ospo_cli.text.close_names import unknown_name

SOURCES: dict[str, str] = {
    "demo-shop": "ospo_cli.sources.demo_shop:read",
    "tables": "ospo_cli.sources.tables:read",
    "esci": "ospo_cli.sources.esci:read",
    "hm": "ospo_cli.sources.hm:read",
    "wands": "ospo_cli.sources.wands:read",
    "beir": "ospo_cli.sources.beir:read",
}


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Return the data of the source that `params.source` names; raise ParameterError where there is none of that name."""
    return find(params.source)(params, seed, root)


def find(name: str) -> Source:
    """Return the reader of this name, its module imported now."""
    if name not in SOURCES:
        raise unknown_name("prepare_data.source", "source", name, SOURCES)
    module, function = SOURCES[name].split(":")
    reader: Source = getattr(importlib.import_module(module), function)
    return reader

"""Reading a data set by the name of its reader in the registry."""

from __future__ import annotations

import importlib
from pathlib import Path

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import SOURCES
from ospo_cli.sources.base import Source, SourceData
from ospo_cli.text.close_names import unknown_name


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Return the data of the source that `params.source` names; raise ParameterError where there is none of that name."""
    if params.source not in SOURCES:
        raise unknown_name("prepare_data.source", "source", params.source, SOURCES)
    module, function = SOURCES[params.source].split(":")
    reader: Source = getattr(importlib.import_module(module), function)
    return reader(params, seed, root)

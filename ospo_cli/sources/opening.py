"""Reading a data set by the name of its reader in the registry."""

from __future__ import annotations

import importlib
from pathlib import Path

from ospo_cli.errors import ParameterError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import SOURCES
from ospo_cli.sources.base import Source, SourceData
from ospo_cli.sources.markup import entities_read
from ospo_cli.text.close_names import check_names

# Parameters that some sources read; set for another they would have no effect.
READ_BY = {
    "columns": ("tables", "clicks"),
    "quoting": ("tables", "clicks", "beir", "wands"),
    "gains": ("tables", "esci", "wands", "beir"),
    "locale": ("esci",),
    "small_version": ("esci",),
    "history_length": ("hm",),
    "cut_off_date": ("hm",),
}


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Return the data of the source that `params.source` names.

    Raises:
        ParameterError: there is none of that name, or it does not read a parameter that is set.
    """
    check_names("prepare_data.source", "source", [params.source], SOURCES)
    defaults = PrepareData()
    for name, sources in READ_BY.items():
        if params.source not in sources and getattr(params, name) != getattr(defaults, name):
            raise ParameterError(
                f"prepare_data.{name}",
                f"has no effect: source {params.source} does not read it",
                found=getattr(params, name),
                expected=f"source {' or '.join(sources)}",
                remedy=f"set it to its default, {getattr(defaults, name)!r}",
            )
    module, function = SOURCES[params.source].split(":")
    reader: Source = getattr(importlib.import_module(module), function)
    return entities_read(reader(params, seed, root), params.html_entities)

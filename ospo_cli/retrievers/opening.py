"""Opening a retriever by its name in the registry."""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers import RETRIEVERS
from ospo_cli.retrievers.base import Catalogue, Retriever


def build(name: str, documents: pl.DataFrame, settings: Retrieval, cache: Path | None, *, may_ignore_weights: bool = False) -> Retriever:
    """Return the retriever of that name over the documents; `cache` is a folder for what may be rebuilt at any time.

    `may_ignore_weights`: one that does not weigh fields counts each once, in place of an error.

    Raises:
        ParameterError: there is no such retriever, or no such field in the documents.
        RetrievalError: the catalogue is empty, holds an id twice, or has no word in any indexed field.
    """
    catalogue = Catalogue.from_documents(documents, settings.fields)
    if may_ignore_weights and not weighs_fields(name):
        catalogue = dataclasses.replace(catalogue, weighted=())
    return _over(name, catalogue, settings, cache)


def weighs_fields(name: str) -> bool:
    """Tell whether the retriever of that name gives fields the weights of retrieval.fields."""
    return bool(getattr(_kind(name), "weighs_fields", False))


def _kind(name: str) -> Any:
    if name not in RETRIEVERS:
        raise ParameterError("retriever", "unknown retriever", found=name, expected=", ".join(RETRIEVERS))
    module, attribute = RETRIEVERS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def _over(name: str, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> Retriever:
    kind = _kind(name)
    if catalogue.weighted and not getattr(kind, "weighs_fields", False):
        raise ParameterError(
            "retrieval.fields", f"retriever {name} does not weigh fields", found="a weight other than 1", expected="names alone, or bm25"
        )
    retriever: Retriever
    if getattr(kind, "fuses", False):
        others = {other: partial(_over, other, catalogue, settings, cache) for other in RETRIEVERS if other != name}
        retriever = kind(others, settings)
    else:
        retriever = kind(catalogue, settings, cache)
    return retriever

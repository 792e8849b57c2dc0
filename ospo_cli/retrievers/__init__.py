"""Search engines behind one protocol; a new one is a file and a line in RETRIEVERS."""

from __future__ import annotations

import importlib
from pathlib import Path

import polars as pl

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Retriever

RETRIEVERS: dict[str, str] = {
    "bm25": "ospo_cli.retrievers.lexical.bm25:BM25",
    "rank-bm25": "ospo_cli.retrievers.lexical.rank_bm25:RankBM25",
    "bm25s": "ospo_cli.retrievers.lexical.bm25s:BM25S",
    "tfidf-char": "ospo_cli.retrievers.lexical.tfidf_char:CharacterTfidf",
    "lsa": "ospo_cli.retrievers.dense.lsa:LatentSemantic",
    "dense": "ospo_cli.retrievers.dense.retriever:Dense",
    "hybrid": "ospo_cli.retrievers.hybrid:Hybrid",
    "http": "ospo_cli.retrievers.http.engine:HttpEngine",
}


def build(name: str, documents: pl.DataFrame, settings: Retrieval, cache: Path | None) -> Retriever:
    """Return the retriever of that name over the documents; `cache` is a folder for what may be rebuilt at any time.

    Raises:
        ParameterError: there is no such retriever, or no such field in the documents.
        RetrievalError: the catalogue is empty, holds an id twice, or has no word in any indexed field.
    """
    return over(name, Catalogue.from_documents(documents, settings.fields), settings, cache)


def over(name: str, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> Retriever:
    """Return the retriever of that name over a catalogue; raise as `build` does."""
    if name not in RETRIEVERS:
        raise ParameterError("retriever", "unknown retriever", found=name, expected=", ".join(RETRIEVERS))
    module, attribute = RETRIEVERS[name].split(":")
    kind = getattr(importlib.import_module(module), attribute)
    if catalogue.weighted and not getattr(kind, "weighs_fields", False):
        raise ParameterError(
            "retrieval.fields", f"retriever {name} does not weigh fields", found="a weight other than 1", expected="names alone, or bm25"
        )
    retriever: Retriever = kind(catalogue, settings, cache)
    return retriever

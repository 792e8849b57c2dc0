"""A BEIR collection: corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import columns, files, opened
from ospo_cli.sources.base import SourceData

SPLITS = ("train", "dev", "test")
REMEDY = "get and unpack a collection from https://github.com/beir-cellar/beir"


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read a collection; queries are those that the qrels judge, and the document of a query's own
    id is neither judged nor a candidate, as in BEIR's own evaluation.

    Raises:
        SourceError: a file or column is missing, an id is missing or twice there, a score is no number ≥ 0, a judged query has no text, or
            one query is judged in two splits.
    """
    del seed
    place = files.folder(root, params.path, REMEDY)
    paths = [files.require(place, stem, (".jsonl",), REMEDY) for stem in ("corpus", "queries")]
    judged = [path for split in SPLITS if (path := files.find(place / "qrels", split, (".tsv",)))]
    if not judged:
        raise SourceError(place / "qrels", "no judgments", expected="train.tsv, dev.tsv or test.tsv", remedy=REMEDY)
    documents, texts = _documents(paths[0]), _texts(paths[1])
    left = [path.name for path in sorted((place / "qrels").iterdir()) if path not in judged and not path.name.startswith((".", "_"))]
    rows = [(files.read(path, ["query-id", "corpus-id", "score"], quoting=params.quoting), path) for path in judged]
    parts = [_qrels(frame, path, params) for frame, path in rows]
    qrels = pl.concat([part for part, _ in parts])
    splits = _splits(qrels, texts, place / "qrels", paths[1])
    counts = {
        "equal judgments merged": sum(count for _, count in parts),
        "judgments of the query's own id": qrels.filter(pl.col("prompt_id") == pl.col("doc_id")).height,
    }
    itself = texts.select("prompt_id", pl.col("prompt_id").alias("doc_id")).join(documents, on="doc_id", how="semi")
    prompts = texts.join(splits, on="prompt_id").with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("history"))
    card = {
        "licence": "not stated in the files: see the collection's page",
        "inputs": files.hashes([*paths, *judged], place),
        "counts": counts,
        "notes": columns.check_gains(rows, "score", params.gains) + [f"prepare_data.path: not read: qrels/{name}" for name in left],
    }
    qrels = qrels.filter(pl.col("prompt_id") != pl.col("doc_id")).select("prompt_id", "doc_id", "relevance")
    return SourceData(documents, prompts.select("prompt_id", "split", "query", "history"), qrels, excluded=itself, card=card)


def _documents(path: Path) -> pl.DataFrame:
    corpus = files.read(path, ["_id", "text"])
    title = columns.text(corpus["title"], path) if "title" in corpus.columns else pl.lit("")
    return pl.DataFrame(
        [columns.ids(corpus, "_id", path, unique=True).alias("doc_id"), columns.required_text(corpus, "text", path).alias("text")]
    ).select("doc_id", title.alias("title"), "text", pl.lit("").alias("category"))


def _texts(path: Path) -> pl.DataFrame:
    queries = files.read(path, ["_id", "text"])
    return pl.DataFrame(
        [columns.ids(queries, "_id", path, unique=True).alias("prompt_id"), columns.required_text(queries, "text", path).alias("query")]
    )


def _splits(qrels: pl.DataFrame, texts: pl.DataFrame, where: Path, queries: Path) -> pl.DataFrame:
    """Return the split of each judged query, each in one and with a text."""
    splits = qrels.select("prompt_id", "split").unique(maintain_order=True)
    twice = splits.filter(pl.col("prompt_id").is_duplicated())
    if twice.height:
        found = f"query {twice['prompt_id'][0]} in {', '.join(twice.filter(pl.col('prompt_id') == twice['prompt_id'][0])['split'])}"
        raise SourceError(where, "one query is judged in two splits", found=found, expected="each query in one", remedy="keep one of them")
    untold = splits.join(texts, on="prompt_id", how="anti")
    if untold.height:
        found = f"query {untold['prompt_id'][0]} ({untold.height} such)"
        raise SourceError(queries, "a judged query has no text", found=found, expected="an entry for every query of qrels")
    return splits


def _qrels(frame: pl.DataFrame, path: Path, params: PrepareData) -> tuple[pl.DataFrame, int]:
    qrels, counts = columns.judgments(frame, ("query-id", "corpus-id", "score"), path, params.gains)
    return qrels.with_columns(pl.lit(opened.stem(path)).alias("split")), sum(counts.values())

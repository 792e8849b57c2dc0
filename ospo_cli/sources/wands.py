"""Wayfair's WANDS: products, queries and labels in three tab-separated files that are named .csv."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import columns, files
from ospo_cli.sources.base import SourceData
from ospo_cli.sources.markup import plain

GAINS = {"Exact": 1.0, "Partial": 0.5, "Irrelevant": 0.0}
REMEDY = "get product.csv, query.csv and label.csv from https://github.com/wayfair/WANDS, folder dataset"


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read the three files; category is product_class, and queries have no split.

    Raises:
        SourceError: a file or column is missing, an id is missing or twice there, a label is unknown.
    """
    del seed
    place = files.folder(root, params.path, REMEDY)
    paths = [files.require(place, stem, (".csv",), REMEDY) for stem in ("product", "query", "label")]
    products = files.read(
        paths[0], ["product_id", "product_name", "product_class", "product_description", "product_features"], "\t", None, params.quoting
    )
    queries = files.read(paths[1], ["query_id", "query"], "\t", None, params.quoting)
    labels = files.read(paths[2], ["query_id", "product_id", "label"], "\t", None, params.quoting)
    hierarchy = [products["category hierarchy"].alias("category_hierarchy")] if "category hierarchy" in products.columns else []
    documents = pl.DataFrame(
        [
            columns.ids(products, "product_id", paths[0], unique=True).alias("doc_id"),
            products["product_name"].alias("title"),
            products["product_class"].alias("category"),
            plain(products["product_description"]).alias("description"),
            products["product_features"].str.replace_all("|", "; ", literal=True).alias("features"),
            *hierarchy,
        ]
    )
    prompts = pl.DataFrame([columns.ids(queries, "query_id", paths[1], unique=True).alias("prompt_id"), queries["query"]])
    prompts = prompts.with_columns(pl.lit(None, dtype=pl.String).alias("split"), pl.lit([], dtype=pl.List(pl.String)).alias("history"))
    qrels, counts = columns.judgments(labels, ("query_id", "product_id", "label"), paths[2], GAINS | params.gains)
    notes = columns.check_gains([(labels, paths[2])], "label", params.gains)
    strangers = qrels.join(prompts, on="prompt_id", how="anti")
    if strangers.height:
        raise SourceError(paths[2], "unknown query", found=strangers["prompt_id"][0], expected="query_id of query.csv", remedy=REMEDY)
    card = {"licence": "MIT (WANDS, Wayfair)", "inputs": files.hashes(paths, place), "counts": counts, "notes": notes}
    return SourceData(documents, prompts, qrels, card=card)

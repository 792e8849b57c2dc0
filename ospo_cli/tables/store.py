"""Table of `ospo store`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Table

STORED_VALUES = Table(
    "stored_values",
    "what `ospo store export` writes: values by the hash of what they hang on (docs/store.md)",
    ("book", "key", "part"),
    (
        Column("book", pl.String, "fingerprint of retriever, catalogue, settings and metrics, hexadecimal"),
        Column("retriever", pl.String, "its name"),
        Column("documents", pl.Int32, "products of the catalogue"),
        Column("key", pl.String, "hash of pool, judgments and text, hexadecimal"),
        Column("part", pl.String, "metric, as in score_coalitions.metric"),
        Column("value", pl.Float64, "the metric"),
        Column("products", pl.List(pl.Int32), "first retrieved products (store.products), as indices into the doc_ids in ascending order"),
    ),
)

"""Table of `ospo rewrite`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import polars as pl

from ospo_cli.tables.declare import Column, Table

REWRITES = Table(
    "rewrites",
    "what became of each query of a file (`ospo rewrite`), in the file's order; also as CSV or JSON lines",
    ("row",),
    (
        Column("row", pl.Int64, "row or line of the input, from 1"),
        Column("query_id", pl.String, "as in the input; there only if the input has this column", nullable=True),
        Column("query", pl.String, "as in the input; empty where it is null"),
        Column("rewrite", pl.String, "the policy's greedy answer in one line, used or not; empty where there is none"),
        Column("engine_query", pl.String, "what the search engine is given: the composed query, or the raw query as it was"),
        Column("is_used", pl.Boolean, "whether that is the rewrite"),
        Column("why", pl.String, "rewritten, or why not (docs/rewrite.md)"),
        Column("mean_logprob", pl.Float64, "natural log-probability of the greedy completion, per token", nullable=True),
        Column("probability", pl.Float64, "of the greedy completion; null where the policy was not asked", nullable=True),
        Column(
            "best",
            pl.List(pl.Struct({"rewrite": pl.String, "probability": pl.Float64})),
            "with --best: the likeliest distinct rewrites, each with the probability of its sampled completions; CSV: as JSON",
        ),
        Column("milliseconds", pl.Float64, "with --milliseconds: of the batch, divided by its queries"),
        Column("query_top", pl.List(pl.String), "with --top: the first products of the raw query; CSV: as JSON"),
        Column("engine_top", pl.List(pl.String), "with --top: the first products of engine_query; CSV: as JSON"),
        Column("overlap", pl.Float64, "with --top: products in both lists, divided by the longer one's length; 1 where both are empty"),
    ),
)
_ANSWERED = ("query", "rewrite", "engine_query", "why", "mean_logprob", "probability", "best", "milliseconds")
# One shard of distinct queries. Milliseconds are those of the run that computed it.
ANSWERED = Table(
    "rewritten queries",
    "distinct queries of one shard",
    ("place",),
    (Column("place", pl.Int64, "from 0"), *(column for column in REWRITES.columns if column.name in _ANSWERED)),
)


def with_columns(names: Collection[str]) -> Table:
    """Return table rewrites with these of its columns."""
    return dataclasses.replace(REWRITES, columns=tuple(column for column in REWRITES.columns if column.name in names))

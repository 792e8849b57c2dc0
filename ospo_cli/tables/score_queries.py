"""Tables of stage score-queries."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

RAW_QUERY_VALUES = Table(
    "raw_query_values",
    "value of each user query by itself under the reward's retriever",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "retrieval reward of the raw query, 0 to 1"),
    ),
    place=Place("ospo score-queries", "once"),
)

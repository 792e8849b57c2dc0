"""Table of `ospo keep`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

KEPT_VALUES = Table(
    "kept_values",
    "value of each held-out prompt under the policies of a run that `ospo keep` put by, under the reward's metric and retriever",
    ("iteration", "decoding", "prompt_id"),
    (
        Column("iteration", pl.Int32, "of the policy; 0 is the warm start"),
        Column("decoding", pl.String, "greedy or sampled"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("value", pl.Float64, "mean over the samples"),
    ),
    place=Place("ospo keep NAME", "kept", "*/values.parquet"),
)

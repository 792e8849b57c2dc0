"""Tables of stage segment."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

SEGMENTS = Table(
    "segments",
    "the players: disjoint spans of the answer, in order",
    ("rollout_id", "segment_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("segment_index", pl.Int32, "from 0 within a rollout"),
        Column("union_index", pl.Int32, "block of the a-priori partition, from 0"),
        Column("start", pl.Int32, "first character within completion, from 0"),
        Column("end", pl.Int32, "character after the last"),
    ),
    place=Place("ospo segment --iter {iteration}", "iteration"),
)

"""Tables of `ospo headroom`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

MEASURED = Place("ospo headroom", "headroom")
HEADROOM = Table(
    "headroom",
    "what there is to gain before training, per retriever (`ospo headroom`)",
    ("retriever", "system"),
    (
        Column("retriever", pl.String, "name of the retriever"),
        Column("metric", pl.String, "of the rankings"),
        Column("split", pl.String, "split of the prompts"),
        Column(
            "system",
            pl.String,
            "raw query, RM3 and Bo1 feedback, best single edits, greedy edits, mean, choice and best of the samples, ideal ranking",
        ),
        Column("value", pl.Float64, "mean over prompts, 0 to 1"),
        Column("low", pl.Float64, "lower end of its 95 % bootstrap interval"),
        Column("high", pl.Float64, "upper end"),
        Column("gain", pl.Float64, "mean of the difference to the raw query, paired; null for the raw query", nullable=True),
        Column("gain_low", pl.Float64, "lower end of its interval", nullable=True),
        Column("gain_high", pl.Float64, "upper end", nullable=True),
        Column("p_value", pl.Float64, "of a two-sided sign-flip test of that difference", nullable=True),
        Column("improved", pl.Float64, "part of the prompts that do better than the raw query", nullable=True),
        Column("prompts", pl.Int32, "prompts behind the number"),
    ),
    place=MEASURED,
)
HEADROOM_QUERIES = Table(
    "headroom_queries",
    "the best query that was found for each prompt (`ospo headroom`)",
    ("retriever", "system", "prompt_id"),
    (
        Column("retriever", pl.String, "as in headroom"),
        Column("system", pl.String, "as in headroom"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("query", pl.String, "text that the retriever was given; empty where the system has no single one"),
        Column("value", pl.Float64, "metric of its ranking, 0 to 1"),
    ),
    place=MEASURED,
)

"""Tables of `ospo gate`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

GATE_CURVE = Table(
    "gate_curve",
    "what a policy gains and harms on held-out test queries, the more of them it rewrites (`ospo gate`)",
    ("policy", "share"),
    (
        Column("policy", pl.String, "number of the policy"),
        Column("share", pl.Float64, "share of the queries that are rewritten, those with the highest score first"),
        Column("gain", pl.Float64, "mean over all queries of what they are worth then, minus the raw query"),
        Column("gain_low", pl.Float64, "95 % bootstrap interval over prompts"),
        Column("gain_high", pl.Float64, "its upper end"),
        Column("harm", pl.Float64, "mean loss of the rewritten queries: raw query minus rewrite where that is above 0"),
        Column("worse", pl.Int32, "rewritten queries that are worth less than the raw query"),
        Column("better", pl.Int32, "rewritten queries that are worth more"),
        Column("is_chosen", pl.Boolean, "whether the gate's threshold rewrites this share"),
    ),
    place=Place("ospo gate", "gates", "*_curve.parquet"),
)

"""Table of `ospo advise`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

ADVICE = Table(
    "advice",
    "settings to try, from the noise of an iteration's gradients (`ospo advise`)",
    ("setting",),
    (
        Column("setting", pl.String, "section and name, as in params.yaml"),
        Column("now", pl.Float64, "its value"),
        Column("advised", pl.Float64, "what to try; equal to it where nothing speaks for a change"),
        Column("reason", pl.String, "one sentence"),
        Column("noise_scale", pl.Float64, "B of the project's own method, in rollout groups, from table gradient_audit"),
        Column("noise_scale_error", pl.Float64, "its standard error", nullable=True),
        Column("floor", pl.Float64, "B where every prompt's own gradient is exact; null where it was not measured", nullable=True),
    ),
    place=Place("ospo advise --iter {iteration}", "iteration"),
)

RATE_SEARCH = Table(
    "rate_search",
    "what learning rates gain on rollout groups that were not trained on (`ospo advise`)",
    ("learning_rate",),
    (
        Column("learning_rate", pl.Float64, "AdamW's"),
        Column("gain", pl.Float64, "mean over judging rollout groups of Σ w·(π/π_old − 1)·A, in units of advantage"),
        Column("gain_error", pl.Float64, "its standard error over them"),
        Column("kept", pl.Float64, "gain over what it would be if gains grew with the rate; null where no gain is shown", nullable=True),
        Column("groups_per_step", pl.Int32, "rollout groups of a step"),
        Column("trained_groups", pl.Int32, "rollout groups of each training"),
        Column("judging_groups", pl.Int32, "rollout groups that judged, over both trainings"),
    ),
    place=Place("ospo advise --iter {iteration}", "iteration"),
)

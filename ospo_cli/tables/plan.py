"""Table of `ospo plan`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

PAPER = "paper"  # in `rate_from` of counts that `ospo plan --cluster` makes and does not write
PLAN = Table(
    "plan",
    "what each stage is expected to take (`ospo plan`)",
    ("stage", "iteration"),
    (
        Column("stage", pl.String, "name of the command"),
        Column("iteration", pl.Int32, "from 1; 0 for stages that run once"),
        Column("units", pl.Int64, "how many"),
        Column("unit", pl.String, "of what: completions, distinct texts, steps, …"),
        Column("tokens", pl.Int64, "sampled or trained on, at most; 0 where they are not counted"),
        Column("seconds", pl.Float64, "expected on this machine (rule: on two shared cores of ours), also where the stage is up to date"),
        Column("cpu_seconds", pl.Float64, "of all threads"),
        Column("bytes", pl.Int64, "outputs that are expected to be written; without the cache and DVC's own copies"),
        Column("peak_bytes", pl.Int64, "largest memory of the process meanwhile"),
        Column(
            "rate_from",
            pl.String,
            "run: what the last run here took for a unit; sample: what a few prompts took now; rule: a rule of thumb",
        ),
        Column("is_current", pl.Boolean, "whether the stage is up to date: `ospo run` or `dvc repro` would skip it"),
    ),
    place=Place("ospo plan", "plan"),
)

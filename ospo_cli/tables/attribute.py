"""Tables of stage attribute."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

SHARED_OUT = Place("ospo attribute --iter {iteration}", "iteration")
ATTRIBUTIONS = Table(
    "attributions",
    "what each segment earned",
    ("rollout_id", "segment_index"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("segment_index", pl.Int32, "from 0 within a rollout"),
        Column(
            "share",
            pl.Float64,
            "φ, in units of reward; under splice, swap and stopping by the first other one of score_coalitions.estimators, or null",
            nullable=True,
        ),
        Column(
            "credit", pl.Float64, "what splice (δ), swap or stopping (A) learn from, in units of reward; null under others", nullable=True
        ),
        Column("n_contributions", pl.Int32, "marginals that share rests on; 0 where it was not evaluated"),
        Column("standard_error", pl.Float64, "of share; null where nothing is sampled", nullable=True),
        Column("special_case", pl.String, "empty, or the named case that applied (such as degenerate-group)"),
        Column("segment_advantage", pl.Float64, "sum of the advantages of the segment's tokens (weighted by overlap)"),
    ),
    place=SHARED_OUT,
)
INTERACTIONS = Table(
    "interactions",
    "Harsanyi dividends of the evaluated windows of two segments or more: what they earn together that no smaller window within earns",
    ("rollout_id", "first_segment", "last_segment"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("first_segment", pl.Int32, "segment_index of the window's first segment"),
        Column("last_segment", pl.Int32, "segment_index of the window's last segment"),
        Column("dividend", pl.Float64, "D of the window, in units of reward; windows without one (to 1e-9) are left out"),
    ),
    place=SHARED_OUT,
)
TOKEN_ADVANTAGES = Table(
    "token_advantages",
    "what update learns from",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("advantages", pl.List(pl.Float32), "one per sampled token id"),
    ),
    place=SHARED_OUT,
)
TARGETS = Table(
    "targets",
    "completions that an update with objective sft imitates",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("reward", pl.Float64, "its reward"),
    ),
    place=SHARED_OUT,
)
PREFERENCE_PAIRS = Table(
    "preference_pairs",
    "pairs of completions of one prompt that an update with objective dpo learns from",
    ("chosen_rollout_id", "rejected_rollout_id"),
    (
        Column("chosen_rollout_id", pl.String, "the one with the higher reward"),
        Column("rejected_rollout_id", pl.String, "the other"),
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("margin", pl.Float64, "reward of the chosen one minus that of the other, > 0"),
    ),
    place=SHARED_OUT,
)

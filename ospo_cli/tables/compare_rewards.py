"""Tables of `ospo compare-rewards`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

REWARD_COMPARISON = Table(
    "reward_comparison",
    "how two rewards of the same rollouts differ (`ospo compare-rewards`)",
    ("measure",),
    (
        Column("measure", pl.String, "what is compared"),
        Column("value", pl.Float64, "mean over the rollout groups that it is defined for; null where there is none", nullable=True),
        Column("low", pl.Float64, "lower end of the 95 % bootstrap interval over rollout groups", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("n", pl.Int32, "rollout groups behind the number"),
    ),
    place=Place("ospo compare-rewards A B --iter {iteration}", "rescored", "*/comparison.parquet"),
)
REWARD_COMPARISON_GROUPS = Table(
    "reward_comparison_groups",
    "the same, one row per rollout group; null where a measure is not defined, such as an order of equal rewards",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("rollouts", pl.Int32, "in the group"),
        Column("mean_a", pl.Float64, "mean reward under A"),
        Column("mean_b", pl.Float64, "mean reward under B"),
        Column("kendall", pl.Float64, "τ-b of the rewards", nullable=True),
        Column("spearman", pl.Float64, "rank correlation of the rewards", nullable=True),
        Column("best_changes", pl.Float64, "1 where no best answer under A is a best one under B, else 0", nullable=True),
        Column(
            "advantages_turned",
            pl.Float64,
            "part of the answers above the mean under one, below it under the other",
            nullable=True,
        ),
        Column("share_spearman", pl.Float64, "rank correlation of an answer's shares, mean over answers", nullable=True),
        Column("shares_turned", pl.Float64, "part of an answer's segments with shares of opposite signs, mean over answers", nullable=True),
        Column("best_segment_changes", pl.Float64, "part of the answers whose largest share is another segment's", nullable=True),
    ),
    place=Place("ospo compare-rewards A B --iter {iteration}", "rescored", "*/comparison_groups.parquet"),
)

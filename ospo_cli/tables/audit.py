"""Tables of `ospo audit`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

AUDIT = Table(
    "audit",
    "what `ospo audit` measured of each estimator on an iteration's rollouts (docs/audit.md)",
    ("estimator", "check", "measure"),
    (
        Column("estimator", pl.String, "as in attribute.estimator"),
        Column("check", pl.String, "what is checked, such as null player"),
        Column("measure", pl.String, "which number of it, such as largest |share|; a retriever's name for check leave-one-out"),
        Column("value", pl.Float64, "mean or largest over rollouts; null where no rollout was fit for the check", nullable=True),
        Column("low", pl.Float64, "lower end of a mean's 95 % bootstrap interval over rollouts; null for a largest value", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("n", pl.Int32, "rollouts behind the number"),
    ),
    place=Place("ospo audit --iter {iteration}", "iteration"),
)
AUDIT_CURVES = Table(
    "audit_curves",
    "mean value while the segments of the audited rollouts leave (deletion) or enter (insertion), largest share first",
    ("estimator", "curve", "part"),
    (
        Column("estimator", pl.String, "as in attribute.estimator; random orders is the control"),
        Column("curve", pl.String, "deletion or insertion"),
        Column("part", pl.Float64, "part of the segments that has left or entered, 0 to 1"),
        Column("value", pl.Float64, "mean over rollouts; between segments by straight lines"),
        Column("n", pl.Int32, "rollouts behind the number"),
    ),
    place=Place("ospo audit --iter {iteration}", "iteration"),
)
GRADIENT_AUDIT = Table(
    "gradient_audit",
    "what `ospo audit --gradients` measured: do two halves of a rollout group ask for the same step (docs/audit.md)",
    ("estimator", "rule", "measure"),
    (
        Column("estimator", pl.String, "as in attribute.estimator; any for a rule that reads no shares"),
        Column("rule", pl.String, "as in attribute.rule; uniform is GRPO"),
        Column("measure", pl.String, "agreement, agreement with GRPO, scaled error, error to exact, direction or silent"),
        Column("value", pl.Float64, "mean over prompts, or one number of all prompts; null where it is not defined", nullable=True),
        Column("low", pl.Float64, "lower end of its 95 % bootstrap interval over prompts", nullable=True),
        Column("high", pl.Float64, "upper end", nullable=True),
        Column("deviation", pl.Float64, "standard deviation over prompts; null for one number of all prompts", nullable=True),
        Column("over_uniform", pl.Float64, "minus that of rule uniform", nullable=True),
        Column("over_low", pl.Float64, "lower end of the difference's 95 % bootstrap interval, paired by prompt", nullable=True),
        Column("over_high", pl.Float64, "upper end", nullable=True),
        Column("p_value", pl.Float64, "of the paired sign-flip test, two-sided; null for one number of all prompts", nullable=True),
        Column("n", pl.Int32, "prompts behind the number"),
    ),
    place=Place("ospo audit --iter {iteration} --gradients", "iteration"),
)

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
    "what `ospo audit --gradients` measured: noise and direction of the gradient that each way of giving credit makes (docs/audit.md)",
    ("estimator", "rule", "normalize", "tokens", "measure", "groups"),
    (
        Column("estimator", pl.String, "as in attribute.estimator; any for a rule that reads no shares"),
        Column("rule", pl.String, "as in attribute.rule; uniform is GRPO"),
        Column("normalize", pl.String, "as in attribute.normalize; uniform with none is the gradient of the expected reward"),
        Column("tokens", pl.String, "whose gradient: all, segments, separators, stop, tags or thinking"),
        Column(
            "measure",
            pl.String,
            "signal; squared length; noise scale; direction; direction, own normalisation; direction, same tokens; floor; progress; saving",
        ),
        Column("groups", pl.Int32, "rollout groups per step that progress or saving are of; 0 for other measures"),
        Column("value", pl.Float64, "null where the gradient has no signal (signal at most 2), or it cannot be measured", nullable=True),
        Column("standard_error", pl.Float64, "of the value, by jackknife over prompts; null where there is none", nullable=True),
        Column("n", pl.Int32, "prompts behind the number"),
    ),
    place=Place("ospo audit --iter {iteration} --gradients", "iteration"),
)

"""Tables of `ospo lab`."""

from __future__ import annotations

import polars as pl

from ospo_cli.tables.declare import Column, Place, Table

LAB = Place("ospo lab", "lab")
LAB_CONVERGENCE = Table(
    "lab_convergence",
    "where each rule leads a policy on small decision problems, along exact expected gradients (`ospo lab`)",
    ("problem", "outside", "estimator", "rule"),
    (
        Column("problem", pl.String, "name of the decision problem"),
        Column("outside", pl.String, "what tokens of no segment get: sequence or zero; - where every token lies in a segment"),
        Column("estimator", pl.String, "of the shares"),
        Column("rule", pl.String, "from shares to token advantages"),
        Column("start_reward", pl.Float64, "J before the first step"),
        Column("end_reward", pl.Float64, "J after the last step"),
        Column("best_reward", pl.Float64, "the largest J that a policy can reach"),
        Column("steps", pl.Int32, "steps taken, all of one size"),
        Column("steps_to_95", pl.Int32, "steps to 95 % of the way from start to end; null where J did not rise", nullable=True),
        Column("steps_to_level", pl.Int32, "steps to 95 % of best_reward, and never below again; null where not reached", nullable=True),
        Column("first_gradient", pl.Float64, "length of the expected gradient at the start: how much of the pace is step size"),
        Column("last_gradient", pl.Float64, "and at the end"),
    ),
    place=LAB,
)
LAB_CURVES = Table(
    "lab_curves",
    "the way there: expected reward by step (`ospo lab`)",
    ("problem", "outside", "estimator", "rule", "step"),
    (
        Column("problem", pl.String, "as in lab_convergence"),
        Column("outside", pl.String, "as in lab_convergence"),
        Column("estimator", pl.String, "as in lab_convergence"),
        Column("rule", pl.String, "as in lab_convergence"),
        Column("step", pl.Int32, "steps taken so far"),
        Column("expected_reward", pl.Float64, "J"),
    ),
    place=LAB,
)
LAB_GRADIENT_QUALITY = Table(
    "lab_gradient_quality",
    "how well the gradient of one rollout group points along the exact one, means over seeds (`ospo lab`)",
    ("interaction", "segments", "group_size", "noise", "estimator", "rule"),
    (
        Column("interaction", pl.String, "how words earn together: additive, pairs, substitutes"),
        Column("segments", pl.Int32, "n, words of the answer"),
        Column("group_size", pl.Int32, "G, completions per rollout group"),
        Column("noise", pl.Float64, "standard deviation of the noise of every value, in those of the reward"),
        Column("estimator", pl.String, "of the shares"),
        Column("rule", pl.String, "from shares to token advantages"),
        Column("seeds", pl.Int32, "problems drawn, one rollout group each"),
        Column("cosine", pl.Float64, "mean cosine of estimated and exact gradient; a gradient of 0 counts as 0"),
        Column("cosine_standard_error", pl.Float64, "of that mean"),
        Column("squared_error", pl.Float64, "mean squared error under the one best scale, in units of the exact gradient's mean square"),
        Column("squared_error_standard_error", pl.Float64, "of that mean"),
        Column("silent_share", pl.Float64, "part of the rollout groups whose gradient is 0"),
        Column("behind_best", pl.Float64, "cosine of the best rule of the same condition and estimator, minus this one's"),
        Column("behind_standard_error", pl.Float64, "of that difference, paired by seed"),
        Column("is_tied", pl.Boolean, "the difference may be chance (5 % over all rules together, Bonferroni)"),
        Column("over_uniform", pl.Float64, "cosine minus that of rule uniform (GRPO); null where it did not run", nullable=True),
        Column("over_uniform_standard_error", pl.Float64, "of that difference, paired by seed", nullable=True),
    ),
    place=LAB,
)
LAB_NOISE = Table(
    "lab_noise",
    "noise scale, direction and floor of rules and group games where the true gradient is known (`ospo lab`)",
    ("interaction", "segments", "group_size", "estimator", "rule"),
    (
        Column("interaction", pl.String, "how words earn together: additive, pairs, substitutes"),
        Column("segments", pl.Int32, "n, words of the answer"),
        Column("group_size", pl.Int32, "G, completions per rollout group"),
        Column("estimator", pl.String, "of the shares; or splice(λ), swap"),
        Column("rule", pl.String, "from shares to token advantages; none for splice, swap and stopping"),
        Column("seeds", pl.Int32, "prompts drawn, two rollout groups each; they share the policy's logits"),
        Column("true_floor", pl.Float64, "noise scale of the exact gradients of the prompts"),
        Column("noise_scale", pl.Float64, "B, in rollout groups; null where there is no signal, as all that follow", nullable=True),
        Column("noise_scale_standard_error", pl.Float64, "by jackknife over prompts, as all that follow", nullable=True),
        Column("direction", pl.Float64, "cosine of the expected gradient with the exact one, prompt by prompt", nullable=True),
        Column("direction_standard_error", pl.Float64, "of it", nullable=True),
        Column("floor", pl.Float64, "noise scale where every prompt's own gradient is exact", nullable=True),
        Column("floor_standard_error", pl.Float64, "of it", nullable=True),
        Column("progress", pl.Float64, "what a step of 16 groups gains, where the exact gradient gains 1", nullable=True),
        Column("progress_standard_error", pl.Float64, "of it", nullable=True),
    ),
    place=LAB,
)

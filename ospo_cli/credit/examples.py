"""Which completions an update imitates, and which it prefers to which: from rewards alone."""

from __future__ import annotations

import polars as pl

from ospo_cli.params.attribute import Attribute
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS

ROUNDING = 1e-9  # of a mean


def targets(rollouts: pl.DataFrame, rewards: pl.DataFrame, settings: Attribute) -> pl.DataFrame:
    """Return table targets: of each rollout group the best completion, those above the group's mean reward, or all.

    Those that earn no more than `targets_above` are left out, and of completions with equal tokens all but the first: what was sampled
    twice is not twice as right.

    Args:
        rollouts: table rollouts.
        rewards: table rewards of the same rollouts.
        settings: section attribute.
    """
    known = _with_rewards(rollouts, rewards).unique(["prompt_id", "token_ids"], keep="first", maintain_order=True)
    if settings.targets_above is not None:
        known = known.filter(pl.col("reward") > settings.targets_above)
    if settings.targets == "best":
        known = known.sort(pl.col("reward"), descending=True, maintain_order=True).unique("prompt_id", keep="first", maintain_order=True)
    if settings.targets == "above-mean":
        means = rewards.group_by("prompt_id").agg(pl.col("reward").mean().alias("mean"))
        known = known.join(means, on="prompt_id").filter(pl.col("reward") > pl.col("mean") + ROUNDING)
    return known.select(*TARGETS.schema).sort(TARGETS.key)


def preference_pairs(rollouts: pl.DataFrame, rewards: pl.DataFrame, settings: Attribute) -> pl.DataFrame:
    """Return table preference_pairs: of each rollout group the best with the worst completion, or every two whose rewards differ.

    Pairs whose rewards differ by no more than `pairs_margin` are left out; of completions with equal tokens the first stands for all.

    Args:
        rollouts: table rollouts.
        rewards: table rewards of the same rollouts.
        settings: section attribute.
    """
    known = _with_rewards(rollouts, rewards).unique(["prompt_id", "token_ids"], keep="first", maintain_order=True)
    ranked = known.sort(pl.col("reward"), descending=True, maintain_order=True).select("rollout_id", "prompt_id", "reward")
    if settings.pairs == "best-worst":
        best = ranked.unique("prompt_id", keep="first", maintain_order=True)
        worst = ranked.unique("prompt_id", keep="last", maintain_order=True)
    else:
        best = worst = ranked
    pairs = best.rename({"rollout_id": "chosen_rollout_id"}).join(
        worst.rename({"rollout_id": "rejected_rollout_id", "reward": "other"}), on="prompt_id"
    )
    pairs = pairs.with_columns(margin=pl.col("reward") - pl.col("other")).filter(pl.col("margin") > settings.pairs_margin)
    return pairs.select(*PREFERENCE_PAIRS.schema).sort(PREFERENCE_PAIRS.key)


def _with_rewards(rollouts: pl.DataFrame, rewards: pl.DataFrame) -> pl.DataFrame:
    ordered = rollouts.sort("prompt_id", "sample_index").select("rollout_id", "prompt_id", "token_ids")
    return ordered.join(rewards.select("rollout_id", "reward"), on="rollout_id", maintain_order="left")

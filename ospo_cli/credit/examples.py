"""Which completions an update imitates, and which it prefers to which: from rewards alone."""

from __future__ import annotations

import polars as pl

from ospo_cli.credit.rollout_rows import REWARD_TOLERANCE
from ospo_cli.errors import CreditError
from ospo_cli.params.attribute import Attribute
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS
from ospo_cli.tables.score_coalitions import RECOMBINED

ROUNDING = 1e-9  # of a mean
NOTHING_MADE = RECOMBINED.empty()


def targets(rollouts: pl.DataFrame, rewards: pl.DataFrame, settings: Attribute, made: pl.DataFrame = NOTHING_MADE) -> pl.DataFrame:
    """Return table targets: of each rollout group the best completion, those above the group's mean reward, all, or the one made of them.

    Those that earn no more than `targets_above` are left out, and of completions with equal tokens all but the first: what was sampled
    twice is not twice as right.

    Args:
        rollouts: table rollouts.
        rewards: table rewards of the same rollouts.
        settings: section attribute.
        made: table recombined of the same rollouts.
    """
    known = _with_rewards(rollouts, rewards).unique(["prompt_id", "token_ids"], keep="first", maintain_order=True).drop("token_ids")
    if settings.targets == "recombined":
        known = pl.concat([_made_answers(made), known])
    if settings.targets_above is not None:
        known = known.filter(pl.col("reward") > settings.targets_above)
    if settings.targets in ("best", "recombined"):
        known = known.sort(pl.col("reward"), descending=True, maintain_order=True).unique("prompt_id", keep="first", maintain_order=True)
    if settings.targets == "above-mean":
        means = rewards.group_by("prompt_id").agg(pl.col("reward").mean().alias("mean"))
        known = known.join(means, on="prompt_id").filter(pl.col("reward") > pl.col("mean") + ROUNDING)
    return known.select(*TARGETS.schema).sort(TARGETS.key)


def preference_pairs(rollouts: pl.DataFrame, rewards: pl.DataFrame, settings: Attribute, made: pl.DataFrame = NOTHING_MADE) -> pl.DataFrame:
    """Return table preference_pairs: of each rollout group the best (or the made) with the worst, or every two whose rewards differ.

    Pairs whose rewards differ by no more than `pairs_margin` are left out; of completions with equal tokens the first stands for all.

    Args:
        rollouts: table rollouts.
        rewards: table rewards of the same rollouts.
        settings: section attribute.
        made: table recombined of the same rollouts.
    """
    known = _with_rewards(rollouts, rewards).unique(["prompt_id", "token_ids"], keep="first", maintain_order=True).drop("token_ids")
    if settings.pairs == "recombined-worst":
        known = pl.concat([_made_answers(made), known])
    ranked = known.sort(pl.col("reward"), descending=True, maintain_order=True).select("rollout_id", "prompt_id", "reward")
    if settings.pairs != "all":
        best = ranked.unique("prompt_id", keep="first", maintain_order=True)
        worst = ranked.unique("prompt_id", keep="last", maintain_order=True)
    else:
        best = worst = ranked
    pairs = best.rename({"rollout_id": "chosen_rollout_id"}).join(
        worst.rename({"rollout_id": "rejected_rollout_id", "reward": "other"}), on="prompt_id"
    )
    pairs = pairs.with_columns(margin=pl.col("reward") - pl.col("other")).filter(pl.col("margin") > settings.pairs_margin)
    return pairs.select(*PREFERENCE_PAIRS.schema).sort(PREFERENCE_PAIRS.key)


def asks_for_made(settings: Attribute, most_moves: int, iteration: int) -> bool:
    """Return whether table recombined is read; raise CreditError where `score_coalitions.recombine` (most moves) says to make none."""
    asked = [f"{name}: {value}" for name, value in (("targets", settings.targets), ("pairs", settings.pairs)) if "recombined" in value]
    if asked and not most_moves:
        raise CreditError(
            f"attribute.{asked[0]}", "no recombined answers were made", found="score_coalitions.recombine: 0",
            expected="above 0, such as 8", remedy=f"set it in params.yaml and run `{RECOMBINED.command(iteration)}`",
        )  # fmt: skip
    return bool(asked)


def check_made(rewards: pl.DataFrame, made: pl.DataFrame, format_weight: float, iteration: int) -> None:
    """Raise CreditError where recombined answers are of other rollouts, or were made under another reward than table rewards."""
    remedy = f"run `{RECOMBINED.command(iteration)}` again"
    strangers = made.join(rewards, left_on=["start_rollout_id", "prompt_id"], right_on=["rollout_id", "prompt_id"], how="anti")
    if strangers.height:
        raise CreditError(
            "table recombined", "holds other rollouts than rollouts.parquet", found=strangers["start_rollout_id"][0],
            expected="the same", remedy=remedy,
        )  # fmt: skip
    best = rewards.group_by("prompt_id").agg(best=(pl.col("reward") - format_weight * pl.col("format")).max())
    odd = made.join(best, on="prompt_id").filter((pl.col("best_value") - pl.col("best")).abs() > REWARD_TOLERANCE)
    if odd.height:
        first = odd.sort("rollout_id").row(0, named=True)
        raise CreditError(
            f"table recombined, {first['rollout_id']}", "best_value is not what the group's best answer is worth: values of another reward",
            found=f"{first['best_value']:.9g}", expected=f"{first['best']:.9g}", remedy=remedy,
        )  # fmt: skip


def _made_answers(made: pl.DataFrame) -> pl.DataFrame:
    return made.select("rollout_id", "prompt_id", reward=pl.col("recombined_value"))


def _with_rewards(rollouts: pl.DataFrame, rewards: pl.DataFrame) -> pl.DataFrame:
    ordered = rollouts.sort("prompt_id", "sample_index").select("rollout_id", "prompt_id", "token_ids")
    return ordered.join(rewards.select("rollout_id", "reward"), on="rollout_id", maintain_order="left")

"""Rows that nobody sampled beside an iteration's rollouts: recombined answers, and targets that a policy gradient imitates."""

from __future__ import annotations

from collections.abc import Callable, Collection

import polars as pl

from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame
from ospo_cli.training.encoded_texts import EncodedTexts


def with_made(rollouts: pl.DataFrame, made: pl.DataFrame, named: Collection[str], tokenizer: Callable[[], LoadedPolicy]) -> pl.DataFrame:
    """Return the rollouts, and behind them the recombined answers that are named, log-probabilities 0.

    Args:
        rollouts: table rollouts.
        made: table recombined.
        named: rollout ids, of both tables.
        tokenizer: opens the policy, of which only the tokenizer is used.

    Raises:
        PolicyError: a made answer does not fit the policy's context.
    """
    chosen = made.filter(pl.col("rollout_id").is_in(list(named)))
    if not chosen.height:
        return rollouts
    prompts, policy = dict(rollouts.select("prompt_id", "prompt_token_ids").iter_rows()), tokenizer()
    texts = EncodedTexts(policy, {})
    texts.rendered = prompts
    rows = []
    for name, prompt_id, completion in chosen.select("rollout_id", "prompt_id", "completion").iter_rows():
        prompt, ids = texts.ids(prompt_id, completion, f"table recombined, {name}")
        rows.append(RolloutRow(name, prompt_id, 0, prompt, completion, ids, [0.0] * len(ids), "stop"))
    return _behind(rollouts, rollouts_frame(rows))


def with_targets(
    rollouts: pl.DataFrame, advantages: pl.DataFrame, targets: pl.DataFrame, weight: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rollouts and token advantages, and behind them each target as a row of its own, `weight` on each of its tokens.

    Args:
        rollouts: of `with_made`.
        advantages: table token_advantages.
        targets: rollout ids.
        weight: update.imitation_weight.
    """
    sampled = rollouts.join(advantages.select("rollout_id"), on="rollout_id", how="semi", maintain_order="left")
    name = pl.format("target:{}", "rollout_id")
    rows = rollouts.join(targets.select("rollout_id"), on="rollout_id", how="semi", maintain_order="left").with_columns(name)
    marks = [[weight] * len(ids) for ids in rows["token_ids"].to_list()]
    marked = pl.DataFrame({"rollout_id": rows["rollout_id"], "advantages": marks}, schema=TOKEN_ADVANTAGES.schema)
    return _behind(sampled, rows), pl.concat([advantages, marked])


def _behind(rollouts: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    # Each prompt's further rows are numbered on from its rollouts'.
    last = rollouts.group_by("prompt_id").agg(last=pl.col("sample_index").max())
    number = (pl.int_range(1, pl.len() + 1).over("prompt_id") + pl.col("last")).cast(ROLLOUTS.schema["sample_index"])
    numbered = rows.join(last, on="prompt_id", maintain_order="left").with_columns(sample_index=number).select(rollouts.columns)
    return pl.concat([rollouts, numbered])

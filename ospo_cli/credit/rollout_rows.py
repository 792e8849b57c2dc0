"""The rollouts of an iteration and their segments as flat arrays; tables that do not belong together are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.advantages import GroupAdvantages, group_advantages
from ospo_cli.params.attribute import Attribute

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

REWARD_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Rows:
    """The rollouts by id, with their segments flat, as arrays.

    Attributes:
        rollout_ids, completions, token_ids: [rows] of table rollouts.
        answer_start: [rows] first character of the answer.
        group: [rows] number of the rollout group.
        segments: [rows] number of segments.
        segment_row, segment_start, segment_end, segment_union: [segments] row, span within the completion, block of the partition.
    """

    rollout_ids: list[str]
    completions: list[str]
    token_ids: list[list[int]]
    answer_start: list[int]
    group: Indices
    segments: Indices
    segment_row: Indices
    segment_start: Indices
    segment_end: Indices
    segment_union: Indices

    @property
    def first_segment(self) -> Indices:
        """[rows] index of each row's first segment."""
        return np.cumsum(self.segments) - self.segments


def rollout_rows(rollouts: pl.DataFrame, segments: pl.DataFrame, iteration: int) -> Rows:
    """Return the rows by rollout id; raise CreditError where segments are of other rollouts or not numbered from 0 without gaps."""
    rollouts = rollouts.sort("rollout_id")
    ids = rollouts["rollout_id"]
    unknown = segments.filter(~pl.col("rollout_id").is_in(ids.implode()))
    if unknown.height:
        raise CreditError(
            f"segments, rollout {unknown['rollout_id'][0]}", "no such rollout", remedy=f"run `ospo segment --iter {iteration}` again"
        )
    numbered = pl.DataFrame({"rollout_id": ids, "row": pl.Series(np.arange(len(ids)), dtype=pl.Int64)})
    ordered = segments.join(numbered, on="rollout_id", how="left").sort("row", "segment_index")
    segment_row = ordered["row"].to_numpy().astype(np.int64)
    count = np.bincount(segment_row, minlength=len(ids)).astype(np.int64)
    expected = np.arange(len(segment_row)) - np.repeat(np.cumsum(count) - count, count)
    wrong = np.flatnonzero(ordered["segment_index"].to_numpy() != expected)
    if len(wrong):
        raise CreditError(f"segments, rollout {ordered['rollout_id'][int(wrong[0])]}", "segment_index does not run from 0 without gaps")
    return Rows(
        rollout_ids=ids.to_list(),
        completions=rollouts["completion"].to_list(),
        token_ids=rollouts["token_ids"].to_list(),
        answer_start=rollouts["answer_start"].to_list(),
        group=(rollouts["prompt_id"].rank("dense").cast(pl.Int64) - 1).to_numpy(),
        segments=count,
        segment_row=segment_row,
        segment_start=ordered["start"].to_numpy().astype(np.int64),
        segment_end=ordered["end"].to_numpy().astype(np.int64),
        segment_union=ordered["union_index"].to_numpy().astype(np.int64),
    )


@dataclass(frozen=True)
class Compared:
    """Rewards against those that they are compared with.

    Attributes:
        reward: [rows] R.
        format_part: [rows] what no text can earn of it, weighted.
        advantage: [rows] Â, its scale, and where there is none.
        is_degenerate: [rows] rollout group of equal rewards, whose coalitions nobody evaluated.
    """

    reward: Values
    format_part: Values
    advantage: GroupAdvantages
    is_degenerate: NDArray[np.bool_]


def compared_rewards(rows: Rows, rewards: pl.DataFrame, format_weight: float, settings: Attribute, iteration: int) -> Compared:
    """Return the rewards of the rows and their advantages over their rollout group, or over all rollouts (baseline: batch).

    Raises:
        CreditError: rewards of other rollouts, or a degenerate flag where rewards differ.
    """
    rewards = rewards.sort("rollout_id")
    if rewards["rollout_id"].to_list() != rows.rollout_ids:
        raise _others("rewards", sorted(set(rewards["rollout_id"]) ^ set(rows.rollout_ids))[0], iteration)
    reward = rewards["reward"].to_numpy().astype(np.float64)
    advantage = group_advantages(reward, rows.group, settings.normalize)
    is_degenerate = _degenerate_rows(advantage, rewards["is_degenerate_group"].to_numpy(), rows, reward)
    if settings.baseline == "batch":  # rule uniform alone: a rollout group of equal rewards then has an advantage, but no shares
        advantage = group_advantages(reward, np.zeros_like(rows.group), settings.normalize)
    else:
        advantage = replace(advantage, advantage=np.where(is_degenerate, 0.0, advantage.advantage), is_degenerate=is_degenerate)
    return Compared(reward, format_weight * rewards["format"].to_numpy().astype(np.float64), advantage, is_degenerate)


def check_own(table: pl.DataFrame, rollout_ids: list[str], name: str, iteration: int) -> None:
    """Refuse a table that names a rollout which is not among these; it need not name all."""
    strangers = table.filter(~pl.col("rollout_id").is_in(rollout_ids))["rollout_id"]
    if len(strangers):
        raise _others(name, strangers[0], iteration)


def _others(name: str, odd: str, iteration: int) -> CreditError:
    remedy = f"run `ospo score-coalitions --iter {iteration}` again"
    where, found = f"table {name}", f"{odd} in one of them"
    return CreditError(where, "holds other rollouts than rollouts.parquet", found=found, expected="the same", remedy=remedy)


def _degenerate_rows(advantage: GroupAdvantages, declared: NDArray[np.bool_], rows: Rows, value: Values) -> NDArray[np.bool_]:
    """Take the declared flag (no coalitions were evaluated there) and whatever else has no differences; refuse a flag that is false."""
    n_groups = int(rows.group.max(initial=-1)) + 1
    low, high = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(low, rows.group, value)
    np.maximum.at(high, rows.group, value)
    wrong = np.flatnonzero(declared & ((high - low)[rows.group] > REWARD_TOLERANCE))
    if len(wrong):
        raise CreditError(
            f"rewards, rollout {rows.rollout_ids[int(wrong[0])]}", "is_degenerate_group is true, but the rollout group's rewards differ"
        )
    return np.asarray(declared | advantage.is_degenerate)

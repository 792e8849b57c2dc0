"""Rollouts that go on until a batch is full: stage rollout with the rewards that score-coalitions gives (DAPO's dynamic sampling)."""

from __future__ import annotations

from typing import Any

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.rewards.answers import score_answers
from ospo_cli.rewards.opening import open_reward
from ospo_cli.stages import rollout


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Sample an iteration's rollout groups, and further ones for those of equal rewards, in at most rollout.further_rounds rounds.

    All groups are kept, those of equal rewards too; `update.groups: alive` leaves these out. The rewards are those that `ospo
    score-coalitions` writes, so that a change of reward changes the rollouts: the graph knows.
    """
    reward = open_reward(layout, params)

    def count_alive(rollouts: pl.DataFrame) -> int:
        rewards = score_answers(rollouts, reward, params.score_coalitions)
        return rewards.filter(~pl.col("is_degenerate_group"))["prompt_id"].n_unique()

    return rollout.execute(layout, params, iteration, count_alive)

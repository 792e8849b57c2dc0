"""How many rollout groups have unequal rewards: what decides where dynamic sampling goes on."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.rewards.answers import score_answers
from ospo_cli.rewards.judged_reward import Sections
from ospo_cli.rewards.opening import open_reward


def counter(layout: Layout, params: Sections) -> Callable[[pl.DataFrame], int]:
    """Return table rollouts of whole groups -> the number of groups with unequal rewards, as `ospo score-coalitions` gives them."""
    reward = open_reward(layout, params)

    def count_alive(rollouts: pl.DataFrame) -> int:
        rewards = score_answers(rollouts, reward, params.score_coalitions)
        return rewards.filter(~pl.col("is_degenerate_group"))["prompt_id"].n_unique()

    return count_alive

"""Group advantages and prefix advantages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.shaping import centred_by_position, prefix_advantages

REWARDS = st.lists(st.floats(-1, 1), min_size=2, max_size=8)


def test_group_advantage_is_reward_minus_mean_over_sample_deviation_and_epsilon() -> None:
    rewards = np.array([0.1, 0.4, 0.7, 0.2, 0.9])
    group = np.array([0, 0, 0, 1, 1])
    result = group_advantages(rewards, group)
    assert result.advantage[:3] == pytest.approx((rewards[:3] - rewards[:3].mean()) / (rewards[:3].std(ddof=1) + 1e-4))
    assert result.scale[3] == pytest.approx(rewards[3:].std(ddof=1) + 1e-4)


def test_without_normalising_the_deviation_is_left_out() -> None:
    result = group_advantages(np.array([0.0, 1.0]), np.array([0, 0]), "none")
    assert result.advantage.tolist() == [-0.5, 0.5]
    assert result.scale.tolist() == [1.0, 1.0]


@given(reward=st.floats(-1, 1), size=st.integers(1, 9))
def test_equal_rewards_are_degenerate_whatever_they_are(reward: float, size: int) -> None:
    result = group_advantages(np.full(size, reward), np.zeros(size, dtype=np.int64))
    assert result.is_degenerate.all()
    assert not result.advantage.any()


@given(rewards=REWARDS, normalize=st.sampled_from(["std", "none"]))
def test_advantages_of_a_group_sum_to_zero(rewards: list[float], normalize: str) -> None:
    assert group_advantages(np.array(rewards), np.zeros(len(rewards), dtype=np.int64), normalize).advantage.sum() == pytest.approx(
        0, abs=1e-7
    )


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(CreditError, match="reward of row 1"):
        group_advantages(np.array([0.0, np.nan]), np.array([0, 0]))


@settings(max_examples=40)
@given(values=st.lists(st.floats(-1, 1), min_size=2, max_size=7), terminal=st.floats(-1, 1), trace=st.floats(0, 1))
def test_prefix_advantages_are_discounted_sums_of_the_steps_that_follow(values: list[float], terminal: float, trace: float) -> None:
    steps = [*np.diff(values), terminal]
    expected = [sum(trace**later * step for later, step in enumerate(steps[at:])) for at in range(len(values) - 1)]
    assert prefix_advantages(np.array([values]), np.array([terminal]), trace)[0] == pytest.approx(expected, abs=1e-9)


@given(values=st.lists(st.floats(-1, 1), min_size=2, max_size=7), terminal=st.floats(-1, 1))
def test_with_a_full_trace_a_segment_gets_the_reward_less_the_value_of_what_stands_before_it(values: list[float], terminal: float) -> None:
    reward = values[-1] + terminal
    assert prefix_advantages(np.array([values]), np.array([terminal]), 1.0)[0] == pytest.approx(reward - np.array(values[:-1]), abs=1e-9)


def test_positions_are_centred_over_all_answers_those_that_ended_with_what_they_still_had_to_come() -> None:
    # Group 0: answers of 2 and 1 segments and an empty one; group 1: one of 1.
    centred = centred_by_position(
        advantages=np.array([0.9, 0.5, 0.3, 7.0]),
        segment_row=np.array([0, 0, 1, 3]),
        position=np.array([0, 1, 0, 0]),
        group=np.array([0, 0, 0, 1]),
        terminal=np.array([0.0, -0.1, -0.2, 0.0]),
    )
    assert centred == pytest.approx([0.9 - 1.0 / 3, 0.5 - 0.2 / 3, 0.3 - 1.0 / 3, 0.0])

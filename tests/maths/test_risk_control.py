"""Betting p-values and fixed sequences: errors stay below their level for any distribution, and what is clearly safe passes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import OspoError
from ospo_cli.maths.risk_control import betting_p, passed

LAWS = {
    "rare and large": lambda draw, size, mean: (draw.random(size) < mean).astype(float),
    "even": lambda draw, size, mean: np.minimum(draw.random(size) * 2 * mean, 1.0),
    "constant": lambda draw, size, mean: np.full(size, mean),
    "mixed": lambda draw, size, mean: (draw.random(size) < 0.5) * draw.beta(1, 0.5 / mean - 1, size),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("size", [20, 128])
def test_at_the_bound_a_false_rejection_is_no_more_frequent_than_its_level(law, size):
    draw = np.random.default_rng(0)
    p_values = np.array([betting_p(LAWS[law](draw, size, 0.05), 0.05) for _ in range(3000)])
    for level in (0.01, 0.1, 0.3):
        assert np.mean(p_values <= level) < level + 3 * np.sqrt(level / 3000)


def test_what_is_far_below_the_bound_is_seen_with_a_hundred_queries():
    draw = np.random.default_rng(1)
    assert np.mean([betting_p(LAWS["rare and large"](draw, 128, 0.01), 0.05) < 0.1 for _ in range(300)]) > 0.5
    assert betting_p(np.zeros(60), 0.05) < 0.1


@pytest.mark.parametrize(("size", "bound"), [(128, 0.025), (64, 0.05)])
def test_without_any_loss_so_many_queries_show_the_bound_that_the_page_says_and_none_below(size, bound):
    assert betting_p(np.zeros(size), bound) <= 0.1 / 2 < betting_p(np.zeros(size), bound - 0.005)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.01, 0.9))
def test_a_p_value_is_a_probability_falls_with_the_bound_and_with_the_losses(losses, bound):
    values = np.array(losses)
    found = betting_p(values, bound)
    assert 0 < found <= 1
    assert betting_p(values, min(bound * 1.05, 0.95)) <= found + 1e-12
    assert betting_p(np.zeros(len(values)), bound) <= found + 1e-12


def test_nothing_seen_proves_nothing_and_what_is_no_loss_is_refused():
    assert betting_p(np.array([]), 0.05) == 1.0
    for losses, bound in ((np.array([1.5]), 0.1), (np.array([-0.1]), 0.1), (np.array([0.1]), 0.0)):
        with pytest.raises(OspoError, match="out of range"):
            betting_p(losses, bound)


def test_a_sequence_goes_on_until_a_hypothesis_stands_and_starts_share_the_level():
    assert passed([0.01, 0.02, 0.5, 0.01], [[0, 1, 2, 3]], 0.1) == [0, 1]
    assert passed([0.01, 0.02, 0.5, 0.1], [[3, 1, 2, 0]], 0.1) == [1, 3]
    assert passed([0.01, 0.02, 0.5, 0.05], [[0, 2, 1], [3, 1]], 0.1) == [0, 1, 3]
    assert passed([0.01, 0.02, 0.5, 0.06], [[0, 2, 1], [3, 1]], 0.1) == [0]
    assert passed([0.2, 0.0], [[0, 1]], 0.1) == []

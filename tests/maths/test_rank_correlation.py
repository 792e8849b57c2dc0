"""Kendall's τ-b: axioms, and agreement with SciPy."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.maths.rank_correlation import best_items, kendall

SCORES = st.integers(2, 12).flatmap(lambda n: st.tuples(*(st.lists(st.integers(-3, 3), min_size=n, max_size=n) for _ in range(2))))


@given(SCORES)
def test_tau_is_that_of_scipy_and_undefined_where_it_is_undefined_there(pair):
    a, b = (np.array(values, dtype=float) for values in pair)
    assert kendall(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic, abs=1e-12, nan_ok=True)


@given(SCORES)
def test_tau_is_symmetric_and_turns_its_sign_with_either_order(pair):
    a, b = (np.array(values, dtype=float) for values in pair)
    assert kendall(a, b) == pytest.approx(kendall(b, a), abs=0, nan_ok=True)
    assert kendall(a, -b) == pytest.approx(-kendall(a, b), abs=0, nan_ok=True)


@given(SCORES)
def test_a_rising_function_of_a_scoring_changes_nothing(pair):
    a, b = (np.array(values, dtype=float) for values in pair)
    assert kendall(np.exp(a), 3 * b - 7) == pytest.approx(kendall(a, b), abs=0, nan_ok=True)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1))
def test_a_scoring_that_is_not_constant_agrees_with_itself_wholly(values):
    assert kendall(np.array(values, dtype=float), np.array(values, dtype=float)) == pytest.approx(1.0, abs=1e-12)


def test_rounding_makes_no_order():
    assert np.isnan(kendall(np.array([0.1 + 0.2, 0.3]), np.array([0.0, 1.0])))
    assert best_items(np.array([0.1 + 0.2, 0.3, 0.0])) == {0, 1}

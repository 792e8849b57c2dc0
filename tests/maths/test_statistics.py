"""Intervals and paired tests: invariances, another way to compute them, and that they cover what they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import OspoError
from ospo_cli.maths.statistics import Resamples, bootstrap_mean, paired_difference

values = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=30)


def rng(seed=0):
    return np.random.default_rng(seed)


@given(values)
@settings(max_examples=50, deadline=None)
def test_the_interval_lies_within_the_range_of_the_values(sample):
    mean, low, high = bootstrap_mean(sample, 200, rng())
    assert min(sample) - 1e-12 <= low <= high <= max(sample) + 1e-12
    assert mean == pytest.approx(np.mean(sample))


@given(values, st.floats(-2, 2), st.floats(0.1, 5))
@settings(max_examples=50, deadline=None)
def test_shifting_and_scaling_the_values_shifts_and_scales_the_interval(sample, shift, scale):
    plain = np.array(bootstrap_mean(sample, 100, rng()))
    moved = np.array(bootstrap_mean(np.array(sample) * scale + shift, 100, rng()))
    np.testing.assert_allclose(moved, plain * scale + shift, atol=1e-9)
    assert moved[1] <= moved[2] + 1e-12


def test_equal_generators_give_equal_intervals_and_other_generators_other_ones():
    sample = rng(1).random(50)
    assert bootstrap_mean(sample, 500, rng(3)) == bootstrap_mean(sample, 500, rng(3))
    assert bootstrap_mean(sample, 500, rng(3)) != bootstrap_mean(sample, 500, rng(4))


def test_the_block_size_of_the_resampling_changes_no_result(monkeypatch):
    a, b = rng(1).random(40), rng(2).random(40)
    whole = bootstrap_mean(a, 300, rng()), paired_difference(a, b, 300, rng())
    monkeypatch.setattr("ospo_cli.maths.statistics._CELLS", 97)
    assert (bootstrap_mean(a, 300, rng()), paired_difference(a, b, 300, rng())) == whole


def test_the_interval_agrees_with_the_normal_approximation_on_many_values():
    sample = rng(5).random(4000)
    mean, low, high = bootstrap_mean(sample, 2000, rng())
    half = 1.96 * sample.std(ddof=1) / np.sqrt(sample.size)
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)


def test_a_95_percent_interval_covers_the_true_mean_about_95_times_in_100():
    draws = rng(6)
    intervals = [bootstrap_mean(draws.random(60), 300, draws) for _ in range(300)]
    assert 0.91 <= np.mean([low <= 0.5 <= high for _, low, high in intervals]) <= 0.985


def test_the_exact_p_value_counts_all_sign_patterns():
    a, b = rng(7).random(9), rng(8).random(9)
    difference = a - b
    flips = [abs(np.dot(signs, difference)) for signs in itertools.product([-1, 1], repeat=9)]
    expected = np.mean(np.array(flips) >= abs(difference.sum()) - 1e-12)
    assert paired_difference(a, b, 100, rng()).p_value == pytest.approx(expected)


def test_the_sampled_p_value_comes_close_to_the_exact_one(monkeypatch):
    a, b = rng(9).random(14), rng(10).random(14) * 0.8
    exact = paired_difference(a, b, 100, rng()).p_value
    monkeypatch.setattr("ospo_cli.maths.statistics._EXACT_BELOW", 0)
    assert paired_difference(a, b, 20_000, rng()).p_value == pytest.approx(exact, abs=0.012)


def test_p_values_of_systems_that_do_not_differ_are_about_uniform():
    draws = rng(11)
    p_values = [paired_difference(draws.random(40), draws.random(40), 199, draws).p_value for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_swapping_the_systems_negates_the_difference_and_keeps_an_exact_p(pairs):
    a, b = np.array(pairs).T
    forth, back = paired_difference(a, b, 100, rng()), paired_difference(b, a, 100, rng())
    assert back.mean == pytest.approx(-forth.mean)
    assert back.p_value == pytest.approx(forth.p_value)


def test_draws_that_are_used_again_give_what_fresh_ones_give():
    a, b = rng(20).random(50), rng(21).random(50)
    kept = Resamples(50, 300, rng())
    expected = [bootstrap_mean(a, 300, rng()), paired_difference(a, b, 300, rng()), bootstrap_mean(b, 300, rng())]
    assert [kept.mean(a), kept.difference(a, b), kept.mean(b)] == expected


def test_equal_systems_differ_by_nothing_with_p_one():
    a = rng(12).random(100)
    assert paired_difference(a, a, 100, rng()) == (0.0, 0.0, 0.0, 1.0)


def test_a_large_clear_difference_has_a_small_p_that_is_not_zero():
    a = rng(13).random(100)
    result = paired_difference(a + 0.2, a + 0.05 * rng(14).random(100), 999, rng())
    assert 0 < result.p_value <= 0.001
    assert result.low > 0


@pytest.mark.parametrize("sample", [[], [[0.1, 0.2]], [0.1, float("nan")], [float("inf")]])
def test_values_that_have_no_mean_are_refused(sample):
    with pytest.raises(OspoError, match="bootstrap"):
        bootstrap_mean(sample, 100, rng())


def test_systems_with_different_numbers_of_prompts_are_refused():
    with pytest.raises(OspoError, match=r"shape \(2,\), expected 3 numbers"):
        paired_difference([0.1, 0.2, 0.3], [0.1, 0.2], 100, rng())


@pytest.mark.parametrize(("level", "resamples"), [(0, 100), (1, 100), (0.95, 0)])
def test_a_level_or_a_number_of_resamples_that_makes_no_sense_is_refused(level, resamples):
    with pytest.raises(OspoError, match="bootstrap"):
        bootstrap_mean([0.1, 0.2], resamples, rng(), level)

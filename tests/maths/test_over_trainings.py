"""Differences between trainings: coverage by simulation, the textbook's analysis of variance, and what few seeds cannot show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ospo_cli.errors import OspoError
from ospo_cli.maths.over_trainings import over_trainings

TRUTH = 0.02


def simulated(seeds, spread, shared, rest, repetitions, prompts=256):
    """Return [repetitions, seeds, prompts] paired differences: two of three are nearly 0, seeds differ by `spread`."""
    draws = np.random.default_rng([seeds, int(1000 * spread), int(1000 * shared)])

    def effect(size, deviation):
        return np.where(draws.random(size) < 0.35, draws.normal(0, deviation / np.sqrt(0.35), size), 0.0)

    of_prompts = effect((repetitions, 1, prompts), shared)
    return TRUTH + draws.normal(0, spread, (repetitions, seeds, 1)) + of_prompts + effect((repetitions, seeds, prompts), rest)


def coverage(tables, same_prompts):
    found = [over_trainings(table, same_prompts) for table in tables]
    return np.mean([each.low <= TRUTH <= each.high for each in found])


@pytest.mark.parametrize("spread", [0, 0.01, 0.05])
@pytest.mark.parametrize(("shared", "rest", "same_prompts"), [(0.1, 0.17, True), (0.2, 0.03, True), (0.0, 0.2, False)])
def test_intervals_of_five_seeds_and_256_prompts_cover_95_times_in_100(spread, shared, rest, same_prompts):
    assert 0.93 <= coverage(simulated(5, spread, shared, rest, 1500), same_prompts) <= 0.97


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("spread", [0, 0.05])
@pytest.mark.parametrize("same_prompts", [True, False])
def test_intervals_of_two_or_three_seeds_cover_at_least_so_often(seeds, spread, same_prompts):
    shared = 0.1 if same_prompts else 0.0
    assert coverage(simulated(seeds, spread, shared, 0.17, 800), same_prompts) >= 0.93


def test_intervals_over_prompts_alone_do_not_cover_other_trainings():
    tables = simulated(3, 0.05, 0.0, 0.2, 400)
    pooled = tables.reshape(len(tables), -1)
    half = 1.96 * pooled.std(axis=1) / np.sqrt(pooled.shape[1])
    assert np.mean(np.abs(pooled.mean(axis=1) - TRUTH) <= half) < 0.5


def test_seeds_with_prompts_of_their_own_give_the_t_test_of_their_means():
    rows = [np.random.default_rng(seed).normal(0.1, 0.3, 40 + seed) for seed in range(6)]
    expected = stats.ttest_1samp([row.mean() for row in rows], 0)
    found = over_trainings(rows, same_prompts=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.degrees == 5


def test_the_variance_is_that_of_the_sums_of_squares_in_the_textbook():
    table = simulated(5, 0.02, 0.2, 0.05, 1)[0][:, :30]
    mean, seeds, prompts = table.mean(), *table.shape
    a = prompts * sum((row.mean() - mean) ** 2 for row in table) / 4
    b = seeds * sum((column.mean() - mean) ** 2 for column in table.T) / 29
    total = ((table - mean) ** 2).sum()
    e = (total - 4 * a - 29 * b) / (4 * 29)
    found = over_trainings(table, same_prompts=True)
    degrees = (a + b - e) ** 2 / (a**2 / 4 + b**2 / 29 + e**2 / 116)
    assert found.degrees == pytest.approx(degrees)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, degrees) * np.sqrt((a + b - e) / 150))


def test_a_prompt_that_all_seeds_share_is_no_further_evidence():
    prompts = np.random.default_rng(3).normal(0.02, 0.3, 64)
    noise = np.random.default_rng(4).normal(0, 1e-3, (5, 64))
    found = over_trainings(prompts + noise, same_prompts=True)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 63) * stats.sem(prompts), rel=0.02)


@given(st.integers(0, 10**6), st.integers(2, 6), st.booleans())
@settings(max_examples=40)
def test_the_interval_leaves_out_zero_where_p_is_small_and_nowhere_else(seed, seeds, same_prompts):
    rows = np.random.default_rng(seed).normal(0.1, 0.2, (seeds, 9))
    found = over_trainings(rows, same_prompts)
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
    swapped = over_trainings(-rows, same_prompts)
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert found.by_seed == pytest.approx(tuple(rows.mean(axis=1)))


@pytest.mark.parametrize("seeds", [2, 5])
def test_a_difference_as_large_as_the_detectable_one_is_shown_four_times_in_five(seeds):
    draws = np.random.default_rng(8)
    error = 0.03 / np.sqrt(seeds)
    factor = np.mean([each.detectable / (each.high - each.mean) * stats.t.ppf(0.975, seeds - 1) for each in [sample(draws, seeds, 0)]])
    shown = [sample(draws, seeds, factor * error).low > 0 for _ in range(1500)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.03)


def sample(draws, seeds, mean):
    """Return the difference of seeds whose means are normal with standard deviation .03."""
    return over_trainings(draws.normal(mean, 0.03, (seeds, 1)), same_prompts=False)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
def test_seeds_that_do_not_vary_at_all_give_no_width(value, p_value):
    found = over_trainings(np.full((3, 4), value), same_prompts=True)
    assert (found.low, found.high, found.p_value, found.detectable) == (value, value, p_value, 0.0)


@pytest.mark.parametrize(
    ("rows", "same_prompts", "message"),
    [
        ([[0.1]], False, "one seed tells nothing about others: found 1, expected at least 2 seeds"),
        ([[0.1], []], False, "found 1, 0, expected at least one prompt per seed"),
        ([[0.1, 0.2], [0.1]], True, "found 2, 1, expected the same number of prompts for every seed"),
        ([[0.1], [float("nan")]], False, "not a finite number"),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused(rows, same_prompts, message):
    with pytest.raises(OspoError, match=message):
        over_trainings(rows, same_prompts)

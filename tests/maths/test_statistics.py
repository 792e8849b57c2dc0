"""Intervals and paired tests: invariances, another way to compute them, and that they cover what they say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import OspoError
from ospo_cli.maths.statistics import MeanInterval, PairedDifference, Resamples, holm

values = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=30)
many = st.integers(0, 1000).map(lambda seed: np.random.default_rng(seed).random(64 + seed % 40).tolist())


def rng(seed=0):
    return np.random.default_rng(seed)


def bootstrap_mean(sample, resamples, generator, level=0.95) -> MeanInterval:
    return Resamples(len(sample), resamples, generator, level).mean(sample)


def paired_difference(a, b, resamples, generator) -> PairedDifference:
    return Resamples(len(a), resamples, generator).difference(a, b)


@given(many)
@settings(max_examples=20)
def test_the_interval_of_many_values_lies_within_their_range(sample):
    mean, low, high = bootstrap_mean(sample, 200, rng())
    assert min(sample) - 1e-12 <= low <= high <= max(sample) + 1e-12
    assert mean == pytest.approx(np.mean(sample))


@given(values)
@settings(max_examples=50)
def test_the_interval_of_few_values_holds_their_mean_and_ends_at_the_bounds(sample):
    mean, low, high = Resamples(len(sample), 200, rng(), bounds=(0.0, 1.0)).mean(sample)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


@given(values | many, st.floats(-2, 2), st.floats(0.1, 5))
@settings(max_examples=50)
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


def few(name, size, draws):
    """Return [repetitions, size] values of a kind that metrics have, and their true mean."""
    shape = (400, size)
    is_other, other = draws.random(shape), draws.beta(2, 2, shape)
    kinds = {
        "values of every size": (np.where(is_other < 0.3, 0.0, np.where(is_other < 0.5, 1.0, other)), 0.45),
        "mostly perfect": (np.where(is_other < 0.7, 1.0, other), 0.85),
        "a third differ": (np.where(is_other < 0.35, draws.normal(0.05, 0.3, shape), 0.0), 0.0175),
        "one in 50 loses": (np.where(is_other < 0.02, -other, 0.0), -0.01),
        "one in 33 differs": (np.where(is_other < 0.03, np.where(draws.random(shape) < 0.3, other, -other), 0.0), -0.006),
    }
    return kinds[name]


@pytest.mark.parametrize(
    ("name", "size", "at_least"),
    [
        ("values of every size", 10, 0.93),
        ("values of every size", 30, 0.93),
        ("mostly perfect", 20, 0.93),
        ("mostly perfect", 10, 0.88),  # two or three values say little about their tail
        ("a third differ", 10, 0.92),
        ("a third differ", 30, 0.93),
        ("one in 50 loses", 256, 0.93),
        ("one in 33 differs", 256, 0.92),
    ],
)
def test_intervals_of_few_values_and_of_rare_differences_cover_the_true_mean(name, size, at_least):
    samples, truth = few(name, size, rng(30))
    draws = Resamples(size, 1000, rng(31))
    assert at_least <= np.mean([low <= truth <= high for _, low, high in map(draws.mean, samples)]) <= 0.99


@pytest.mark.parametrize("power", [1, 3])
def test_skewed_few_values_get_the_bca_interval_of_scipy_where_it_is_wider_than_t(power):
    from scipy import stats

    sample = rng(32).random(25) ** power
    reference = stats.bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=rng(33)).confidence_interval
    half = stats.t.ppf(0.975, 24) * stats.sem(sample)
    _, low, high = bootstrap_mean(sample, 20_000, rng(34))
    assert low == pytest.approx(min(reference.low, sample.mean() - half), abs=2e-3)
    assert high == pytest.approx(max(reference.high, sample.mean() + half), abs=2e-3)


def test_thirty_values_unlike_the_median_are_few_and_more_are_not():
    bases = {extra: np.concatenate([np.zeros(200), rng(35).random(extra)]) for extra in (30, 31)}
    widths = {extra: np.subtract(*bootstrap_mean(sample, 2000, rng(36))[:0:-1]) for extra, sample in bases.items()}
    spreads = {extra: 2 * 1.96 * sample.std() / np.sqrt(sample.size) for extra, sample in bases.items()}
    assert widths[30] > 1.05 * spreads[30]
    assert widths[31] < 1.05 * spreads[31]


def test_a_difference_as_large_as_the_detectable_one_is_shown_four_times_in_five():
    draws = rng(37)
    detectable = paired_difference(draws.normal(0, 0.2, 5000), np.zeros(5000), 100, rng()).detectable * np.sqrt(5000 / 100)
    resamples = Resamples(100, 400, rng(38))
    found = [resamples.difference(draws.normal(detectable, 0.2, 100), np.zeros(100)) for _ in range(400)]
    assert np.mean([each.low > 0 for each in found]) == pytest.approx(0.8, abs=0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=50)
def test_holm_rejects_what_its_step_down_definition_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, order = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
        for step, index in enumerate(order):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(index)
        assert {index for index, value in enumerate(adjusted) if value <= level} == rejected
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))


def test_no_comparison_needs_no_adjustment_and_one_keeps_its_p():
    assert (holm([]), holm([0.04])) == ([], [0.04])


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
@settings(max_examples=50)
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
    assert paired_difference(a, a, 100, rng()) == (0.0, 0.0, 0.0, 1.0, 0.0)


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

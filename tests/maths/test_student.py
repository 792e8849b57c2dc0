"""Student's t against its integral, the normal limit, and the pairs that it counts."""

import math

import numpy as np
import pytest

from ospo_cli.maths.student import degrees_of_freedom, half_width, quantile


@pytest.mark.parametrize("degrees", [1, 3, 7, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_density_between_both_quantiles_integrates_to_the_level(degrees, level):
    t = float(quantile(degrees, level))
    x = np.linspace(-t, t, 200_001)
    factor = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = factor * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    assert float(((density[1:] + density[:-1]) / 2 * np.diff(x)).sum()) == pytest.approx(level, abs=1e-7)


def test_many_degrees_are_the_normal_and_fewer_take_more():
    found = quantile(np.array([1e9, 100.0, 10.0, 2.0, 1.0]))
    assert found[0] == pytest.approx(1.959964, abs=1e-5)
    assert (np.diff(found) > 0).all()


def test_no_degree_of_freedom_is_no_number():
    assert np.isnan(quantile(np.array([0.0, -1.0]))).all()


def test_orders_count_as_pairs():
    assert degrees_of_freedom(np.array([16, 8, 4])).tolist() == [7, 3, 1]


@pytest.mark.parametrize("pairs", [2, 4, 8])
def test_intervals_of_few_pairs_cover_what_they_say(pairs):
    drawn = np.random.default_rng(pairs).standard_normal((pairs, 20_000, 6))
    error = drawn.std(axis=0, ddof=1) / np.sqrt(pairs)
    covered = np.abs(drawn.mean(axis=0)) <= half_width(error, np.full(error.shape, pairs - 1.0))
    assert 0.94 <= covered.mean() <= 0.98
    assert (np.abs(drawn.mean(axis=0)) <= 1.96 * error).mean() < 0.93


def test_a_segment_whose_pairs_agree_by_chance_borrows_the_width_of_the_others():
    found = half_width(np.array([0.0, 0.2, 0.4]), np.full(3, 7.0))
    assert (np.diff(found) > 0).all()
    assert found[0] > 0.05
    assert half_width(np.zeros(3), np.full(3, 7.0)).tolist() == [0, 0, 0]


def test_with_many_pairs_a_segments_own_error_decides():
    error = np.array([0.1, 0.2, 0.3])
    assert half_width(error, np.full(3, 1e6)) == pytest.approx(1.96 * error, rel=1e-3)


def test_each_variance_is_moderated_by_the_mean_of_all_which_weighs_two_pairs():
    error, degrees = np.array([0.3, 0.1]), np.array([3.0, 3.0])
    variance = error**2 * 4
    moderated = (3 * variance + 2 * variance.mean()) / 5
    assert half_width(error, degrees) == pytest.approx(2.570582 * np.sqrt(moderated / 4), rel=1e-6)

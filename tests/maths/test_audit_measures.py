"""Measures of the audit: each tells a sound estimator from a broken one."""

import numpy as np
import pytest

from ospo_cli.maths.audit_measures import auc, calibration, curve_area, position_slope, spearman
from ospo_cli.maths.coalitions import sampled_orders
from tests.games import generator


def test_random_shares_do_not_separate():
    draw = generator(1)
    assert np.mean([auc(draw.random(8), np.arange(8) < 4) for _ in range(2000)]) == pytest.approx(0.5, abs=0.02)


def test_equal_shares_separate_nothing_and_a_flipped_sign_turns_the_auc_around():
    share, helpful = np.array([0.4, 0.1, 0.3, -0.2]), np.array([True, False, True, False])
    assert (auc(np.ones(4), helpful), auc(share, helpful), auc(-share, helpful)) == (0.5, 1.0, 0.0)


def test_rank_correlation_is_turned_around_by_the_sign_and_undefined_for_constants():
    a = np.array([0.1, 0.5, 0.2])
    assert (spearman(a, a**3), spearman(a, -a)) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert np.isnan(spearman(a, np.ones(3)))


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_the_slope_is_the_bias_that_was_put_in_whatever_the_segments_are_worth(bias):
    orders = sampled_orders(5, 8, generator(2))
    worth = np.array([0.1, 0.9, -0.3, 0.4, 0.0])
    assert position_slope(worth[orders] + bias * np.arange(5) / 4, orders) == pytest.approx(bias, abs=1e-12)


def test_the_area_of_an_early_rise_is_larger():
    assert curve_area(np.array([0.0, 1.0, 1.0])) == 0.75 > curve_area(np.array([0.0, 0.0, 1.0])) == 0.25


def test_errors_of_known_variance_are_calibrated_and_halved_ones_are_not():
    exact = np.linspace(-1, 1, 6)
    estimates = exact + 0.2 * generator(3).standard_normal((4000, 6))
    sound, halved = (calibration(estimates, np.full(estimates.shape, size), exact, np.full(estimates.shape, 1e6)) for size in (0.2, 0.1))
    assert (sound.coverage, sound.ratio) == (pytest.approx(0.95, abs=0.01), pytest.approx(1.0, abs=0.02))
    assert (halved.coverage, halved.ratio) == (pytest.approx(0.673, abs=0.02), pytest.approx(0.5, abs=0.01))


def test_few_pairs_take_the_t_quantile_and_not_that_of_the_normal():
    exact = np.linspace(-1, 1, 5)
    for pairs in (2, 4, 8):
        drawn = exact + 0.3 * generator(pairs).standard_normal((pairs, 4000, 5))
        estimates, errors = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(pairs)
        few = calibration(estimates, errors, exact, np.full(estimates.shape, pairs - 1.0))
        assert 0.94 <= few.coverage <= 0.98
        assert calibration(estimates, errors, exact, np.full(estimates.shape, 1e9)).coverage < 0.93

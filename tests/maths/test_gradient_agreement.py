"""Agreement of gradients: known directions, noise that is taken out, and rules that win by saying nothing."""

import numpy as np
import pytest

from ospo_cli.maths import gradient_agreement
from ospo_cli.maths.gradient_agreement import HalfProducts, agreement, agreement_with_uniform, direction, error_to_exact, scaled_error

SIZE, PROMPTS = 40, 4_000


def products(g_a, g_b, u_a, u_b):
    def inner(first, second):
        return (first * second).sum(axis=-1)

    pairs = [(g_a, g_a), (g_b, g_b), (g_a, g_b), (g_a, u_b), (g_b, u_a), (u_a, u_a), (u_b, u_b), (u_a, u_b)]
    return HalfProducts(*(inner(first, second) for first, second in pairs))


def halves(rng, mean, noise):
    return tuple(mean + noise * rng.standard_normal((PROMPTS, SIZE)) for _ in range(2))


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def exact(rng):
    return rng.standard_normal((PROMPTS, SIZE))


def test_the_reference_rule_itself_has_no_bias_and_one_agreement(rng, exact):
    u = halves(rng, exact, 2.0)
    own = products(*u, *u)
    assert direction(own) == pytest.approx(1, abs=1e-12)
    assert agreement_with_uniform(own) == pytest.approx(agreement(own), abs=1e-12)


def test_a_rule_that_always_says_the_same_agrees_with_itself_alone(rng, exact):
    constant = np.ones((PROMPTS, SIZE))
    own = products(constant, constant, *halves(rng, exact, 2.0))
    assert agreement(own) == pytest.approx(1)
    assert abs(agreement_with_uniform(own).mean()) < 0.02
    assert scaled_error(own) > 0.99


def test_the_direction_is_that_of_the_expected_gradients_whatever_the_noise(rng, exact):
    aside = rng.standard_normal((PROMPTS, SIZE))
    mean = 3 * exact + 4 * aside
    expected = (mean * exact).sum() / np.sqrt((mean**2).sum() * (exact**2).sum())
    for noise in (0.5, 4.0):
        own = products(*halves(rng, mean, noise), *halves(rng, exact, noise))
        assert direction(own) == pytest.approx(expected, abs=0.05)


def test_the_error_to_the_exact_gradient_does_not_depend_on_the_noise_of_the_reference(rng, exact):
    g = halves(rng, exact, 1.5)
    expected = min(((c * g[0] - exact) ** 2).sum() / (exact**2).sum() for c in np.linspace(0, 1, 1001))
    for noise in (0.1, 3.0):
        own = products(*g, *halves(rng, exact, noise))
        assert error_to_exact(own) == pytest.approx(expected, abs=0.03)
    assert scaled_error(own) > expected + 0.1


def test_the_scaled_error_is_that_of_the_best_scale_that_is_not_negative(rng):
    for sign in (1, -1):
        (g_a, g_b), (u_a, u_b) = (rng.standard_normal((2, 5, 3)) for _ in range(2))
        u_a, u_b = u_a + sign * 2 * g_b, u_b + sign * 2 * g_a
        tried = [
            (((c * g_a - u_b) ** 2).sum() + ((c * g_b - u_a) ** 2).sum()) / ((u_a**2).sum() + (u_b**2).sum())
            for c in np.linspace(0, 5, 20_001)
        ]
        assert scaled_error(products(g_a, g_b, u_a, u_b)) == pytest.approx(min(tried), abs=1e-6)


def test_the_size_of_a_rules_gradients_changes_nothing(rng, exact):
    g, u = halves(rng, exact, 1.0), halves(rng, exact, 2.0)
    once, larger = products(*g, *u), products(*(7 * half for half in g), *u)
    for measure in (agreement, agreement_with_uniform, scaled_error, error_to_exact, direction):
        assert measure(larger) == pytest.approx(measure(once), abs=1e-12)


def test_a_flipped_rule_agrees_with_itself_and_is_against_the_reference(rng, exact):
    g, u = halves(rng, exact, 1.0), halves(rng, exact, 1.0)
    right, flipped = products(*g, *u), products(*(-half for half in g), *u)
    assert agreement(flipped) == pytest.approx(agreement(right))
    assert agreement_with_uniform(flipped) == pytest.approx(-agreement_with_uniform(right))
    assert direction(flipped) == pytest.approx(-direction(right))
    assert scaled_error(flipped) == 1


def test_a_gradient_of_nothing_counts_as_no_agreement(rng):
    g_a, g_b, u_a, u_b = rng.standard_normal((4, 6, 3))
    g_a[2] = 0
    own = products(g_a, g_b, u_a, u_b)
    assert agreement(own)[2] == 0
    assert agreement_with_uniform(own)[2] == pytest.approx((g_b[2] @ u_a[2]) / np.sqrt(g_b[2] @ g_b[2] * (u_a[2] @ u_a[2])) / 2)
    assert np.isfinite(agreement(own)).all()


def test_what_no_length_can_be_told_of_is_no_number():
    u_a, u_b = np.array([[1.0, 0.0]]), np.array([[-1.0, 0.5]])
    own = products(u_a, u_b, u_a, u_b)
    assert np.isnan(error_to_exact(own))
    assert np.isnan(direction(own))
    assert scaled_error(own) == 1


def test_weights_count_prompts_as_often_as_they_say(rng):
    g_a, g_b, u_a, u_b = rng.standard_normal((4, 5, 3)) + 1
    times = np.array([2.0, 0.0, 1.0, 1.0, 3.0])
    repeated = [np.repeat(part, times.astype(int), axis=0) for part in (g_a, g_b, u_a, u_b)]
    for measure in (scaled_error, error_to_exact, direction):
        assert measure(products(g_a, g_b, u_a, u_b), times[None]) == pytest.approx([float(measure(products(*repeated)))])


def test_resampled_prompts_are_as_many_as_there_are(rng):
    weights = gradient_agreement.resampled(7, 50, rng)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()

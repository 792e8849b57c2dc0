"""What steps of a size cost, on quadratic problems whose noise is known; and what is advised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.maths.step_advice import Noise, Training, advised, learning_rate_for, proportional_rate, rollouts_over_least, steps_over_exact

SCALE = 40.0
NOW = Training(groups_per_step=16, groups=384, iterations=4, epochs=1, learning_rate=5e-4)


def descended(groups, scale, target=1e-4, seed=0, size=20):
    """Return the steps until the loss |x|²/2 has fallen to `target` of its start, with noise `scale` · |G|² per group and the best step."""
    rng = np.random.default_rng(seed)
    x = np.ones(size)
    start, steps = x @ x, 0
    while x @ x > target * start:
        noise = rng.standard_normal(size) * np.sqrt(scale * (x @ x) / size / groups)
        x = x - (x + noise) / (1 + scale / groups)
        steps += 1
    return steps


@pytest.mark.parametrize("groups", [4, 10, 40, 160])
def test_on_a_quadratic_problem_steps_and_rollouts_are_as_many_as_the_noise_scale_says(groups):
    """Progress per step is 1/(1 + B/b): the logarithm of the loss falls by -log(1 - that)."""
    steps = np.mean([descended(groups, SCALE, seed=seed) for seed in range(20)])
    per_step = -np.log(1 - 1 / steps_over_exact(groups, SCALE))
    assert steps == pytest.approx(-np.log(1e-4) / per_step, rel=0.1)
    assert steps_over_exact(groups, SCALE) * groups == pytest.approx(SCALE * rollouts_over_least(groups, SCALE))


def test_steps_of_the_advised_size_take_at_most_a_fifth_more_rollouts_than_the_best_of_a_grid():
    step = advised(Noise(SCALE, 4.0, 10.0), NOW).groups_per_step
    cost = {groups: groups * np.mean([descended(groups, SCALE, seed=seed) for seed in range(10)]) for groups in {1, 2, 4, 8, 16, 64, step}}
    assert cost[step] <= 1.2 * min(cost.values())
    assert cost[64] > 1.5 * min(cost.values())


def walked(groups, rate, rollouts=6000, seed=0, size=30):
    """Return the loss after so many rollouts of Adam on a bowl whose gradient is mostly noise."""
    rng = np.random.default_rng(seed)
    x, first, second = np.full(size, 0.1), np.zeros(size), np.zeros(size)
    for step in range(1, rollouts // groups + 1):
        g = x + rng.standard_normal(size) * 5 / np.sqrt(groups)
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return x @ x


def test_under_the_square_root_rule_adam_gets_equally_far_with_equal_rollouts_and_without_it_not():
    def loss(groups, rate):
        return np.mean([walked(groups, rate, seed=seed) for seed in range(30)])

    known = loss(4, 1e-3)
    for groups in (1, 16):
        assert loss(groups, learning_rate_for(groups, 4, 1e-3)) == pytest.approx(known, rel=0.15)
    assert loss(16, 1e-3) > 1.3 * known


def test_the_demos_noise_asks_for_more_and_smaller_iterations_of_the_same_steps():
    assert advised(Noise(97.0, 16.0, 14.5), NOW) == Training(16, 96, 16, 1, 5e-4)


def test_rollouts_in_all_stay_what_they_are_to_a_tenth():
    for scale in (5.0, 23.0, 60.0, 97.0, 200.0, 1000.0):
        wanted = advised(Noise(scale, 1.0, None), NOW)
        assert wanted.groups * wanted.iterations == pytest.approx(384 * 4, rel=0.1)
        assert wanted.groups % wanted.groups_per_step == 0
        assert wanted.groups_per_step <= wanted.groups <= 384


def test_more_noise_never_asks_for_smaller_steps_or_iterations():
    found = [advised(Noise(scale, 1.0, None), Training(1, 10_000, 1, 1, 1e-3)) for scale in (2, 10, 50, 250, 1000)]
    for name in ("groups_per_step", "groups", "learning_rate"):
        values = [getattr(wanted, name) for wanted in found]
        assert values == sorted(values)
        assert values[0] < values[-1]


def test_what_is_near_the_advice_stays_and_the_learning_rate_with_it():
    near = Training(12, 100, 15, 1, 3e-4)
    assert advised(Noise(97.0, 16.0, None), near) == near
    assert advised(Noise(97.0, 16.0, None), Training(4, 96, 16, 1, 2.5e-4)).learning_rate == pytest.approx(5e-4)


def test_epochs_beyond_the_first_are_for_iterations_that_are_mostly_signal():
    assert advised(Noise(30.0, 3.0, None), Training(4, 40, 10, 3, 1e-3)).epochs == 1
    assert advised(Noise(2.0, 0.2, None), Training(8, 8, 10, 3, 1e-3)).groups == 2
    assert advised(Noise(3.0, 0.2, None), Training(8, 8, 10, 3, 1e-3)).epochs == 1


def test_a_scale_below_one_group_still_gives_a_step_of_one():
    assert advised(Noise(0.2, 0.1, None), NOW) == Training(1, 1, 1536, 1, pytest.approx(1.25e-4))


def on_a_bowl(rng, groups, size=20):
    """Return the rate found from halves on Σ h·x²/2 with noise SCALE·|G|² per group, over the best step of a half, known in closed form."""
    curvature = np.geomspace(0.1, 2.0, size)
    gradient = np.sqrt(curvature)
    halves = gradient + rng.standard_normal((2, groups // 2, size)) * np.sqrt(SCALE * (gradient @ gradient) / size)
    noise = curvature.sum() * SCALE * (gradient @ gradient) / size / (groups // 2)
    best = (gradient @ gradient) / (curvature * gradient @ gradient + noise)
    rates = [best * factor for factor in (0.125, 0.25, 0.5, 1.0, 2.0)]
    gains = []
    for mine, others in (halves, halves[::-1]):
        step = mine.mean(axis=0)
        gains.append([[rate * other @ step - rate**2 / 2 * (curvature * step @ step) for other in others] for rate in rates])
    found = proportional_rate(rates, np.concatenate(gains, axis=1))
    return None if found is None else found.value / best


@pytest.mark.parametrize("groups", [256, 1024])
def test_the_rate_found_from_noisy_halves_of_a_quadratic_problem_is_half_of_their_best_step(groups):
    """McCandlish et al. 2018, equation 2.7: the best step is |G|²/(GᵀHG + tr(HΣ)/b)."""
    rng = np.random.default_rng(0)
    found = [on_a_bowl(rng, groups) for _ in range(60)]
    assert None not in found
    assert np.exp(np.mean(np.log(found))) == pytest.approx(0.5, rel=0.1)
    assert np.std(np.log(found)) < 0.3


def test_halves_of_noise_alone_find_no_rate():
    rng = np.random.default_rng(1)
    rates = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = [proportional_rate(rates, np.outer(rates, rng.standard_normal(40))) for _ in range(200)]
    assert sum(rate is not None for rate in found) <= 12  # one side of two standard errors


@given(st.floats(0.1, 10.0), st.floats(1.6, 7.0))
def test_gains_in_other_units_and_rates_in_other_units_change_nothing_else(unit, best):
    rates = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
    gains = np.outer(rates - rates**2 / (2 * best), [1.0, 1.1, 0.9])
    found, scaled = proportional_rate(rates, gains), proportional_rate(rates * unit, 3 * gains)
    assert scaled.value == pytest.approx(unit * found.value)
    assert found.value == pytest.approx(best / 2, rel=0.08)
    assert found.is_inside
    np.testing.assert_allclose(found.kept, scaled.kept)


@pytest.mark.parametrize(("groups", "step"), [(24, 4), (96, 16), (16, 4), (3, 1)])
def test_an_iteration_has_four_steps_or_more_as_far_as_it_has_groups(groups, step):
    for now in (1, 2, groups):
        wanted = advised(Noise(156.0, 40.0, None), Training(now, groups, 16, 1, 2.5e-4))
        assert (wanted.groups, wanted.groups_per_step) == (groups, step)
        assert wanted.learning_rate == pytest.approx(2.5e-4 * (step / now) ** 0.5)

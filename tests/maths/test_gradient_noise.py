"""Noise scale, direction, floor and progress: against gradients whose law is known, and against double loops over all pairs."""

import itertools

import numpy as np
import pytest

from ospo_cli.maths import gradient_noise
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.gradient_noise import cross_products, direction, estimate, floor, noise_scale, of_groups, progress, saving

SIZE = 30


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def drawn(rng, prompts, mean, between, within, groups=1, size=SIZE):
    """Return [groups, prompts, size]: |mean|² is 1, tr Σ between prompts `between`, within them `within`."""
    own = mean + rng.standard_normal((prompts, size)) * np.sqrt(between / size)
    return own + rng.standard_normal((groups, prompts, size)) * np.sqrt(within / size)


@pytest.fixture
def mean():
    return np.full(SIZE, 1 / np.sqrt(SIZE))


def by_pairs(first, second):
    pairs = list(itertools.permutations(range(len(first)), 2))
    return sum(float(first[i] @ second[j]) for i, j in pairs) / len(pairs)


def test_products_of_different_prompts_are_those_of_the_double_loop_of_all_and_of_all_but_one(rng):
    x, y = rng.standard_normal((2, 6, 4))
    found = cross_products(x, y)
    assert found[0] == pytest.approx(by_pairs(x, y))
    for left_out in range(6):
        assert found[1 + left_out] == pytest.approx(by_pairs(np.delete(x, left_out, 0), np.delete(y, left_out, 0)))


def test_every_measure_without_a_prompt_is_that_of_the_others_alone(rng, mean):
    g, u = drawn(rng, 8, mean, 1, 2, groups=2), drawn(rng, 8, mean, 1, 2, groups=2)
    halves = drawn(rng, 8, mean, 1, 2, groups=2)

    def measured(kept):
        own, true = of_groups(g[:, kept]), of_groups(u[:, kept])
        return [
            noise_scale(own), direction(own, true), progress(own, true, 4), saving(own, true, true, 4), floor(halves[:, kept])
        ]  # fmt: skip

    of_all = measured(np.arange(8))
    for left_out in range(8):
        for quantity, alone in zip(of_all, measured(np.delete(np.arange(8), left_out)), strict=True):
            assert quantity[1 + left_out] == pytest.approx(alone[0])


def test_the_squared_length_is_unbiased_where_the_mean_gradients_own_is_far_too_long(rng, mean):
    samples = [of_groups(drawn(rng, 10, mean, 5, 20)) for _ in range(2000)]
    found = np.array([own.signal[0] for own in samples])
    naive = np.array([float(own.mean.mean(axis=0) @ own.mean.mean(axis=0)) for own in samples])
    assert found.mean() == pytest.approx(1, abs=3 * found.std() / np.sqrt(2000))
    assert naive.mean() == pytest.approx(1 + 25 / 10, abs=0.2)


def test_the_noise_scale_is_the_noise_over_the_signal_in_rollout_groups(rng, mean):
    own = of_groups(drawn(rng, 20_000, mean, 5, 20))
    value, error = estimate(noise_scale(own))
    assert value == pytest.approx(25, abs=3 * error)
    assert error < 1


def test_it_is_of_one_rollout_group_where_a_prompt_has_two(rng, mean):
    value, error = estimate(noise_scale(of_groups(drawn(rng, 20_000, mean, 5, 20, groups=2))))
    assert value == pytest.approx(25, abs=3 * error)


def test_the_floor_is_the_noise_between_prompts_whatever_the_noise_within(rng, mean):
    for within in (2, 40):
        value, error = estimate(floor(drawn(rng, 20_000, mean, 5, within, groups=2)))
        assert value == pytest.approx(5, abs=3 * error)
        assert error < 0.6


def test_the_floor_takes_the_length_of_the_mean_gradient_from_both_halves(rng, mean):
    halves = drawn(rng, 6, mean, 1, 2, groups=2)
    both = halves.mean(axis=0)
    own = np.mean([first @ second for first, second in zip(*halves, strict=True)])
    assert floor(halves)[0] == pytest.approx(own / by_pairs(both, both) - 1)


def test_one_half_twice_is_no_floor(rng, mean):
    halves = drawn(rng, 20_000, mean, 5, 20, groups=1)
    assert floor(np.concatenate([halves, halves]))[0] == pytest.approx(25, abs=1)


@pytest.mark.parametrize("cosine", [1.0, 0.6, -0.3])
def test_the_direction_is_that_of_the_expected_gradients_whatever_the_noise(rng, mean, cosine):
    aside = np.zeros(SIZE)
    aside[:2] = np.sqrt(0.5) * np.array([1, -1])
    turned = 3 * (cosine * mean + np.sqrt(1 - cosine**2) * aside)
    value, error = estimate(direction(of_groups(drawn(rng, 20_000, turned, 9, 9)), of_groups(drawn(rng, 20_000, mean, 5, 20))))
    assert value == pytest.approx(cosine, abs=3 * error)
    assert error < 0.05


def test_a_gradient_is_its_own_direction(rng, mean):
    own = of_groups(drawn(rng, 50, mean, 1, 2))
    assert direction(own, own) == pytest.approx(np.ones(51))


def test_progress_is_what_the_best_step_on_a_quadratic_bowl_gains_over_the_exact_gradients_best_step(rng):
    """Loss h/2 |x|² at x = G/h: a step of length s along g gains s<G, g> - s²h/2 |g|²."""
    exact, bias, curvature, groups = np.array([1.0, 0.5, -0.25]), np.array([0.3, -0.4, 0.0]), 2.5, 4
    steps = (exact + bias) + rng.standard_normal((400_000, 3)) * np.sqrt(6.0 / groups)
    along, square = (steps @ exact).mean(), (steps**2).sum(axis=1).mean()
    gained = max(s * along - s**2 * curvature / 2 * square for s in np.linspace(0, 1 / curvature, 2001))
    best = (exact @ exact) / (2 * curvature)
    prompts = 40_000
    own = of_groups((exact + bias) + rng.standard_normal((1, prompts, 3)) * np.sqrt(6.0))
    true = of_groups(np.broadcast_to(exact, (1, prompts, 3)))
    value, error = estimate(progress(own, true, groups))
    assert value == pytest.approx(gained / best, abs=3 * error + 0.003)
    assert error < 0.02


def test_a_gradient_that_points_against_the_true_one_makes_no_progress(rng, mean):
    own, true = of_groups(drawn(rng, 200, -mean, 1, 1)), of_groups(drawn(rng, 200, mean, 1, 1))
    assert progress(own, true, 4)[0] == 0


def test_half_the_noise_saves_half_the_rollouts_where_noise_is_all(rng, mean):
    usual, own = of_groups(drawn(rng, 40_000, mean, 0, 200)), of_groups(drawn(rng, 40_000, mean, 0, 100))
    value, error = estimate(saving(own, usual, own, 1))
    assert value == pytest.approx(1 - 101 / 201, abs=3 * error)
    assert saving(usual, usual, own, 1) == pytest.approx(np.zeros(40_001))


def test_the_jackknife_tells_how_much_estimates_move_from_sample_to_sample_or_up_to_half_more(rng, mean):
    """Where the noise is of second order, as in the direction of an unbiased rule, a jackknife's variance is twice the true one."""
    found = [
        (estimate(noise_scale(own)), estimate(direction(own, true)), estimate(own.signal))
        for own, true in ((of_groups(drawn(rng, 200, mean, 2, 8)), of_groups(drawn(rng, 200, mean, 2, 8))) for _ in range(300))
    ]
    ratios = [np.sqrt((errors**2).mean()) / values.std() for values, errors in np.array(found).transpose(1, 2, 0)]
    assert ratios[0] == pytest.approx(1.05, abs=0.2)
    assert ratios[1] == pytest.approx(np.sqrt(2), abs=0.2)
    assert ratios[2] == pytest.approx(1.05, abs=0.2)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_noise_alone_is_seldom_called_a_signal(rng, size):
    nothing = np.zeros(size)
    claimed = np.mean([of_groups(drawn(rng, 40, nothing, 1, 2, size=size)).has_signal for _ in range(1000)])
    assert claimed < 0.07


def test_a_clear_gradient_is_called_a_signal_and_nothing_at_all_is_not(rng, mean):
    assert all(of_groups(drawn(rng, 100, mean, 2, 8)).has_signal for _ in range(100))
    assert not of_groups(np.zeros((1, 5, 3))).has_signal


def bits(n):
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


@pytest.mark.parametrize(("n", "group_size"), [(2, 2), (2, 3), (3, 3)])
def test_on_a_game_of_binary_words_the_instrument_finds_the_noise_and_the_floor_that_enumeration_gives(rng, n, group_size):
    """Four prompts share the logits of n words; every rollout group is enumerated with its probability."""
    chance, weights = rng.uniform(0.2, 0.8, (4, n)), rng.uniform(0.3, 1.7, (4, n))
    answers, exact, lengths, sampled = bits(n), [], [], []
    for p, w in zip(chance, weights, strict=True):
        likely = np.prod(np.where(answers > 0, p, 1 - p), axis=1)
        groups = np.array(list(itertools.product(range(len(answers)), repeat=group_size)))
        probability = likely[groups].prod(axis=1)
        rewards = answers @ w + answers[:, 0] * answers[:, -1]
        flat = group_advantages(rewards[groups].ravel(), np.repeat(np.arange(len(groups)), group_size), "none").advantage
        g = (flat.reshape(groups.shape)[..., None] * (answers - p)[groups]).mean(axis=1)
        exact.append(probability @ g)
        lengths.append(probability @ (g**2).sum(axis=1))
        sampled.append(g[rng.choice(len(groups), size=(2, 6000), p=probability)])
    whole, mean_exact = np.concatenate(sampled, axis=1), np.mean(exact, axis=0)
    signal = mean_exact @ mean_exact
    known = [np.mean(lengths) / signal - 1, np.mean([g @ g for g in exact]) / signal - 1]
    for quantity, value in zip((noise_scale(of_groups(whole)), floor(whole)), known, strict=True):
        found, error = estimate(quantity)
        assert found == pytest.approx(value, abs=4 * error)
        assert error < 0.1 * (1 + value)


def test_halves_of_a_rollout_group_give_the_floor_of_the_whole_groups(rng):
    """Without normalisation a half's expected gradient is that of the whole up to one factor, which the floor does not see."""
    prompts, group_size, n = 6000, 8, 3
    chance, weights = rng.uniform(0.2, 0.8, (prompts, n)), rng.uniform(0.3, 1.7, (prompts, n))
    words = (rng.random((prompts, group_size, n)) < chance[:, None]).astype(float)
    rewards = np.einsum("pgn,pn->pg", words, weights)

    def gradients(part):
        own = group_advantages(rewards[:, part].ravel(), np.repeat(np.arange(prompts), rewards[:, part].shape[1]), "none").advantage
        return (own.reshape(prompts, -1)[..., None] * (words[:, part] - chance[:, None])).mean(axis=1)

    exact = weights * chance * (1 - chance)
    mean = exact.mean(axis=0)
    known = float((exact**2).sum(axis=1).mean() / (mean @ mean) - 1)
    value, error = estimate(floor(np.stack([gradients(slice(0, 4)), gradients(slice(4, 8))])))
    assert value == pytest.approx(known, abs=3 * error)
    whole = estimate(noise_scale(of_groups(gradients(slice(0, 8))[None])))[0]
    assert known < value + 3 * error < whole


def test_fewer_than_three_prompts_have_no_jackknife():
    assert gradient_noise.FEWEST_PROMPTS == 3
    assert np.isfinite(cross_products(np.eye(3), np.eye(3))).all()

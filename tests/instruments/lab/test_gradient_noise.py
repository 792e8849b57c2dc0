"""Noise scale, direction and floor in games where they are known: by enumeration, and by a closed form that enumeration confirms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
import pytest

from ospo_cli.instruments.lab import gradient_noise as lab
from ospo_cli.instruments.lab.gradient_quality import INTERACTIONS, Condition, draw, gradients, shares
from ospo_cli.maths import gradient_noise
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.gradient_noise import cross_products, estimate, floor, noise_scale, of_groups
from ospo_cli.maths.redistribution import RULES, Settings

Array = np.ndarray


@dataclass(frozen=True)
class Game:
    """All answers of a prompt: probability, gradient of its logarithm by the policy's logits, and reward."""

    probability: Array
    score: Array
    reward: Array

    @property
    def gradient(self) -> Array:
        """Of the expected reward."""
        return np.asarray((self.probability * self.reward) @ self.score)

    def squared_length(self, group_size: int) -> float:
        """Return E|g|² of the leave-one-out gradient, a U-statistic of order 2 with kernel (R - R')(s - s')/2 (Hoeffding 1948)."""
        centred, square = self.reward - self.probability @ self.reward, (self.score**2).sum(axis=1)
        signal = float(self.gradient @ self.gradient)
        weighted = float(self.probability @ (centred**2 * square))
        one = (weighted - signal) / 4
        two = (weighted + float(self.probability @ centred**2) * float(self.probability @ square)) / 2
        return signal + (4 * (group_size - 2) * one + 2 * two) / (group_size * (group_size - 1))


def words(rng: np.random.Generator, n: int, value: Callable[[Array, Array], Array], is_dependent: bool = False) -> Game:
    """n binary words with a logit each; where dependent, a word behind one that is not said is half as likely."""
    answers = np.array(list(product([0.0, 1.0], repeat=n)))
    chance = np.broadcast_to(rng.uniform(0.2, 0.8, n), answers.shape).copy()
    if is_dependent:
        logits = np.log(chance / (1 - chance))
        logits[:, 1:] -= np.log(2) * (1 - answers[:, :-1])
        chance = 1 / (1 + np.exp(-logits))
    probability = np.where(answers > 0, chance, 1 - chance).prod(axis=1)
    return Game(probability, answers - chance, value(answers, rng.uniform(0.3, 1.0, n)))


def unequal(rng: np.random.Generator, longest: int, vocabulary: int = 3) -> Game:
    """Answers of 0 to `longest` words: before each, stop or go on, then one of a few words; distinct words earn, a pair earns together."""
    stop, chance = rng.uniform(0.2, 0.6, longest), rng.dirichlet(np.ones(vocabulary) * 3)
    worth, found = rng.uniform(0.2, 1.0, vocabulary), []
    for length in range(longest + 1):
        for said in product(range(vocabulary), repeat=length):
            ended = np.arange(longest) == length
            reached = np.arange(longest) <= length
            score = np.concatenate([np.where(reached, ended - stop, 0.0), np.bincount(said, minlength=vocabulary) - length * chance])
            probability = np.prod(1 - stop[:length]) * (stop[length] if length < longest else 1.0) * np.prod(chance[list(said)])
            found.append((probability, score, sum(worth[word] for word in set(said)) + ({0, 1} <= set(said)) - 0.1 * length))
    return Game(*(np.array(column, dtype=float) for column in zip(*found, strict=True)))


def of_group(reward: Array, score: Array) -> Array:
    """Return [..., size] gradient of rollout groups [..., G] under uniform advantages without normalisation."""
    flat = group_advantages(reward.ravel(), np.repeat(np.arange(reward.size // reward.shape[-1]), reward.shape[-1]), "none").advantage
    return np.asarray((flat.reshape(reward.shape)[..., None] * score).mean(axis=-2))


def games(kind: str, count: int, n: int, seed: int = 0) -> list[Game]:
    rng = np.random.default_rng([seed, n])
    if kind == "unequal":
        return [unequal(rng, n) for _ in range(count)]
    name, _, dependent = kind.partition(", ")
    return [words(rng, n, INTERACTIONS[name].value, bool(dependent)) for _ in range(count)]


KINDS = ("additive", "pairs", "substitutes", "pairs, dependent", "unequal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group_size", [2, 3])
def test_the_closed_form_of_the_noise_is_that_of_all_rollout_groups_enumerated(kind: str, group_size: int) -> None:
    for game in games(kind, 3, 2):
        groups = np.array(list(product(range(len(game.reward)), repeat=group_size)))
        probability, g = game.probability[groups].prod(axis=1), of_group(game.reward[groups], game.score[groups])
        factor = (group_size - 1) / group_size  # the mean of the group takes in the answer itself
        assert probability.sum() == pytest.approx(1)
        assert probability @ game.score[groups[:, 0]] == pytest.approx(np.zeros(game.score.shape[1]), abs=1e-12)
        assert probability @ g == pytest.approx(factor * game.gradient, abs=1e-12)
        assert probability @ (g**2).sum(axis=1) == pytest.approx(factor**2 * game.squared_length(group_size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("group_size", [2, 8])
def test_the_instrument_finds_noise_and_floor_that_are_known(kind: str, n: int, group_size: int) -> None:
    """Ten prompts of one policy, each 400 times in place of many prompts of the same law."""
    rng, prompts, times = np.random.default_rng(7), games(kind, 10, n), 400
    exact = np.array([game.gradient for game in prompts])
    signal = float(exact.mean(axis=0) @ exact.mean(axis=0))
    known_floor = float((exact**2).sum(axis=1).mean() / signal - 1)
    known = np.mean([game.squared_length(group_size) for game in prompts]) / signal - 1
    halves = []
    for game in prompts:
        drawn = rng.choice(len(game.reward), size=(2, times, group_size), p=game.probability)
        halves.append(of_group(game.reward[drawn], game.score[drawn]))
    sets = np.concatenate(halves, axis=1)
    for quantity, value in ((noise_scale(of_groups(sets)), known), (floor(sets), known_floor)):
        found, error = estimate(quantity)
        assert found == pytest.approx(value, abs=4 * error)
        assert error < 0.15 * (1 + value)


@pytest.mark.parametrize("n", [2, 8, 12])
@pytest.mark.parametrize("group_size", [2, 8])
@pytest.mark.parametrize("kind", ["additive", "pairs", "substitutes"])
def test_up_to_twelve_words_the_labs_noise_of_grpo_is_the_closed_forms(kind: str, n: int, group_size: int) -> None:
    drawn, rng = draw(Condition(kind, n, group_size), 30, 0), np.random.default_rng([n, group_size])
    answers, known = np.array(list(product([0.0, 1.0], repeat=n))), []
    for chance, weights in zip(drawn.chance, drawn.weights, strict=True):
        probability = np.where(answers > 0, chance, 1 - chance).prod(axis=1)
        game = Game(probability, answers - chance, INTERACTIONS[kind].value(answers, weights))
        assert game.gradient == pytest.approx(INTERACTIONS[kind].gradient(chance[None], weights[None])[0])
        known.append(game.squared_length(group_size) * ((group_size - 1) / group_size) ** 2)
    lengths = []
    for _ in range(150):
        again = replace(drawn, words=(rng.random(drawn.words.shape) < drawn.chance[:, None]).astype(float))
        found = gradients(again, np.zeros((again.rows, n)), {"uniform": RULES["uniform"]}, Settings(), "none")["uniform"]
        lengths.append((found**2).sum(axis=1).mean())
    assert np.mean(lengths) == pytest.approx(np.mean(known), abs=4 * np.std(lengths) / np.sqrt(150))


def test_baselines_of_the_group_game_are_those_of_a_loop_over_texts() -> None:
    for kind in ("additive", "pairs", "substitutes"):
        drawn = draw(Condition(kind, 4, 3), 5, 1)
        value, (spliced, swapped) = INTERACTIONS[kind].value, lab.baselines(drawn)
        for seed, g, place in product(range(5), range(3), range(5)):
            own, others = drawn.words[seed, g], [drawn.words[seed, h] for h in range(3) if h != g]
            texts = [np.concatenate([own[:place], other[place:]]) for other in others]
            assert spliced[seed, g, place] == pytest.approx(np.mean([value(text, drawn.weights[seed]) for text in texts]))
            if place < 4:
                texts = [np.concatenate([own[:place], other[place : place + 1], own[place + 1 :]]) for other in others]
                assert swapped[seed, g, place] == pytest.approx(np.mean([value(text, drawn.weights[seed]) for text in texts]))


@cache
def rows(kind: str, n: int) -> dict[tuple[str, str], dict[str, float]]:
    rules = {name: RULES[name] for name in ("uniform", "signed", "share-only", "potential", "proportional")}
    found = lab.measured(Condition(kind, n, 8), 300, 0, rules, Settings(), "shapley")
    return {(row["estimator"], row["rule"]): row for row in found}


def test_the_two_halves_share_prompts_and_policy_and_no_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    halves, original = [], lab.gradients
    monkeypatch.setattr(lab, "gradients", lambda drawn, *others: halves.append(drawn) or original(drawn, *others))
    list(lab.measured(Condition("pairs", 4, 8), 20, 0, {"uniform": RULES["uniform"]}, Settings(), "random"))
    one, two = halves
    assert np.array_equal(one.chance, two.chance)
    assert np.array_equal(one.weights, two.weights)
    assert (one.words == two.words).mean() < 0.8
    again = replace(two, words=one.words, reward_noise=one.reward_noise)
    assert not np.allclose(shares(one, ESTIMATORS["random"]), shares(again, ESTIMATORS["random"]))


def scale(kind: str, n: int, estimator: str, rule: str = "none") -> float:
    return rows(kind, n)[estimator, rule]["noise_scale"]


def test_the_noise_of_grpo_grows_with_the_words_and_that_of_the_group_game_hardly() -> None:
    for kind in ("additive", "pairs", "substitutes"):
        assert scale(kind, 12, "shapley", "uniform") > 2 * scale(kind, 4, "shapley", "uniform")
        assert scale(kind, 12, "splice(0)") < 1.5 * scale(kind, 4, "splice(0)")


def test_where_words_earn_together_splice_has_less_noise_than_any_deletion_based_rule() -> None:
    order = [("splice(0)", "none"), ("splice(0.5)", "none"), ("shapley", "signed"), ("splice(1)", "none"), ("shapley", "uniform")]
    found = [scale("pairs", 12, *method) for method in order]
    assert found == sorted(found)


def test_potential_collapses_on_substitutes_and_unbiased_splice_does_not() -> None:
    assert scale("substitutes", 12, "shapley", "potential") > scale("substitutes", 12, "shapley", "uniform")
    assert scale("substitutes", 12, "splice(1)") < scale("substitutes", 12, "shapley", "uniform")


def test_on_additive_words_one_step_of_splice_is_swap_and_unbiased_splice_is_potential() -> None:
    for measure in ("noise_scale", "direction", "floor", "progress"):
        found = rows("additive", 8)
        assert found["splice(0)", "none"][measure] == pytest.approx(found["swap", "none"][measure])


@pytest.mark.parametrize("kind", ["additive", "pairs", "substitutes"])
def test_rules_that_are_biased_show_it_prompt_by_prompt_and_the_group_game_is_not(kind: str) -> None:
    found = rows(kind, 8)
    for estimator in ("splice(1)", "splice(0)", "swap"):
        row = found[estimator, "none"]
        assert row["direction"] > 0.97
    assert found["shapley", "proportional"]["direction"] < 0.95


@pytest.mark.parametrize("kind", ["additive", "pairs", "substitutes"])
def test_no_rule_is_below_the_floor_of_the_exact_gradients_but_by_chance_or_bias(kind: str) -> None:
    for (estimator, rule), row in rows(kind, 8).items():
        assert row["noise_scale"] > row["floor"] - 3 * row["floor_standard_error"], (estimator, rule)
    own = rows(kind, 8)["splice(1)", "none"]
    assert own["floor"] == pytest.approx(own["true_floor"], abs=0.25 * (1 + own["true_floor"]))


def test_the_direction_by_prompt_sees_bias_that_is_gone_in_the_mean() -> None:
    rng = np.random.default_rng(0)
    exact = np.array([1.0, 0.0]) + np.zeros((2000, 2))
    turned = exact + np.array([0.0, 1.0]) * rng.choice([-1.0, 1.0], size=(2000, 1))
    halves = turned + rng.standard_normal((2, 2000, 2))
    value, error = estimate(gradient_noise.direction_by_prompt(halves, exact))
    assert value == pytest.approx(np.sqrt(0.5), abs=3 * error)
    assert gradient_noise.direction(of_groups(halves), of_groups(exact[None]))[0] == pytest.approx(1, abs=0.02)
    assert cross_products(exact, exact)[0] == pytest.approx(1)


def test_shares_and_gradients_of_the_lab_are_those_of_its_cosines() -> None:
    drawn = draw(Condition("pairs", 4, 8), 20, 3)
    found = gradients(drawn, shares(drawn, ESTIMATORS["shapley"]), {"signed": RULES["signed"]}, Settings())
    assert found["signed"].shape == (20, 4)

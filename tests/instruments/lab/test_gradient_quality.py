"""Gradients of one rollout group against the exact one: the figures of docs/lab.md, and relations that hold for any draw."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from ospo_cli.errors import CreditError
from ospo_cli.instruments.lab.gradient_quality import (
    INTERACTIONS,
    Condition,
    Quality,
    _quality,
    conditions,
    draw,
    qualities,
    shares,
    standings,
)
from ospo_cli.maths import coalitions
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import RULES, Settings
from tests.games import generator

SEEDS = 300


@cache
def measured(condition: Condition, estimator: str = "myerson", seeds: int = SEEDS) -> dict[str, Quality]:
    drawn = draw(condition, seeds, 0)
    return qualities(drawn, shares(drawn, ESTIMATORS[estimator]), RULES, Settings())


def cosine(rule: str, condition: Condition, estimator: str = "myerson") -> float:
    return float(measured(condition, estimator)[rule].cosine.mean())


# Rows: figures measured before this code was written, by another program (300 seeds; standard error of each at most .02).


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("uniform", (0.92, 0.84, 0.70, 0.58, 0.43)),
        ("proportional", (0.85, 0.52, 0.22, 0.15, 0.09)),
        ("signed", (0.96, 0.95, 0.93, 0.91, 0.89)),
        ("group-additive", (0.95, 0.94, 0.91, 0.89, 0.87)),
        ("potential", (0.93, 0.88, 0.80, 0.71, 0.58)),
        ("share-only", (0.94, 0.95, 0.94, 0.94, 0.94)),
    ],
)
def test_figures_of_additive_words(rule: str, expected: tuple[float, ...]) -> None:
    assert [cosine(rule, Condition("additive", n, 8)) for n in (2, 4, 8, 16, 32)] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("uniform", (0.71, 0.60, 0.50, 0.37)),
        ("proportional", (0.81, 0.74, 0.45, 0.13)),
        ("signed", (0.81, 0.82, 0.81, 0.79)),
        ("group-additive", (0.78, 0.77, 0.75, 0.73)),
        ("potential", (0.76, 0.70, 0.61, 0.50)),
        ("share-only", (0.80, 0.82, 0.83, 0.84)),
    ],
)
def test_figures_of_pairs(rule: str, expected: tuple[float, ...]) -> None:
    assert [cosine(rule, Condition("pairs", n, 8)) for n in (4, 8, 16, 32)] == pytest.approx(expected, abs=0.065)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("uniform", (0.82, 0.68, 0.61)),
        ("proportional", (0.58, 0.25, 0.20)),
        ("signed", (0.95, 0.92, 0.91)),
        ("group-additive", (0.93, 0.90, 0.89)),
        ("potential", (0.84, 0.71, 0.57)),
        ("share-only", (0.94, 0.93, 0.94)),
    ],
)
def test_figures_of_substitutes(rule: str, expected: tuple[float, ...]) -> None:
    assert [cosine(rule, Condition("substitutes", n, 8)) for n in (4, 8, 12)] == pytest.approx(expected, abs=0.065)


def test_random_shares_under_signed_are_worse_than_no_shares() -> None:
    found = [cosine("signed", Condition("additive", n, 8), "random") for n in (2, 4, 8, 16, 32)]
    assert found == pytest.approx([0.90, 0.76, 0.61, 0.49, 0.35], abs=0.04)
    assert max(found) < cosine("uniform", Condition("additive", 2, 8))


def test_credit_pays_more_the_longer_the_answer() -> None:
    gain = [cosine("signed", Condition("additive", n, 8)) - cosine("uniform", Condition("additive", n, 8)) for n in (2, 8, 32)]
    assert gain == sorted(gain)


def test_the_estimator_alone_sees_nothing_of_pairs_and_is_as_good_as_any_on_additive_words() -> None:
    assert cosine("share-only", Condition("additive", 8, 8), "alone") == pytest.approx(cosine("share-only", Condition("additive", 8, 8)))
    assert cosine("share-only", Condition("pairs", 8, 8), "alone") < 0.1 < cosine("share-only", Condition("pairs", 8, 8)) - 0.5


def test_larger_groups_and_less_noise_are_better_for_uniform() -> None:
    by_group = [cosine("uniform", Condition("additive", 8, size)) for size in (2, 8, 32)]
    by_noise = [cosine("uniform", Condition("additive", 8, 8, noise)) for noise in (1.0, 0.5, 0.0)]
    assert by_group == sorted(by_group)
    assert by_noise == sorted(by_noise)


@pytest.mark.parametrize("kind", INTERACTIONS)
def test_gradient_and_variance_are_those_of_all_answers(kind: str) -> None:
    drawn, made = draw(Condition(kind, 4, 2), 3, 5), INTERACTIONS[kind]
    answers = np.array(list(product((0.0, 1.0), repeat=4)))
    for seed in range(3):
        chance, weights = drawn.chance[seed], drawn.weights[seed]
        probability = np.prod(np.where(answers == 1, chance, 1 - chance), axis=1)
        reward = made.value(answers, weights)
        slope = probability @ (reward[:, None] * (answers - chance))
        assert made.gradient(drawn.chance, drawn.weights)[seed] == pytest.approx(slope, abs=1e-12)
        variance = probability @ reward**2 - (probability @ reward) ** 2
        assert made.variance(drawn.chance, drawn.weights)[seed] == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("n", [1, 3, 10])
def test_shares_of_additive_words_are_their_weights_or_the_estimator_is_known_not_to_find_them(estimator: str, n: int) -> None:
    drawn = draw(Condition("additive", n, 4), 6, 1)
    found = shares(drawn, ESTIMATORS[estimator])
    worth = (drawn.words * drawn.weights[:, None]).reshape(-1, n)
    finds_them = np.allclose(found, worth, atol=1e-9)
    assert finds_them == (
        estimator not in ("contiguous-shapley", "uniform", "random", "banzhaf") or n == 1 or (estimator == "banzhaf" and n == 3)
    )


def test_noise_has_the_stated_size_and_spares_the_empty_coalition_and_is_the_same_for_all_rules() -> None:
    drawn = draw(Condition("additive", 3, 8, 0.5), 400, 0)
    masks = coalitions.powerset(3)
    noisy, clean = drawn.values(0, drawn.rows, masks, "x"), draw(Condition("additive", 3, 8), 400, 0).values(0, drawn.rows, masks, "x")
    spread = (noisy - clean) / np.repeat(np.sqrt(INTERACTIONS["additive"].variance(drawn.chance, drawn.weights)), 8)[:, None]
    assert spread.std(axis=0)[0] == 0
    assert spread.std(axis=0)[1:] == pytest.approx(0.5, abs=0.02)
    assert drawn.values(0, drawn.rows, masks[-1:], "another")[:, 0] == pytest.approx(noisy[:, -1])


def test_smaller_groups_are_the_first_completions_of_larger_ones() -> None:
    small, large = draw(Condition("pairs", 6, 4), 5, 3), draw(Condition("pairs", 6, 16), 5, 3)
    assert (small.words == large.words[:, :4]).all()
    assert (small.chance == large.chance).all()


def test_a_factor_of_all_advantages_changes_neither_cosine_nor_squared_error() -> None:
    found = measured(Condition("additive", 8, 8))
    assert found["rms-matched"].cosine == pytest.approx(found["uniform"].cosine)
    assert found["rms-matched"].squared_error == pytest.approx(found["uniform"].squared_error)


@pytest.mark.parametrize("rule", RULES)
def test_the_squared_error_lies_between_none_and_that_of_no_gradient(rule: str) -> None:
    error = measured(Condition("pairs", 8, 8))[rule].squared_error.mean()
    assert 0 <= error <= 1 + 1e-12


def test_the_scale_of_the_squared_error_is_the_best_one() -> None:
    drawn = draw(Condition("additive", 4, 8), 50, 0)
    exact = INTERACTIONS["additive"].gradient(drawn.chance, drawn.weights)
    quality = qualities(drawn, shares(drawn, ESTIMATORS["alone"]), {"share-only": RULES["share-only"]}, Settings(), "none")["share-only"]
    share = drawn.words * drawn.weights[:, None]
    estimate = ((share - share.mean(axis=1, keepdims=True)) * (drawn.words - drawn.chance[:, None])).mean(axis=1)
    errors = [((scale * estimate - exact) ** 2).sum() / (exact**2).sum() for scale in np.linspace(0, 3, 3001)]
    assert quality.squared_error.mean() == pytest.approx(min(errors), abs=1e-6)


def test_a_clear_loser_is_no_tie_and_a_copy_is_one() -> None:
    rng = generator(0)
    base = rng.normal(0.5, 0.1, 200)
    empty = np.zeros(200)
    quality = {
        name: Quality(values, empty, empty > 0)
        for name, values in {
            "worse": base - 0.1 + rng.normal(0, 0.05, 200),
            "best": base,
            "copy": base.copy(),
            "near": base + rng.normal(0, 0.05, 200) - 0.004,
        }.items()
    }
    found = {row.rule: row for row in standings(quality)}
    assert [row.rule for row in standings(quality)] == ["best", "copy", "near", "worse"]
    assert not found["worse"].is_tied
    assert found["copy"].is_tied
    assert found["near"].is_tied


def test_a_kind_that_does_not_exist_for_so_many_words_is_refused_by_name() -> None:
    with pytest.raises(CreditError, match="there are no pairs of 5 words"):
        draw(Condition("pairs", 5, 8), 2, 0)
    with pytest.raises(CreditError, match="unknown interaction: found nonsense, expected additive, pairs, substitutes"):
        draw(Condition("nonsense", 5, 8), 2, 0)


def test_one_axis_moves_at_a_time_unless_all_are_crossed() -> None:
    axes = (["additive", "pairs"], (1, 8), (2, 8), (0.0, 1.0))
    assert len(conditions(*axes, is_crossed=True)) == 4 * 2 + 2 * 2
    assert len(conditions(*axes, is_crossed=False)) == 4 + 3


def test_a_rule_is_tied_up_to_the_two_sided_five_per_cent_shared_out_over_the_comparisons() -> None:
    spread = np.array([-1.0, 1.0] * 50)
    error = spread.std(ddof=1) / 10

    def is_tied(errors: float, others: int) -> bool:
        best, nothing = np.full(100, 0.5), np.zeros(100, dtype=bool)
        found = {"best": Quality(best, best, nothing), "behind": Quality(best - (spread + errors * error) * 0.01, best, nothing)}
        found |= {f"far {number}": Quality(best - 0.4, best, nothing) for number in range(others)}
        return {each.rule: each.is_tied for each in standings(found)}["behind"]

    assert [is_tied(errors, 0) for errors in (1.8, 1.95, 2.0)] == [True, True, False]
    assert [is_tied(errors, 4) for errors in (2.5, 2.7)] == [True, False]  # z = 2.576: 1 % each of five comparisons


def test_an_estimate_that_points_the_other_way_is_worth_no_step() -> None:
    exact = np.array([[1.0, 2.0], [0.5, -1.0]])
    found = _quality(-exact, exact)
    assert found.cosine.tolist() == pytest.approx([-1.0, -1.0])
    assert found.squared_error.mean() == pytest.approx(1.0)

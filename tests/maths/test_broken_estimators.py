"""A guard is shown able to fail: deliberately broken copies of the estimators, each caught by a named check."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Masks, Players
from ospo_cli.maths.estimators import ESTIMATORS, needed_coalitions
from tests.games import Game, random_game, values_of
from tests.oracles import banzhaf_by_coalitions, mean_contiguous_marginal, owen_by_orders, restricted_to_path, shapley_by_orders

Values = np.ndarray
Shares = Callable[[Masks, Values], Values]
N = 5
UNIONS = (0, 0, 1, 1, 1)
ORACLES: dict[str, Callable[[Game], Values]] = {
    "myerson": lambda game: shapley_by_orders(N, restricted_to_path(game)),
    "shapley": lambda game: shapley_by_orders(N, game),
    "owen": lambda game: owen_by_orders(N, game, UNIONS),
    "banzhaf": lambda game: banzhaf_by_coalitions(N, game),
    "contiguous-mean": lambda game: mean_contiguous_marginal(N, game, N),
    "leave-one-out": lambda game: np.array([game(frozenset(range(N))) - game(frozenset(range(N)) - {j}) for j in range(N)]),
    "alone": lambda game: np.array([game(frozenset({j})) for j in range(N)]),
}


def whole(name: str) -> Shares:
    return lambda masks, values: ESTIMATORS[name].shares(masks, values, players=Players(N, UNIONS)).share


def swapped(values: Values, masks: Masks, first: str, second: str) -> Values:
    names = coalitions.to_mask_strings(masks)
    values = values.copy()
    values[[names.index(first), names.index(second)]] = values[[names.index(second), names.index(first)]]
    return values


BREAKS: dict[str, Callable[[Shares], Shares]] = {
    "sign": lambda shares: lambda masks, values: -shares(masks, values),
    "weight": lambda shares: lambda masks, values: shares(masks, values) * np.linspace(0.9, 1.1, N),
    "off by one segment": lambda shares: lambda masks, values: np.roll(shares(masks, values), 1),
    "read backwards": lambda shares: lambda masks, values: shares(masks, values)[::-1],
    "masks off by one bit": lambda shares: lambda masks, values: shares(np.roll(masks, 1, axis=1), values),
    "a little left out": lambda shares: lambda masks, values: shares(masks, values) - 1e-6,
    "min-max": lambda shares: lambda masks, values: (lambda s: (s - s.min()) / (s.max() - s.min()))(shares(masks, values)),
    "negative shares dropped": lambda shares: lambda masks, values: np.maximum(shares(masks, values), 0),
    "relative to nothing": lambda shares: lambda masks, values: shares(masks, np.where(masks.any(axis=1), values, values + 0.1)),
}


def disagreement(name: str, shares: Shares) -> float:
    """The check of tests/maths/test_estimators.py and test_values.py: largest difference from the slow oracle, over random games."""
    masks = needed_coalitions(ESTIMATORS[name], N, N, UNIONS)
    games = [random_game(N, seed) for seed in range(4)]
    try:
        return max(float(np.abs(shares(masks, values_of(game, masks)) - ORACLES[name](game)).max()) for game in games)
    except CreditError:
        return float("inf")


@pytest.mark.parametrize("name", list(ORACLES))
def test_the_whole_estimator_agrees_with_its_oracle(name: str) -> None:
    assert disagreement(name, whole(name)) < 1e-12


# The difference of two coalitions that both are there does not depend on the empty one.
CASES = [(name, how) for name in ORACLES for how in BREAKS if (name, how) != ("leave-one-out", "relative to nothing")]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_broken_copy_is_caught(name: str, how: str) -> None:
    assert disagreement(name, BREAKS[how](whole(name))) > 1e-7


@pytest.mark.parametrize("name", ["myerson", "shapley", "owen"])
def test_two_values_that_change_places_are_caught(name: str) -> None:
    first, second = ("11000", "00111")
    assert disagreement(name, lambda masks, values: whole(name)(masks, swapped(values, masks, first, second))) > 1e-7

"""Further coalitions: where they go, what they cost, and that whoever has the values can follow."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.maths import seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS, sample, sampled_shares
from tests.games import Game, random_game, values_of
from tests.oracles import owen_by_orders, shapley_by_orders

NAMES = ["shapley", "owen"]
BUDGET = Budget(exact=2, orders=4, width=32, further=40)


@dataclasses.dataclass
class Followed:
    """A group that was sampled to its end."""

    group: AdaptiveGroup
    asked: list[set[bytes]]
    first: list[set[bytes]]


def follow(name: str, games: list[Game], players: list[Players], budget: Budget = BUDGET, seed: int = 0) -> Followed:
    draws = [seeding.streams(seed, f"r{index}") for index in range(len(games))]
    group = AdaptiveGroup(ESTIMATORS[name], players, budget, draws)
    asked: list[set[bytes]] = [set() for _ in games]
    first: list[set[bytes]] = []
    while wanted := group.request():
        for index, masks in wanted:
            asked[index] |= {mask.tobytes() for mask in masks}
        first = first or [set(each) for each in asked]
        group.receive([values_of(games[index], masks) for index, masks in wanted])
    return Followed(group, asked, first)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 7))
def test_shares_sum_to_the_gain_and_the_budget_is_never_exceeded(name: str, seed: int, n: int) -> None:
    games = [random_game(n, seed + index) for index in range(3)]
    found = follow(name, games, [Players(n, (0,) * (n - 1) + (1,))] * 3)
    further = sum(len(asked - first) for asked, first in zip(found.asked, found.first, strict=True))
    assert further <= 3 * BUDGET.further
    for game, shares in zip(games, found.group.shares(), strict=True):
        assert shares.share.sum() == pytest.approx(game(frozenset(range(n))), abs=1e-9)


def test_nothing_further_is_asked_where_the_order_is_certain() -> None:
    worth = np.array([0.1, 0.4, 0.2, 0.3, 0.0])
    found = follow("shapley", [lambda members: float(worth[list(members)].sum())], [Players(5)])
    assert found.asked == found.first


def test_the_budget_goes_to_the_rollout_that_is_uncertain_and_to_its_doubtful_segments() -> None:
    noise = random_game(6, 1)

    def certain(members: frozenset[int]) -> float:
        return float(sum(members))

    def doubtful(members: frozenset[int]) -> float:
        # Segments 0 and 1 differ from each other by noise, the others by far.
        return 10.0 * sum(member for member in members if member > 1) + noise(members & {0, 1, 2})

    found = follow("shapley", [certain, doubtful], [Players(6)] * 2)
    assert found.asked[0] == found.first[0]
    assert found.asked[1] > found.first[1]
    count = found.group.shares()[1].n_contributions
    assert count[:2].min() > count[3:].max()


@pytest.mark.parametrize(
    ("gap", "error", "is_doubtful"),
    [(1.0, 0.4, True), (1.2, 0.4, False), (1.1, 0.4, True), (0.0, 0.0003, False), (0.0, 0.0005, True)],
)
def test_two_shares_are_in_doubt_where_they_differ_by_less_than_twice_the_error_of_their_difference(
    gap: float, error: float, is_doubtful: bool
) -> None:
    """Of two segments with equal errors; a doubt below a thousandth is none."""
    group = AdaptiveGroup(ESTIMATORS["shapley"], [Players(2)], BUDGET, [seeding.streams(0, "r")])
    rollout = group.rollouts[0]
    rollout.mean, rollout.count, rollout.squares = np.array([gap, 0.0]), np.array([4, 4]), np.full(2, error**2 * 3 * 4)
    rollout.look_again()
    assert rollout.wanted.tolist() == [is_doubtful] * 2


def test_each_round_goes_to_the_most_doubtful_quarter_rounded_up() -> None:
    game, scales = random_game(6, 3), [1.0, 4.0, 2.0, 5.0, 3.0]
    group = AdaptiveGroup(ESTIMATORS["shapley"], [Players(6)] * 5, BUDGET, [seeding.streams(0, "same")] * 5)
    group.receive([scales[index] * values_of(game, masks) for index, masks in group.request()])
    assert [index for index, _ in group.request()] == [3, 1]


def test_what_is_missing_to_the_gain_goes_to_each_segment_by_its_part_of_the_variance() -> None:
    noise = random_game(8, 1)

    def value(members: frozenset[int]) -> float:
        # Segments 5 to 7 earn the same in every order, the others do not.
        return 10.0 * sum(member for member in members if member > 4) + noise(members & {0, 1, 2, 3, 4})

    found = follow("shapley", [value], [Players(8)])
    raw, shares = found.group.rollouts[0].mean, found.group.shares()[0]
    missing = value(frozenset(range(8))) - raw.sum()
    assert abs(missing) > 1e-3
    variance = shares.standard_error**2
    assert shares.share - raw == pytest.approx(missing * variance / variance.sum(), abs=1e-12)
    assert shares.share[5:] == pytest.approx([50.0, 60.0, 70.0], abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_more_budget_brings_the_estimate_closer_and_its_error_tells_so(name: str) -> None:
    players, game = Players(7, (0, 0, 0, 1, 1, 2, 2)), random_game(7, 4)
    truth = owen_by_orders(7, game, players.unions or ()) if name == "owen" else shapley_by_orders(7, game)
    errors, told = [], []
    for further in (1, 1_000):
        results = [
            follow(name, [game], [players], dataclasses.replace(BUDGET, further=further), seed).group.shares()[0] for seed in range(20)
        ]
        errors.append(np.sqrt(np.mean([(result.share - truth) ** 2 for result in results])))
        told.append(np.sqrt(np.mean([result.standard_error**2 for result in results])))
    assert errors[1] < 0.5 * errors[0]
    assert told[1] < 0.5 * told[0]


@pytest.mark.parametrize("name", NAMES)
def test_without_doubt_the_estimate_is_that_of_the_first_orders(name: str) -> None:
    players, game, budget = Players(6, (0, 0, 1, 1, 1, 2)), random_game(6, 9), dataclasses.replace(BUDGET, further=1)
    adaptive = follow(name, [game], [players], budget).group.shares()[0]
    drawn = sample(ESTIMATORS[name], [players], budget, [seeding.streams(0, "r0")])
    fixed = sampled_shares(drawn, values_of(game, drawn.coalitions[0])[None])
    assert adaptive.share == pytest.approx(fixed.share[0], abs=1e-9)
    assert adaptive.standard_error == pytest.approx(fixed.standard_error[0], abs=1e-9)


def test_equal_draws_and_values_ask_for_the_same_coalitions() -> None:
    games = [random_game(10, index) for index in range(4)]
    first, again = (follow("shapley", games, [Players(10)] * 4).asked for _ in range(2))
    assert first == again
    assert first != follow("shapley", games, [Players(10)] * 4, seed=1).asked


@pytest.mark.parametrize(("orders", "least", "most"), [(4, 0.3, 0.7), (8, 0.7, 1.2), (16, 0.85, 1.25)])
def test_the_standard_error_knows_nothing_of_what_all_first_orders_miss(orders: int, least: float, most: float) -> None:
    worth = np.random.default_rng(1).uniform(0, 0.3, 10)

    def game(members: frozenset[int]) -> float:
        return sum(worth[member] for member in members) + 0.5 * ({1, 4, 7} <= members)

    truth = worth + 0.5 / 3 * np.isin(np.arange(10), [1, 4, 7])
    budget = dataclasses.replace(BUDGET, orders=orders, further=60)
    found = [follow("shapley", [game], [Players(10)], budget, seed).group.shares()[0] for seed in range(150)]
    told, true = (
        np.sqrt(np.mean([each**2 for each in values]))
        for values in ([one.standard_error for one in found], [one.share - truth for one in found])
    )
    assert least < told / true < most

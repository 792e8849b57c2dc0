"""Shapley, Owen and Banzhaf values and dividends: brute force, axioms, another implementation, and what sampling may claim."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS, evaluated_coalitions, needed_coalitions, sample, sampled_shares
from ospo_cli.maths.myerson import path_dividends, path_myerson, shared_equally
from ospo_cli.maths.shapley import banzhaf_of_subsets, exact_banzhaf, exact_owen, exact_shapley
from tests.games import Game, generator, random_game, values_of, windows
from tests.oracles import banzhaf_by_coalitions, dividends_by_recursion, owen_by_orders, restricted_to_path, shapley_by_orders

SEEDS = st.integers(0, 2**32)
FIXTURE = json.loads((Path(__file__).parent / "shapiq_values.json").read_text())
SAMPLED = ["shapley", "owen", "banzhaf"]


@st.composite
def partitions(draw: st.DrawFn, largest: int = 6) -> Players:
    """Players in unions of neighbours."""
    n = draw(st.integers(1, largest))
    starts = draw(st.lists(st.booleans(), min_size=n - 1, max_size=n - 1))
    return Players(n, tuple(np.cumsum([0, *starts]).tolist()))


def exact(name: str, players: Players, game: Game) -> np.ndarray:
    masks = needed_coalitions(ESTIMATORS[name], players.n, 1_000, players.unions)
    return ESTIMATORS[name].shares(masks, values_of(game, masks), players=players).share


def sampled(name: str, players: Players, game: Game, orders: int, seeds: range) -> np.ndarray:
    """Return [seeds, 2, n] estimates and standard errors."""
    budget = Budget(exact=2, orders=orders, width=players.n)
    draws = [seeding.streams(seed, "r") for seed in seeds]
    drawn = sample(ESTIMATORS[name], [players] * len(draws), budget, draws)
    values = np.stack([values_of(game, masks) for masks in drawn.coalitions])
    result = sampled_shares(drawn, values)
    return np.stack([result.share, result.standard_error], axis=1)


# Another implementation


@pytest.mark.parametrize("case", FIXTURE["games"], ids=lambda case: f"n{case['n']}-{case['seed']}")
def test_shapley_banzhaf_and_dividends_are_those_of_shapiq(case: dict) -> None:
    n, game = case["n"], random_game(case["n"], case["seed"])
    masks = coalitions.powerset(n)
    values = values_of(game, masks)
    assert exact_shapley(masks, values) == pytest.approx(case["shapley"], abs=1e-12)
    assert exact_banzhaf(masks, values) == pytest.approx(case["banzhaf"], abs=1e-12)
    table = np.full((n, n), np.nan)
    for a in range(n):
        for b in range(a, n):
            table[a, b] = restricted_to_path(game)(frozenset(range(a, b + 1)))
    dividends = path_dividends(table)
    assert [dividends[a, b] for a in range(n) for b in range(a, n)] == pytest.approx(case["path_dividends"], abs=1e-12)
    assert path_myerson(table) == pytest.approx(case["path_shapley"], abs=1e-12)


# Brute force


@settings(max_examples=40)
@given(players=partitions(), seed=SEEDS)
def test_owen_is_the_mean_over_all_orders_that_keep_unions_together(players: Players, seed: int) -> None:
    game = random_game(players.n, seed)
    assert exact("owen", players, game) == pytest.approx(owen_by_orders(players.n, game, players.unions or ()), abs=1e-12)


@settings(max_examples=30)
@given(n=st.integers(1, 7), seed=SEEDS)
def test_banzhaf_is_the_mean_over_all_coalitions_of_the_others(n: int, seed: int) -> None:
    game = random_game(n, seed)
    assert exact("banzhaf", Players(n), game) == pytest.approx(banzhaf_by_coalitions(n, game), abs=1e-12)


@settings(max_examples=25)
@given(n=st.integers(1, 6), seed=SEEDS)
def test_window_dividends_are_the_dividends_of_the_game_restricted_to_the_line(n: int, seed: int) -> None:
    game = random_game(n, seed)
    table = np.array([[game(frozenset(range(a, b + 1))) for b in range(n)] for a in range(n)])
    found = path_dividends(table)
    expected = dividends_by_recursion(n, restricted_to_path(game))
    for members, dividend in expected.items():
        a, b = min(members), max(members)
        is_window = len(members) == b - a + 1
        assert dividend == pytest.approx(found[a, b] if is_window else 0.0, abs=1e-9)
    assert found.sum() == pytest.approx(game(frozenset(range(n))), abs=1e-9)
    assert shared_equally(found) == pytest.approx(path_myerson(table), abs=1e-12)


# Axioms


@settings(max_examples=25)
@given(n=st.integers(1, 6), seed=SEEDS)
def test_one_union_and_all_its_own_unions_are_the_shapley_value(n: int, seed: int) -> None:
    game = random_game(n, seed)
    shapley = shapley_by_orders(n, game)
    assert exact("owen", Players(n, (0,) * n), game) == pytest.approx(shapley, abs=1e-12)
    assert exact("owen", Players(n, tuple(range(n))), game) == pytest.approx(shapley, abs=1e-12)
    assert exact("owen", Players(n), game) == pytest.approx(shapley, abs=1e-12)


@settings(max_examples=25)
@given(players=partitions(), seed=SEEDS)
def test_unions_share_out_the_shapley_value_of_the_game_among_unions(players: Players, seed: int) -> None:
    game = random_game(players.n, seed)
    blocks = players.blocks()
    among = shapley_by_orders(int(blocks.max()) + 1, lambda unions: game(frozenset(np.flatnonzero(np.isin(blocks, list(unions))).tolist())))
    share = exact("owen", players, game)
    assert np.bincount(blocks, weights=share) == pytest.approx(among, abs=1e-9)
    assert share.sum() == pytest.approx(game(frozenset(range(players.n))), abs=1e-9)


@pytest.mark.parametrize("name", ["shapley", "owen", "banzhaf"])
@settings(max_examples=20)
@given(n=st.integers(2, 6), seed=SEEDS, data=st.data())
def test_a_null_player_gets_nothing_and_twins_get_the_same(name: str, n: int, seed: int, data: st.DataObject) -> None:
    null, twin, other = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    inner = random_game(n, seed)
    assert exact(name, Players(n), lambda members: inner(members - {null}))[null] == pytest.approx(0, abs=1e-12)
    swap = {twin: other, other: twin}

    def symmetric(members: frozenset[int]) -> float:
        return inner(members) + inner(frozenset(swap.get(member, member) for member in members))

    share = exact(name, Players(n), symmetric)
    assert share[twin] == pytest.approx(share[other], abs=1e-9)


@pytest.mark.parametrize(
    "name", ["shapley", "owen", "banzhaf", "myerson", "contiguous-mean", "contiguous-shapley", "leave-one-out", "alone"]
)
@settings(max_examples=15)
@given(players=partitions(5), seed=SEEDS, weight=st.floats(-3, 3))
def test_credit_of_a_weighted_sum_of_rewards_is_the_weighted_sum_of_credits(name: str, players: Players, seed: int, weight: float) -> None:
    first, second = random_game(players.n, seed), random_game(players.n, seed + 1)
    together = exact(name, players, lambda members: first(members) + weight * second(members))
    assert together == pytest.approx(exact(name, players, first) + weight * exact(name, players, second), abs=1e-9)


@settings(max_examples=25)
@given(n=st.integers(1, 6), seed=SEEDS)
def test_shapley_is_each_coalition_s_dividend_in_equal_parts(n: int, seed: int) -> None:
    game = random_game(n, seed)
    share = np.zeros(n)
    for members, dividend in dividends_by_recursion(n, game).items():
        share[list(members)] += dividend / len(members)
    assert exact("shapley", Players(n), game) == pytest.approx(share, abs=1e-9)


# Two-level family


@settings(max_examples=40)
@given(players=partitions(7))
def test_the_two_level_family_is_all_coalitions_with_at_most_one_union_in_part(players: Players) -> None:
    blocks = players.blocks()
    expected = set()
    for size in range(players.n + 1):
        for members in combinations(range(players.n), size):
            inside = [sum(blocks[member] == union for member in members) for union in range(blocks.max() + 1)]
            parts = sum(0 < count < (blocks == union).sum() for union, count in enumerate(inside))
            if parts <= 1:
                expected.add("".join("1" if player in members else "0" for player in range(players.n)))
    assert set(coalitions.to_mask_strings(coalitions.two_level(players))) == expected
    assert coalitions.two_level_count(players) == len(expected)


def test_two_levels_need_far_fewer_coalitions_than_one() -> None:
    players = Players(12, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3))
    assert coalitions.two_level_count(players) == 208
    assert len(coalitions.powerset(12)) == 4096


@pytest.mark.parametrize("unions", [(0, 1, 0), (0, 0)])
def test_unions_that_cross_or_do_not_fit_are_refused(unions: tuple[int, ...]) -> None:
    with pytest.raises(CreditError, match=r"unions: (cross|not one per segment)"):
        Players(3, unions).blocks()


# Sampling


@settings(max_examples=20)
@given(players=partitions(7), seed=SEEDS, orders=st.integers(1, 9))
def test_sampled_orders_come_with_their_reverses_and_keep_unions_together(players: Players, seed: int, orders: int) -> None:
    blocks = players.blocks()
    found = coalitions.sampled_union_orders(players, orders, generator(seed))
    assert len(found) == orders + orders % 2
    assert np.array_equal(found[0::2, ::-1], found[1::2])
    assert np.array_equal(np.sort(found, axis=1), np.broadcast_to(np.arange(players.n), found.shape))
    assert ((blocks[found][:, 1:] != blocks[found][:, :-1]).sum(axis=1) == blocks.max()).all()


@pytest.mark.parametrize("name", ["shapley", "owen"])
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(2, 7))
def test_sampled_orders_are_efficient_whatever_was_drawn(name: str, seed: int, n: int) -> None:
    game = random_game(n, seed)
    found = sampled(name, Players(n, (0,) + (1,) * (n - 1)), game, 4, range(3))
    assert found[:, 0].sum(axis=1) == pytest.approx([game(frozenset(range(n)))] * 3, abs=1e-9)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_values_are_unbiased_and_their_standard_errors_are_the_spread(name: str) -> None:
    players, game = Players(6, (0, 0, 1, 1, 1, 2)), random_game(6, 11)
    found = sampled(name, players, game, 16, range(2_000))
    truth = exact(name, players, game)
    spread = found[:, 0].std(axis=0, ddof=1)
    assert np.abs(found[:, 0].mean(axis=0) - truth).max() < 4 * (spread / np.sqrt(2_000)).max()
    # Root mean square: the mean of a standard error from eight pairs is 3 % low by itself.
    assert np.sqrt((found[:, 1] ** 2).mean(axis=0)) / spread == pytest.approx(np.ones(6), abs=0.06)


def test_antithetic_orders_halve_the_variance_of_a_game_of_pairs() -> None:
    # v = Σ of pairs: of an order and its reverse exactly one has each first, so that their mean is exact.
    worth = generator(3).uniform(-1, 1, (7, 7))

    def game(members: frozenset[int]) -> float:
        return float(sum(worth[a, b] for a in members for b in members if a < b))

    found = sampled("shapley", Players(7), game, 4, range(5))
    assert found[:, 0] == pytest.approx(np.broadcast_to(exact("shapley", Players(7), game), (5, 7)), abs=1e-9)
    assert found[:, 1].max() < 1e-9


def test_capped_windows_give_myerson_a_standard_error_and_full_ones_none() -> None:
    masks = windows(10)
    values = values_of(random_game(10, 3), masks)
    assert ESTIMATORS["myerson"].shares(masks, values).standard_error is None
    kept = {mask.tobytes() for mask in coalitions.contiguous(10, 10, 30, generator(1))}
    values[[mask.tobytes() not in kept for mask in masks]] = np.nan
    error = ESTIMATORS["myerson"].shares(masks, values).standard_error
    assert error is not None
    assert (error > 0).all()


def test_the_standard_error_of_random_subsets_is_that_of_a_mean_over_pairs() -> None:
    subsets = np.array([[True, False], [False, True], [True, True], [False, False], [False, False], [True, True]])
    share, error = banzhaf_of_subsets(subsets, np.array([0.5, 0.1, 0.9, 0.0, 0.2, 0.8]))
    of_pairs = np.array([[0.4, -0.4], [0.9, 0.9], [0.6, 0.6]])
    assert share == pytest.approx(of_pairs.mean(axis=0))
    assert error == pytest.approx(np.sqrt(((of_pairs - share) ** 2).sum(axis=0) / 2 / 3))


@pytest.mark.parametrize("name", SAMPLED)
def test_long_answers_are_sampled_and_read_as_they_were_drawn(name: str) -> None:
    players, budget, draw = Players(200, tuple(range(200))), Budget(width=4, orders=4), seeding.streams(1, "001:p:00")
    worth = generator(2).uniform(-1, 1, 200)
    present = {mask.tobytes() for mask in evaluated_coalitions([name], [], players, budget, draw)}
    drawn = sample(ESTIMATORS[name], [players], budget, [draw])
    assert {mask.tobytes() for mask in drawn.coalitions[0]} == present
    result = sampled_shares(drawn, drawn.coalitions @ worth)
    tolerance = 1e-9 if name != "banzhaf" else 6 * result.standard_error.max()
    assert result.share[0] == pytest.approx(worth, abs=tolerance)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("n", [0, 1, 2, 64])
def test_every_estimator_names_what_it_needs_for_any_number_of_segments(name: str, n: int) -> None:
    masks = evaluated_coalitions([name], [], Players(n), Budget(orders=4, width=3), seeding.streams(0, "r"))
    assert {"0" * n, "1" * n} <= set(coalitions.to_mask_strings(masks))
    assert len(masks) < 64 * 64 * 5


def test_exact_owen_refuses_a_table_with_a_gap() -> None:
    players = Players(3, (0, 0, 1))
    masks = coalitions.two_level(players)
    with pytest.raises(CreditError, match="Owen value: not all coalitions"):
        exact_owen(masks[:-1], np.zeros(len(masks) - 1), players)

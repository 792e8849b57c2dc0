"""Axioms, brute-force oracles and known answers of the estimators."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Budget
from ospo_cli.maths.estimators import ESTIMATORS, missing_coalitions, needed_coalitions
from ospo_cli.maths.shapley import contiguous_shapley, exact_shapley
from tests.games import ADDITIVE_WORTH, generator, random_game, three_segments, values_of, windows
from tests.oracles import mean_contiguous_marginal, restricted_to_path, shapley_by_orders

SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 2**32)
LINEAR = ["contiguous-mean", "myerson", "leave-one-out", "alone", "uniform"]


def shares(name: str, n: int, game: object) -> np.ndarray:
    masks = needed_coalitions(ESTIMATORS[name], n, 1_000)
    return ESTIMATORS[name].shares(masks, values_of(game, masks), generator()).share


# Known answers of the specification


def test_golden_three_segments_contiguous_mean() -> None:
    assert ESTIMATORS["contiguous-mean"].shares(*three_segments()).share == pytest.approx([0.4, 0.5, 1 / 30])


def test_golden_three_segments_contiguous_shapley() -> None:
    assert contiguous_shapley(*three_segments()) == pytest.approx([1 / 3, 1 / 3, 0.05])


def test_golden_three_segments_myerson() -> None:
    share = ESTIMATORS["myerson"].shares(*three_segments()).share
    assert share == pytest.approx([11 / 30, 17 / 30, 1 / 15])
    assert share.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["contiguous-mean", "myerson", "leave-one-out", "alone"])
def test_golden_additive_game_is_returned_as_it_is(name: str) -> None:
    masks = needed_coalitions(ESTIMATORS[name], 5, 32)
    assert ESTIMATORS[name].shares(masks, masks @ ADDITIVE_WORTH).share == pytest.approx(ADDITIVE_WORTH)


def test_golden_additive_game_under_the_released_weights() -> None:
    masks = windows(5)
    assert contiguous_shapley(masks, masks @ ADDITIVE_WORTH) == pytest.approx([0.16 / 3, 0.115, 0.055 / 3, 0.2875 / 3, 0.16])


def test_golden_weights_of_the_released_code_at_five_segments() -> None:
    masks = windows(5)
    assert contiguous_shapley(masks, masks.sum(axis=1).astype(float)) == pytest.approx([0.533, 0.383, 0.367, 0.383, 0.533], abs=5e-4)


# Oracles


@settings(max_examples=40)
@given(n=SIZES, seed=SEEDS)
def test_myerson_is_the_shapley_value_of_the_game_restricted_to_the_line(n: int, seed: int) -> None:
    game = random_game(n, seed)
    assert shares("myerson", n, game) == pytest.approx(shapley_by_orders(n, restricted_to_path(game)), abs=1e-9)


@settings(max_examples=25)
@given(n=SIZES, seed=SEEDS)
def test_exact_shapley_is_the_mean_over_all_orders(n: int, seed: int) -> None:
    game, masks = random_game(n, seed), coalitions.powerset(n)
    assert exact_shapley(masks, values_of(game, masks)) == pytest.approx(shapley_by_orders(n, game), abs=1e-9)


@settings(max_examples=40)
@given(n=st.integers(1, 8), seed=SEEDS, width=st.integers(1, 8))
def test_contiguous_mean_is_the_mean_over_evaluated_marginals(n: int, seed: int, width: int) -> None:
    game, masks = random_game(n, seed), windows(n, width)
    share = ESTIMATORS["contiguous-mean"].shares(masks, values_of(game, masks)).share
    assert share == pytest.approx(mean_contiguous_marginal(n, game, width), abs=1e-9)


@settings(max_examples=40)
@given(n=st.integers(2, 7), seed=SEEDS, width=st.integers(1, 6))
def test_truncated_myerson_is_the_closed_form_with_the_remainder_in_equal_parts(n: int, seed: int, width: int) -> None:
    game, masks = random_game(n, seed), windows(n, width)

    def dividend(a: int, b: int) -> float:
        def u(first: int, last: int) -> float:
            return game(frozenset(range(first, last + 1)))

        return u(a, b) - u(a + 1, b) - u(a, b - 1) + u(a + 1, b - 1)

    share = np.zeros(n)
    for a in range(n):
        for b in range(a, min(a + width, n)):
            share[a : b + 1] += dividend(a, b) / (b - a + 1)
    share += (game(frozenset(range(n))) - share.sum()) / n
    assert ESTIMATORS["myerson"].shares(masks, values_of(game, masks)).share == pytest.approx(share, abs=1e-9)


# Axioms


@pytest.mark.parametrize("name", ["myerson", "uniform", "random"])
@settings(max_examples=30)
@given(n=SIZES, seed=SEEDS)
def test_efficient_estimators_share_out_the_whole_gain(name: str, n: int, seed: int) -> None:
    game = random_game(n, seed)
    assert shares(name, n, game).sum() == pytest.approx(game(frozenset(range(n))), abs=1e-9)


@settings(max_examples=30)
@given(n=st.integers(2, 10), seed=SEEDS, cap=st.integers(2, 12))
def test_myerson_stays_efficient_when_windows_are_sampled(n: int, seed: int, cap: int) -> None:
    full = windows(n)
    kept = {mask.tobytes() for mask in coalitions.contiguous(n, 1_000, cap, generator(seed))}
    values = values_of(random_game(n, seed), full)
    values[[mask.tobytes() not in kept for mask in full]] = np.nan
    result = ESTIMATORS["myerson"].shares(full, values)
    assert result.efficiency_gap == pytest.approx(0, abs=1e-9)
    assert result.special_case == np.where(
        np.isnan(values).any(), np.where((result.n_contributions == 0).any(), "no-contribution", "sampled-windows"), ""
    )


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=20)
@given(n=SIZES, seed=SEEDS, factor=st.floats(-3, 3))
def test_shares_are_linear_in_the_game(name: str, n: int, seed: int, factor: float) -> None:
    first, second = random_game(n, seed), random_game(n, seed + 1)
    together = shares(name, n, lambda members: first(members) + factor * second(members))
    assert together == pytest.approx(shares(name, n, first) + factor * shares(name, n, second), abs=1e-9)


@pytest.mark.parametrize("name", ["contiguous-mean", "leave-one-out", "alone"])
@settings(max_examples=20)
@given(n=st.integers(2, 6), seed=SEEDS, data=st.data())
def test_a_null_player_gets_nothing(name: str, n: int, seed: int, data: st.DataObject) -> None:
    null = data.draw(st.integers(0, n - 1))
    inner = random_game(n, seed)
    assert shares(name, n, lambda members: inner(members - {null}))[null] == pytest.approx(0, abs=1e-9)


@settings(max_examples=20)
@given(n=st.integers(2, 6), seed=SEEDS, at_end=st.booleans())
def test_a_null_player_at_an_end_of_the_answer_gets_nothing_from_myerson(n: int, seed: int, at_end: bool) -> None:
    # In the middle it links its neighbours: the Myerson value pays for that, by design.
    null = (n - 1) * at_end
    inner = random_game(n, seed)
    assert shares("myerson", n, lambda members: inner(members - {null}))[null] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=20)
@given(n=SIZES, seed=SEEDS)
def test_reading_the_answer_backwards_reverses_the_shares(name: str, n: int, seed: int) -> None:
    game = random_game(n, seed)
    backwards = shares(name, n, lambda members: game(frozenset(n - 1 - member for member in members)))
    assert backwards == pytest.approx(shares(name, n, game)[::-1], abs=1e-9)


@pytest.mark.parametrize("name", ["myerson", "contiguous-mean", "leave-one-out", "alone", "uniform"])
@settings(max_examples=15)
@given(n=st.integers(2, 6), seed=SEEDS)
def test_segments_that_only_their_number_tells_apart_get_equal_shares_from_symmetric_estimators(name: str, n: int, seed: int) -> None:
    worth = np.concatenate([[0], np.cumsum(generator(seed).uniform(-1, 1, n))])
    share = shares(name, n, lambda members: float(worth[len(members)]))
    assert share == pytest.approx(share[::-1], abs=1e-9)


@settings(max_examples=30)
@given(n=st.integers(2, 6), seed=SEEDS, data=st.data())
def test_myerson_is_fair_since_cutting_a_link_costs_both_ends_the_same(n: int, seed: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, n - 2))  # the link between cut and cut + 1
    game = random_game(n, seed)
    whole = shares("myerson", n, game)
    left = shares("myerson", cut + 1, game)
    right = shares("myerson", n - cut - 1, lambda members: game(frozenset(member + cut + 1 for member in members)))
    assert whole[cut] - left[cut] == pytest.approx(whole[cut + 1] - right[0], abs=1e-9)


@settings(max_examples=25)
@given(n=st.integers(1, 6), seed=SEEDS)
def test_exact_shapley_is_efficient_and_gives_a_null_player_nothing(n: int, seed: int) -> None:
    inner, masks = random_game(n, seed), coalitions.powerset(n)
    values = values_of(lambda members: inner(members - {0}), masks)
    share = exact_shapley(masks, values)
    assert share[0] == pytest.approx(0, abs=1e-9)
    assert share.sum() == pytest.approx(values[-1], abs=1e-9)


# Relations


@pytest.mark.parametrize("name", list(ESTIMATORS))
@settings(max_examples=10)
@given(n=SIZES, seed=SEEDS, shift=st.floats(-2, 2))
def test_the_value_of_the_empty_coalition_does_not_matter(name: str, n: int, seed: int, shift: float) -> None:
    masks = needed_coalitions(ESTIMATORS[name], n, 1_000)
    values = values_of(random_game(n, seed), masks)
    order = np.arange(n)[::-1]
    shifted = ESTIMATORS[name].shares(masks, values + shift, order=order).share
    assert shifted == pytest.approx(ESTIMATORS[name].shares(masks, values, order=order).share, abs=1e-9)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("n", [1, 2, 5])
def test_many_rows_at_once_give_what_each_gives_alone(name: str, n: int) -> None:
    masks = needed_coalitions(ESTIMATORS[name], n, 3)
    values = generator(5).random((4, len(masks)))
    order = np.broadcast_to(np.arange(n)[::-1], (4, n))
    together = ESTIMATORS[name].shares(masks, values, order=order)
    alone = [ESTIMATORS[name].shares(masks, row, order=order[0]) for row in values]
    assert np.array_equal(together.share, [result.share for result in alone])
    assert np.array_equal(together.n_contributions, [result.n_contributions for result in alone])


def test_random_shares_are_the_myerson_shares_in_another_order() -> None:
    masks, values = windows(6), generator(2).random(22)
    drawn = ESTIMATORS["random"].shares(masks, values, generator(4)).share
    myerson = ESTIMATORS["myerson"].shares(masks, values).share
    assert sorted(drawn) == sorted(myerson)
    assert drawn.tolist() != myerson.tolist()


def test_a_wrong_sign_in_the_closed_form_would_be_seen() -> None:
    share = ESTIMATORS["myerson"].shares(*three_segments()).share
    masks, values = three_segments()
    values[coalitions.to_mask_strings(masks).index("110")] *= -1
    assert not np.allclose(ESTIMATORS["myerson"].shares(masks, values).share, share)


# Edges


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_an_answer_of_no_segments_has_no_shares(name: str) -> None:
    result = ESTIMATORS[name].shares(needed_coalitions(ESTIMATORS[name], 0, 4), np.array([0.3]), generator())
    assert result.share.shape == (0,)
    assert result.efficiency_gap == 0


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_a_single_segment_gets_everything(name: str) -> None:
    masks = needed_coalitions(ESTIMATORS[name], 1, 4)
    assert ESTIMATORS[name].shares(masks, np.array([0.2, 0.9]), generator()).share == pytest.approx([0.7])


@pytest.mark.parametrize("name", ["myerson", "contiguous-mean"])
def test_two_hundred_segments_are_no_trouble(name: str) -> None:
    worth = generator(1).uniform(-1, 1, 200)
    masks = windows(200, 8)
    assert ESTIMATORS[name].shares(masks, masks @ worth).share == pytest.approx(worth, abs=1e-9)


@pytest.mark.parametrize("missing", ["000", "111"])
def test_the_empty_and_the_grand_coalition_must_have_values(missing: str) -> None:
    masks, values = three_segments()
    values[coalitions.to_mask_strings(masks).index(missing)] = np.nan
    with pytest.raises(CreditError, match="coalition has no value"):
        ESTIMATORS["myerson"].shares(masks, values)


def test_exact_shapley_refuses_a_family_that_is_not_complete() -> None:
    with pytest.raises(CreditError, match="not all coalitions"):
        exact_shapley(*three_segments())


def test_sampled_marginals_carry_their_standard_error() -> None:
    masks, values = windows(4), np.arange(11.0) ** 2
    assert ESTIMATORS["contiguous-mean"].shares(masks, values).standard_error is None
    values[6] = np.nan
    result = ESTIMATORS["contiguous-mean"].shares(masks, values)
    u = dict(zip(coalitions.to_mask_strings(masks), values, strict=True))
    marginals = [u["1000"], u["1100"] - u["0100"], u["1111"] - u["0111"]]
    assert result.n_contributions[0] == 3
    assert result.standard_error[0] == pytest.approx(np.std(marginals, ddof=1) / np.sqrt(3))


@pytest.mark.parametrize("absent", [[7], [3, 9, 12, 15, 16]])
def test_myerson_of_sampled_windows_has_the_error_of_leaving_out_one_eighth_of_them_at_a_time(absent: list[int]) -> None:
    masks = windows(6)
    values = values_of(random_game(6, 3), masks)
    values[absent] = np.nan
    is_window, sizes = masks.any(axis=1), masks.sum(axis=1)
    number = np.cumsum(is_window) - 1
    kept = [np.where(is_window & (sizes < 6) & (number % 8 == part), np.nan, values) for part in range(8)]
    parts = np.array([ESTIMATORS["myerson"].shares(masks, own).share for own in kept])
    # Delete-a-part jackknife, times the share of the windows that the sample left out.
    variance = 7 / 8 * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0) * len(absent) / is_window.sum()
    found = ESTIMATORS["myerson"].shares(masks, values).standard_error
    assert found == pytest.approx(np.sqrt(variance))
    assert found.max() > 0


def test_missing_windows_are_excused_only_under_a_cap_and_up_to_it() -> None:
    masks = windows(4)
    values = np.zeros((1, len(masks)))
    values[0, [3, 5, 7]] = np.nan
    few, enough = (missing_coalitions(ESTIMATORS["myerson"], masks, values, Budget(cap=cap)) for cap in (9, 8))
    assert few.sum() == 3
    assert enough.sum() == 0
    assert missing_coalitions(ESTIMATORS["myerson"], masks, values, Budget(cap=0)).sum() == 3

"""One game: shares as the estimator's own, each coalition asked once, sampled where the budget says so."""

import numpy as np
import pytest

from ospo_cli.errors import CreditError
from ospo_cli.maths import seeding
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.single_game import planned, solve
from tests import games

EFFICIENT = sorted(name for name, each in ESTIMATORS.items() if each.is_efficient)


def solved(name, game, n, unions=None, **budget):
    return solve(
        ESTIMATORS[name], Players(n, unions), Budget(**budget), seeding.streams(0, "game"), lambda masks: games.values_of(game, masks)
    )


@pytest.mark.parametrize("name", EFFICIENT)
@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("further", [0, 20])
def test_shares_of_an_efficient_estimator_sum_to_the_gain_over_nothing_also_where_sampled(name, n, further):
    def shifted(members):
        return 0.3 + games.random_game(n, 1)(members)

    game = solved(name, shifted, n, tuple(index // 3 for index in range(n)), exact=32, orders=8, further=further)
    assert game.empty == pytest.approx(0.3)
    assert game.shares.share.sum() == pytest.approx(game.grand - game.empty, abs=1e-12)


@pytest.mark.parametrize("name", ["myerson", "shapley", "owen", "banzhaf", "leave-one-out", "alone", "contiguous-mean"])
def test_in_an_additive_game_each_segment_gets_its_worth(name):
    game = solved(name, lambda members: sum(games.ADDITIVE_WORTH[list(members)]), 5)
    assert game.shares.share == pytest.approx(games.ADDITIVE_WORTH)
    assert game.alone == pytest.approx(games.ADDITIVE_WORTH)
    assert game.without == pytest.approx(games.ADDITIVE_WORTH.sum() - games.ADDITIVE_WORTH)
    assert np.abs(np.triu(game.dividends, 1)).max() < 1e-12


def test_two_that_earn_only_together_have_one_dividend_and_equal_shares():
    game = solved("shapley", lambda members: float({1, 2} <= members), 4)
    assert game.shares.share == pytest.approx([0, 0.5, 0.5, 0])
    assert np.argwhere(np.abs(game.dividends) > 1e-12).tolist() == [[1, 2]]
    assert game.dividends[1, 2] == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@pytest.mark.parametrize(("n", "exact", "width"), [(1, 16, 32), (6, 64, 3), (9, 16, 32)])
def test_no_coalition_is_asked_twice_and_the_plan_is_an_upper_bound(name, n, exact, width):
    seen = []

    def value(masks):
        seen.extend(mask.tobytes() for mask in masks)
        return masks.sum(axis=1).astype(float)

    players, budget = Players(n, tuple(index // 2 for index in range(n))), Budget(exact=exact, orders=8, width=width)
    game = solve(ESTIMATORS[name], players, budget, seeding.streams(0, "x"), value)
    assert len(seen) == len(set(seen)) == game.coalitions
    assert game.coalitions <= planned(ESTIMATORS[name], players, budget)


def test_sampled_shares_have_standard_errors_and_exact_ones_have_none():
    game = games.random_game(7, 3)
    exact, sampled = solved("shapley", game, 7, exact=128), solved("shapley", game, 7, exact=64)
    assert exact.shares.standard_error is None
    assert (sampled.shares.standard_error > 0).all()
    assert (np.abs(sampled.shares.share - exact.shares.share) < 6 * sampled.shares.standard_error).all()


def test_the_same_name_gives_the_same_sample():
    game = games.random_game(8, 5)
    one, other = (solved("shapley", game, 8, exact=2, orders=4).shares.share for _ in range(2))
    assert one.tolist() == other.tolist()


def test_a_game_without_segments_is_refused():
    with pytest.raises(CreditError, match="has no segment"):
        solved("shapley", lambda members: 0.0, 0)

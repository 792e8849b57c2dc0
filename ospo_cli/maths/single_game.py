"""One game played out: shares of its segments, what each is worth alone and what is lost without it, and dividends of the windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Draw, Masks, Players, contiguous, two_level_count, undrawn
from ospo_cli.maths.estimators import Estimator, Shares, needed_coalitions, sample, sampled_shares, window_table
from ospo_cli.maths.myerson import path_dividends

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SolvedGame:
    """What is known of one game of n segments, in units of its value.

    Attributes:
        shares: φ [n] with counts, standard errors and the efficiency gap (a number).
        empty: v(∅).
        grand: v(N).
        alone: [n] v({j}).
        without: [n] v(N without j).
        dividends: [n, n] Harsanyi dividends of the windows by first and last segment; 0 where the window was not evaluated.
        coalitions: how many distinct coalitions were evaluated.
    """

    shares: Shares
    empty: float
    grand: float
    alone: Values
    without: Values
    dividends: Values
    coalitions: int


def solve(estimator: Estimator, players: Players, budget: Budget, draw: Draw, value: Callable[[Masks], Values]) -> SolvedGame:
    """Return the shares of one game, evaluating each coalition that is needed once.

    Args:
        estimator: shares out v(N) - v(∅); exact, sampled or adaptive, as the budget has it.
        players: at least one segment.
        budget: its `cap` is not used: the windows of one game are few.
        draw: generators of sampled orders and subsets.
        value: bool[m, n] coalitions -> v of each; called with new coalitions only.

    Raises:
        CreditError: there is no segment.

    >>> from ospo_cli.maths.estimators import ESTIMATORS
    >>> worth = np.array([0.1, 0.3])
    >>> game = solve(ESTIMATORS["shapley"], Players(2), Budget(), undrawn, lambda masks: masks @ worth)
    >>> game.shares.share.round(6).tolist(), game.coalitions
    ([0.1, 0.3], 4)
    """
    n = players.n
    if n == 0:
        raise CreditError("game", "has no segment to share its value out to", expected="at least one")
    known: dict[bytes, float] = {}

    def asked(masks: Masks) -> Values:
        flat = masks.reshape(-1, n)
        keys = [mask.tobytes() for mask in flat]
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
        if new:
            rows = sorted(new.values())
            known.update(zip([keys[row] for row in rows], value(flat[rows]).tolist(), strict=True))
        return np.array([known[key] for key in keys], dtype=np.float64).reshape(masks.shape[:-1])

    windows = contiguous(n, budget.width, 0, undrawn(""))
    window_values = asked(windows)
    without = asked(~np.eye(n, dtype=bool))
    return SolvedGame(
        shares=_shares(estimator, players, budget, draw, asked),
        empty=float(window_values[0]),
        grand=float(window_values[-1]),
        alone=asked(np.eye(n, dtype=bool)),
        without=without,
        dividends=path_dividends(window_table(windows, window_values[None]))[0],
        coalitions=len(known),
    )


def planned(estimator: Estimator, players: Players, budget: Budget) -> int:
    """Return at most how many coalitions `solve` evaluates, those of an adaptive budget left out."""
    n, width = players.n, min(budget.width, players.n)
    count = n * width - width * (width - 1) // 2 + 2 + n
    if estimator.is_sampled(players, budget):
        return count + budget.orders * (n - 1)
    if "powerset" in estimator.families:
        return int(count + 2**n)
    return count + (two_level_count(players) if "two-level" in estimator.families else 0)


def _shares(estimator: Estimator, players: Players, budget: Budget, draw: Draw, asked: Callable[[Masks], Values]) -> Shares:
    if not estimator.is_sampled(players, budget):
        masks = needed_coalitions(estimator, players.n, budget.width, players.unions)
        return estimator.shares(masks, asked(masks), rng=draw("random shares"), players=players)
    if estimator.can_adapt(players, budget):
        sampler = AdaptiveGroup(estimator, [players], budget, [draw])
        while wanted := sampler.request():
            sampler.receive([asked(masks) for _, masks in wanted])
        return sampler.shares()[0]
    drawn = sample(estimator, [players], budget, [draw])
    found = sampled_shares(drawn, asked(drawn.coalitions))
    error = None if found.standard_error is None else found.standard_error[0]
    return Shares(found.share[0], found.n_contributions[0], error, found.special_case[0], found.efficiency_gap[0])

"""Further coalitions for the shares whose order is still uncertain, until a budget is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.coalitions import (
    Budget,
    Draw,
    Masks,
    Orders,
    Players,
    chains,
    sampled_orders,
    sampled_union_orders,
)
from ospo_cli.maths.estimators import Estimator, Shares
from ospo_cli.maths.shapley import order_marginals

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

# Two shares are in doubtful order where they differ by less than twice the standard error of their difference.
DOUBT = 2.0
# A doubt smaller than this, in units of reward, is worth no search.
RESOLUTION = 1e-3
# Orders through known coalitions cost no search, but time.
MOST_PAIRS = 64


@dataclass
class _Rollout:
    """What is known of one rollout: running mean and squared deviations of the means of antithetic pairs, by segment."""

    players: Players
    rng: np.random.Generator
    orders: Orders
    wanted: NDArray[np.bool_]
    chain: Masks = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    is_read: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    doubt: float = 0.0
    known: set[bytes] = field(default_factory=set)
    empty: float = 0.0
    grand: float = 0.0
    pairs: int = 0
    count: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mean: Values = field(default_factory=lambda: np.zeros(0))
    squares: Values = field(default_factory=lambda: np.zeros(0))

    def standard_error(self) -> Values:
        if self.count.min(initial=2) > 1:
            return np.asarray(np.sqrt(self.squares / (self.count - 1) / self.count))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(self.squares / np.where(self.count > 1, self.count - 1, np.nan) / self.count))

    def follow(self, orders: Orders) -> Masks:
        """Take the next orders; return the coalitions before and after each wanted segment's turn."""
        count, n = orders.shape
        turn = self.wanted[orders]
        is_read = np.zeros((count, n + 1), dtype=bool)
        is_read[:, :-1] |= turn
        is_read[:, 1:] |= turn
        self.orders, self.chain, self.is_read = orders, chains(orders).reshape(-1, n), is_read.reshape(-1)
        return np.asarray(self.chain[self.is_read])

    def look_again(self) -> None:
        """Find the segments whose place among the others, by share, is uncertain, and how uncertain: the sum of their variances."""
        error = self.standard_error()
        order = np.argsort(-self.mean, kind="stable")
        ordered, spread = self.mean[order], error[order]
        doubt = DOUBT * np.hypot(spread[1:], spread[:-1])
        close = (ordered[:-1] - ordered[1:] < doubt) & (doubt > RESOLUTION)
        self.wanted = np.zeros(len(self.mean), dtype=bool)
        self.wanted[order[1:][close]] = True
        self.wanted[order[:-1][close]] = True
        self.doubt = float((error[self.wanted] ** 2).sum())


class AdaptiveGroup:
    """Estimates of all rollouts of one rollout group, which share a budget of further coalitions.

    The same draws and the same values give the same requests: whoever has the values of an earlier run can follow it to its shares.
    `request` names coalitions, `receive` takes their values, until `request` names none. After `budget.orders` orders for each rollout,
    each round gives one more antithetic pair of orders to the most doubtful quarter of the rollouts, and evaluates of it only what the
    doubtful segments' marginals need.

    Args:
        estimator: one that samples orders.
        players: of each rollout.
        budget: `further` coalitions per rollout on average, over those of the first orders.
        draws: of each rollout.
    """

    def __init__(self, estimator: Estimator, players: Sequence[Players], budget: Budget, draws: Sequence[Draw]) -> None:
        self.estimator, self.budget = estimator, budget
        self.left = budget.further * len(players)
        self.rollouts = []
        for own, draw in zip(players, draws, strict=True):
            rng = draw("orders" if estimator.sampling == "permutation" else "union orders")
            self.rollouts.append(_Rollout(own, rng, self._drawn(own, budget.orders, rng), np.ones(own.n, dtype=bool)))
        self._asked: list[tuple[int, Masks]] = []
        self._is_first = True

    def request(self) -> list[tuple[int, Masks]]:
        """Return (number of the rollout, bool[k, n] coalitions) whose values are wanted next; nothing when done."""
        if self._is_first:
            self._asked = [(index, self._first(rollout)) for index, rollout in enumerate(self.rollouts)]
            return self._asked
        self._asked = []
        for index in self._most_doubtful():
            rollout = self.rollouts[index]
            wanted = rollout.follow(self._drawn(rollout.players, 2, rollout.rng))
            new = _keys(wanted) - rollout.known
            if len(new) > self.left:
                self.left = 0
                break
            self.left -= len(new)
            rollout.known |= new
            self._asked.append((index, wanted))
        return self._asked

    def receive(self, values: Sequence[Values]) -> None:
        """Take v of the coalitions that were asked for last, in the same order."""
        for (index, masks), found in zip(self._asked, values, strict=True):
            rollout = self.rollouts[index]
            if self._is_first:
                self._take_first(rollout, masks, found)
            u = np.full(len(rollout.chain), np.nan)
            u[rollout.is_read] = found - rollout.empty
            marginals = order_marginals(rollout.orders, u.reshape(len(rollout.orders), rollout.players.n + 1))
            for pair in (marginals[0::2] + marginals[1::2]) / 2:
                self._add(rollout, pair)
            rollout.look_again()
        self._is_first = False

    def shares(self) -> list[Shares]:
        """Return the shares of each rollout.

        Segments that were looked at more often have smaller errors; what is missing to u(N) goes to each by its part of the variance.
        Standard errors are as honest as those of the first orders: what these all miss is not looked for (docs/maths.md).
        """
        return [self._shares(rollout) for rollout in self.rollouts]

    def _drawn(self, players: Players, count: int, rng: np.random.Generator) -> Orders:
        if self.estimator.sampling == "permutation":
            return sampled_orders(players.n, count, rng)
        return sampled_union_orders(players, count, rng)

    def _first(self, rollout: _Rollout) -> Masks:
        masks = rollout.follow(rollout.orders)
        rollout.known = _keys(masks)
        return masks

    @staticmethod
    def _take_first(rollout: _Rollout, masks: Masks, found: Values) -> None:
        n = rollout.players.n
        size = masks.sum(axis=1)
        rollout.empty = float(found[int(np.flatnonzero(size == 0)[0])])
        rollout.grand = float(found[int(np.flatnonzero(size == n)[0])]) - rollout.empty
        rollout.count, rollout.mean, rollout.squares = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n)

    @staticmethod
    def _add(rollout: _Rollout, pair: Values) -> None:
        # Welford (1962), for the segments that this pair tells of.
        told = ~np.isnan(pair)
        rollout.count = rollout.count + told
        delta = np.where(told, pair - rollout.mean, 0.0)
        rollout.mean = rollout.mean + delta / np.maximum(rollout.count, 1)
        rollout.squares = rollout.squares + delta * np.where(told, pair - rollout.mean, 0.0)
        rollout.pairs += 1

    def _most_doubtful(self) -> list[int]:
        if self.left <= 0:
            return []
        doubts = [
            (-rollout.doubt, index) for index, rollout in enumerate(self.rollouts) if rollout.pairs < MOST_PAIRS and rollout.wanted.any()
        ]
        return [index for _, index in sorted(doubts)[: -(-len(doubts) // 4)]]

    def _shares(self, rollout: _Rollout) -> Shares:
        share = rollout.mean
        error = rollout.standard_error()
        variance = np.nan_to_num(error) ** 2
        part = variance / variance.sum() if variance.sum() > 0 else np.full(len(share), 1.0 / len(share))
        share = share + (rollout.grand - share.sum()) * part
        special = np.array("sampled-orders", dtype="<U32")
        return Shares(share, 2 * rollout.count, error, special, np.asarray(abs(share.sum() - rollout.grand)))


def _keys(masks: Masks) -> set[bytes]:
    rows, n = masks.shape
    packed = masks.tobytes()
    return {packed[at * n : (at + 1) * n] for at in range(rows)}

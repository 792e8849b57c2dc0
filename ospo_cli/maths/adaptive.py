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
    contiguous,
    sampled_orders,
    sampled_union_orders,
    undrawn,
)
from ospo_cli.maths.estimators import Estimator, Shares, window_table
from ospo_cli.maths.myerson import path_myerson, window_sums
from ospo_cli.maths.shapley import order_marginals, run_sums

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
    known: set[bytes] = field(default_factory=set)
    table: Values | None = None
    base: Values | None = None
    empty: float = 0.0
    grand: float = 0.0
    pairs: int = 0
    count: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    mean: Values = field(default_factory=lambda: np.zeros(0))
    squares: Values = field(default_factory=lambda: np.zeros(0))

    def standard_error(self) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(self.squares / np.where(self.count > 1, self.count - 1, np.nan) / self.count))

    def doubtful(self) -> NDArray[np.bool_]:
        """Return [n] segments whose place among the others, by share, is uncertain."""
        error = self.standard_error()
        share = self.mean + (self.base if self.base is not None else 0.0)
        order = np.argsort(-share, kind="stable")
        doubt = DOUBT * np.hypot(error[order][1:], error[order][:-1])
        close = (share[order][:-1] - share[order][1:] < doubt) & (doubt > RESOLUTION)
        found = np.zeros(len(share), dtype=bool)
        found[order[1:][close]] = True
        found[order[:-1][close]] = True
        return found


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
            rollout.orders = self._drawn(rollout.players, 2, rollout.rng)
            wanted = _coalitions_of(rollout.orders, rollout.wanted)
            new = {mask.tobytes() for mask in wanted} - rollout.known
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
            at = 0
            if self._is_first:
                at = self._take_first(rollout, masks, found)
            n = rollout.players.n
            chain = chains(rollout.orders).reshape(-1, n)
            is_read = _is_read(rollout.orders, rollout.wanted).reshape(-1)
            u = np.full(len(chain), np.nan)
            u[is_read] = found[at:] - rollout.empty
            if rollout.table is not None:
                u[is_read] -= run_sums(window_sums(rollout.table)[None], chain[is_read][None])[0]
            marginals = order_marginals(rollout.orders, u.reshape(len(rollout.orders), n + 1))
            for pair in (marginals[0::2] + marginals[1::2]) / 2:
                self._add(rollout, pair)
        self._is_first = False

    def shares(self) -> list[Shares]:
        """Return the shares of each rollout.

        Segments that were looked at more often have smaller errors; what is missing to u(N) goes to each by its part of the variance.
        """
        return [self._shares(rollout) for rollout in self.rollouts]

    def _drawn(self, players: Players, count: int, rng: np.random.Generator) -> Orders:
        if self.estimator.sampling == "permutation":
            return sampled_orders(players.n, count, rng)
        return sampled_union_orders(players, count, rng)

    def _windows(self, players: Players) -> Masks:
        if not self.estimator.has_windows:
            return np.zeros((0, players.n), dtype=bool)
        return contiguous(players.n, self.budget.width, 0, undrawn(""))

    def _first(self, rollout: _Rollout) -> Masks:
        masks = np.concatenate([self._windows(rollout.players), _coalitions_of(rollout.orders, rollout.wanted)])
        rollout.known = {mask.tobytes() for mask in masks}
        return masks

    def _take_first(self, rollout: _Rollout, masks: Masks, found: Values) -> int:
        n = rollout.players.n
        size = masks.sum(axis=1)
        rollout.empty = float(found[int(np.flatnonzero(size == 0)[0])])
        rollout.grand = float(found[int(np.flatnonzero(size == n)[0])]) - rollout.empty
        rollout.count, rollout.mean, rollout.squares = np.zeros(n, dtype=np.int64), np.zeros(n), np.zeros(n)
        windows = len(self._windows(rollout.players))
        if windows:
            rollout.table = window_table(masks[:windows], found[None, :windows])[0]
            rollout.base = path_myerson(rollout.table)
        return windows

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
        doubts = []
        for index, rollout in enumerate(self.rollouts):
            if rollout.pairs >= MOST_PAIRS:
                continue
            rollout.wanted = rollout.doubtful()
            if rollout.wanted.any():
                doubts.append((-float((rollout.standard_error()[rollout.wanted] ** 2).sum()), index))
        return [index for _, index in sorted(doubts)[: -(-len(doubts) // 4)]]

    def _shares(self, rollout: _Rollout) -> Shares:
        share = rollout.mean + (rollout.base if rollout.base is not None else 0.0)
        error = rollout.standard_error()
        variance = np.nan_to_num(error) ** 2
        part = variance / variance.sum() if variance.sum() > 0 else np.full(len(share), 1.0 / len(share))
        share = share + (rollout.grand - share.sum()) * part
        special = np.array("sampled-orders", dtype="<U32")
        return Shares(share, 2 * rollout.count, error, special, np.asarray(abs(share.sum() - rollout.grand)))


def _is_read(orders: Orders, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool[orders, n + 1]: the coalitions before and after each wanted segment's turn."""
    turn = wanted[orders]
    is_read = np.zeros((len(orders), orders.shape[1] + 1), dtype=bool)
    is_read[:, :-1] |= turn
    is_read[:, 1:] |= turn
    return is_read


def _coalitions_of(orders: Orders, wanted: NDArray[np.bool_]) -> Masks:
    return np.asarray(chains(orders)[_is_read(orders, wanted)])

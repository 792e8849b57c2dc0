"""What each segment earned: one registry of estimators, from coalition values to shares in units of reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.coalitions import (
    Budget,
    Draw,
    Masks,
    Orders,
    Players,
    chains,
    contiguous,
    empty_and_grand,
    family,
    is_powerset_small,
    orders_of,
    subsets_of,
    two_level_count,
    undrawn,
    union_of,
)
from ospo_cli.maths.contributions import mean_marginals
from ospo_cli.maths.myerson import path_myerson
from ospo_cli.maths.shapley import (
    banzhaf_of_subsets,
    contiguous_shapley,
    exact_banzhaf,
    exact_owen,
    exact_shapley,
    mean_of_pairs,
    order_marginals,
)

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

JACKKNIFE_PARTS = 8


@dataclass(frozen=True)
class Shares:
    """Shares φ of n segments, [..., n] like the values that they come from.

    Attributes:
        share: φ, in units of reward.
        n_contributions: marginals (or windows) that each share rests on.
        standard_error: of each share where coalitions were sampled (NaN where it cannot be told), else None.
        special_case: "" or the named case: `sampled-windows`, `sampled-orders`, `sampled-subsets` where coalitions were sampled,
            `no-contribution` where a segment had no marginal.
        efficiency_gap: [...] |Σφ - u(N)|.
    """

    share: Values
    n_contributions: Indices
    standard_error: Values | None
    special_case: NDArray[np.str_]
    efficiency_gap: Values


@dataclass(frozen=True)
class Estimator:
    """A way to share out v(N) - v(empty).

    Attributes:
        name: as in `attribute.estimator`.
        meaning: one line for people.
        families: coalition families that it needs evaluated (where `sampling` is given: for the exact value).
        is_efficient: whether the shares always sum to v(N) - v(empty).
        formula: (masks, u, order, players) -> (shares, number of contributions, standard error or None), from a table of values.
        needs_order: whether it draws a random order of the segments.
        sampling: family of orders or subsets that takes the place of `families` where the exact value needs more coalitions than
            the budget allows; "" where there is none.
        has_unions: it knows the unions.
    """

    name: str
    meaning: str
    families: tuple[str, ...]
    is_efficient: bool
    formula: Callable[[Masks, Values, Orders | None, Players], tuple[Values, Indices, Values | None]]
    needs_order: bool = False
    sampling: str = ""
    has_unions: bool = False

    def is_sampled(self, players: Players, budget: Budget) -> bool:
        """Tell whether the coalitions of these players are sampled orders or subsets."""
        if not self.sampling or players.n < 2:
            return False
        if self.sampling == "two-level":
            return two_level_count(players) > budget.exact
        return not is_powerset_small(players.n, budget)

    def can_adapt(self, players: Players, budget: Budget) -> bool:
        """Tell whether further orders are sampled where the order of shares is uncertain."""
        return budget.further > 0 and self.sampling in ("permutation", "two-level") and self.is_sampled(players, budget)

    def families_for(self, players: Players, budget: Budget) -> tuple[str, ...]:
        """Return the names of the coalition families that are needed."""
        if not self.is_sampled(players, budget):
            return self.families if players.n > 1 else ()
        return (self.sampling,)

    def shares(
        self,
        masks: Masks,
        values: Values,
        rng: np.random.Generator | None = None,
        order: Orders | None = None,
        players: Players | None = None,
    ) -> Shares:
        """Return the shares from a table of values.

        Args:
            masks: bool[m, n] coalitions; the empty and the grand one among them.
            values: [m] or [rows, m] v(S); NaN where not evaluated.
            rng: draws the order where one is needed and none is given.
            order: [..., n] the order of segments (estimators that need one).
            players: the segments with their unions (estimators that know unions); each its own if not given.

        Raises:
            CreditError: the empty or the grand coalition has no value.
        """
        n = masks.shape[1]
        if n == 0:
            return _no_shares(values.shape[:-1])
        u = np.asarray(values - np.asarray(_value_of(masks, values, np.zeros(n, dtype=bool)))[..., None])
        grand = _value_of(masks, u, np.ones(n, dtype=bool))
        if players is None:
            players = Players(n)
        if self.needs_order and order is None:
            if rng is None:
                raise ValueError(f"estimator {self.name} needs a generator or an order")
            order = rng.permuted(np.broadcast_to(np.arange(n), (*values.shape[:-1], n)), axis=-1)
        share, count, error = self.formula(masks, u, order, players)
        has_gaps = np.isnan(u).any(axis=-1)
        standard_error = None
        if error is not None and has_gaps.any():
            standard_error = np.where(np.asarray(has_gaps)[..., None], error, np.nan)
        special = np.where((count == 0).any(axis=-1), "no-contribution", np.where(has_gaps, "sampled-windows", "")).astype("<U32")
        return Shares(share, count, standard_error, special, np.abs(share.sum(axis=-1) - grand))


@dataclass(frozen=True)
class Sample:
    """The orders or subsets of several rollouts of n segments each, and the coalitions whose values are read, in that order.

    Attributes:
        orders: [rows, orders, n], or None.
        coalitions: bool[rows, k, n].
    """

    orders: Orders | None
    coalitions: Masks


def sample(estimator: Estimator, players: Sequence[Players], budget: Budget, draws: Sequence[Draw]) -> Sample:
    """Return what a sampling estimator reads, drawn by each rollout's own generators."""
    n = players[0].n
    if estimator.sampling == "subsets":
        subsets = np.stack([subsets_of(own, budget, draw) for own, draw in zip(players, draws, strict=True)])
        return Sample(None, np.concatenate([np.broadcast_to(empty_and_grand(n), (len(players), 2, n)), subsets], axis=1))
    orders = np.stack([orders_of(estimator.sampling, own, budget, draw) for own, draw in zip(players, draws, strict=True)])
    return Sample(orders, chains(orders).reshape(len(players), -1, n))


def sampled_shares(drawn: Sample, values: Values) -> Shares:
    """Return the shares of each row from the values of its sample: orders are efficient (each shares out v(N) - v(empty)) and unbiased.

    Args:
        drawn: as from `sample`.
        values: [rows, k] v of `drawn.coalitions`.
    """
    rows, _, n = drawn.coalitions.shape
    u = values - values[:, :1]
    if drawn.orders is None:
        share, error = banzhaf_of_subsets(drawn.coalitions[:, 2:], u[:, 2:])
        count, grand, case = np.full(share.shape, u.shape[1] - 2), u[:, 1], "sampled-subsets"
    else:
        grand, case = u[:, n], "sampled-orders"
        share, error = mean_of_pairs(order_marginals(drawn.orders, u.reshape(rows, -1, n + 1)))
        count = np.full(share.shape, drawn.orders.shape[1])
    special = np.full(rows, case, dtype="<U32")
    return Shares(share, count, error, special, np.abs(share.sum(axis=-1) - grand))


def _no_shares(rows: tuple[int, ...]) -> Shares:
    shape = (*rows, 0)
    return Shares(np.zeros(shape), np.zeros(shape, dtype=np.int64), None, np.full(rows, "", dtype="<U32"), np.zeros(rows))


def _value_of(masks: Masks, values: Values, mask: Masks) -> Values:
    rows = np.flatnonzero((masks == mask).all(axis=1))
    value: Values = values[..., rows[0]] if len(rows) else np.full(values.shape[:-1], np.nan)
    if np.isnan(value).any():
        name = "grand" if mask.all() else "empty"
        raise CreditError("coalition values", f"the {name} coalition has no value", remedy="score the coalitions again")
    return value


def _contiguous_mean(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Mean of all evaluated marginals between contiguous coalitions; not efficient (Nath et al., arXiv 2601.08403)."""
    mean, count, spread = mean_marginals(masks, u)
    return mean, count, spread / np.sqrt(np.maximum(count, 1))


def _contiguous_shapley(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Shapley's weights on contiguous coalitions alone, never renormalised."""
    return contiguous_shapley(masks, u), mean_marginals(masks, u)[1], None


def _myerson(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Myerson value of the line graph; windows that were not evaluated have no dividend of their own."""
    is_window = _is_window(masks)
    table = _window_table(masks[is_window], u[..., is_window])
    share = path_myerson(table)
    evaluated = ~np.isnan(u[..., is_window])
    count = np.rint(evaluated.astype(np.float64) @ masks[is_window].astype(np.float64)).astype(np.int64)
    if evaluated.all():
        return share, count, None
    # Delete-a-part jackknife over the windows that may be left out, with the finite population's correction: the spread over draws
    # of windows. What all draws miss alike is no part of it.
    n = masks.shape[1]
    size = masks[is_window].sum(axis=1)
    number = np.where(size < n, np.arange(len(size)) % JACKKNIFE_PARTS, -1)
    without = [np.where(number == part, np.nan, u[..., is_window]) for part in range(JACKKNIFE_PARTS)]
    parts = np.stack([path_myerson(_window_table(masks[is_window], kept)) for kept in without])
    left_out = 1.0 - evaluated.mean(axis=-1)[..., None]
    variance = (JACKKNIFE_PARTS - 1) / JACKKNIFE_PARTS * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0)
    return share, count, np.sqrt(variance * left_out)


def _shapley(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Shapley value, exact."""
    return _with_count(exact_shapley(masks, u), 2 ** (players.n - 1))


def _banzhaf(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Banzhaf value, exact."""
    return _with_count(exact_banzhaf(masks, u), 2 ** (players.n - 1))


def _owen(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """Owen value, exact."""
    blocks = players.blocks()
    sizes = np.bincount(blocks)
    share = exact_owen(masks, u, players)
    return share, np.broadcast_to(2 ** (len(sizes) - 1) * 2 ** (sizes[blocks] - 1), share.shape).astype(np.int64), None


def _leave_one_out(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """u(N) - u(N without j)."""
    n = masks.shape[1]
    return _single(masks, u, ~np.eye(n, dtype=bool), lambda part: _value_of(masks, u, np.ones(n, dtype=bool))[..., None] - part)


def _alone(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """u({j})."""
    return _single(masks, u, np.eye(masks.shape[1], dtype=bool), lambda part: part)


def _single(masks: Masks, u: Values, wanted: Masks, share: Callable[[Values], Values]) -> tuple[Values, Indices, Values | None]:
    rows = [np.flatnonzero((masks == mask).all(axis=1)) for mask in wanted]
    part = np.stack([u[..., row[0]] if len(row) else np.full(u.shape[:-1], np.nan) for row in rows], axis=-1)
    exists = ~np.isnan(part)
    return np.where(exists, share(part), 0.0), exists.astype(np.int64), None


def _uniform(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """u(N) / n."""
    n = masks.shape[1]
    grand = _value_of(masks, u, np.ones(n, dtype=bool))
    return _with_count(np.repeat(grand[..., None] / n, n, axis=-1), 1)


def _random(masks: Masks, u: Values, order: Orders | None, players: Players) -> tuple[Values, Indices, Values | None]:
    """The Myerson value handed out in a random order: the same sizes of credit, no knowledge of who earned it."""
    share, count, _ = _myerson(masks, u, None, players)
    assert order is not None
    return np.take_along_axis(share, order, axis=-1), np.take_along_axis(count, order, axis=-1), None


def _with_count(share: Values, count: int) -> tuple[Values, Indices, Values | None]:
    return share, np.full(share.shape, count, dtype=np.int64), None


def _is_window(masks: Masks) -> NDArray[np.bool_]:
    size = masks.sum(axis=1)
    last = masks.shape[1] - 1 - masks[:, ::-1].argmax(axis=1)
    return np.asarray((size > 0) & (last - masks.argmax(axis=1) + 1 == size))


def _window_table(masks: Masks, u: Values) -> Values:
    """Return [..., n, n] u of each window by first and last segment, NaN where there is none; the empty coalition is left out."""
    n = masks.shape[1]
    held = masks.any(axis=1)
    table = np.full((*u.shape[:-1], n, n), np.nan)
    table[..., masks[held].argmax(axis=1), n - 1 - masks[held][:, ::-1].argmax(axis=1)] = u[..., held]
    return table


def window_table(masks: Masks, values: Values) -> Values:
    """Return [rows, n, n] u of each window by its first and last segment, NaN where not evaluated.

    Args:
        masks: bool[m, n] coalitions, the empty one among them.
        values: [rows, m] v.
    """
    chosen = _is_window(masks)
    return _window_table(masks[chosen], values[:, chosen] - _value_of(masks, values, np.zeros(masks.shape[1], dtype=bool))[:, None])


ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator("contiguous-mean", "mean of the marginals between windows (the paper's)", ("contiguous",), False, _contiguous_mean),
        Estimator("contiguous-shapley", "those marginals by Shapley's weights, as they are", ("contiguous",), False, _contiguous_shapley),
        Estimator("myerson", "Shapley value where only neighbours cooperate, from windows", ("contiguous",), True, _myerson),
        Estimator("shapley", "Shapley value, exact or from sampled orders", ("powerset",), True, _shapley, sampling="permutation"),
        Estimator(
            "owen",
            "Owen value of the unions, exact or from sampled orders",
            ("two-level",),
            True,
            _owen,
            sampling="two-level",
            has_unions=True,
        ),
        Estimator("banzhaf", "Banzhaf value, exact or from random subsets", ("powerset",), False, _banzhaf, sampling="subsets"),
        Estimator("leave-one-out", "v(N) - v(N without the segment)", ("leave-one-out",), False, _leave_one_out),
        Estimator("alone", "v of the segment by itself", ("contiguous",), False, _alone),
        Estimator("uniform", "equal parts (control)", (), True, _uniform),
        Estimator("random", "Myerson value in random order (control)", ("contiguous",), True, _random, needs_order=True),
    )
}


def evaluated_coalitions(estimators: Sequence[str], families: Sequence[str], players: Players, budget: Budget, draw: Draw) -> Masks:
    """Return the coalitions of a rollout that serve all named estimators, and further families."""
    names = dict.fromkeys([name for each in estimators for name in ESTIMATORS[each].families_for(players, budget)] + list(families))
    return union_of(empty_and_grand(players.n), *(family(name, players, budget, draw) for name in names))


def needed_coalitions(estimator: Estimator, n: int, width: int, unions: tuple[int, ...] | None = None) -> Masks:
    """Return the table's coalitions that are read for n segments: empty, grand, and the estimator's families without a cap."""
    names = estimator.families if n > 1 else ()
    parts = [family(name, Players(n, unions), Budget(width=width, exact=2**62), undrawn) for name in names]
    return union_of(empty_and_grand(n), *parts)


def missing_coalitions(estimator: Estimator, masks: Masks, values: Values, budget: Budget) -> NDArray[np.bool_]:
    """Return [rows, m] which needed values are absent (NaN) though they should have been evaluated.

    Under a cap of the contiguous family, windows may be absent from a row that has as many of them as the cap allows.
    """
    missing: NDArray[np.bool_] = np.isnan(values)
    if budget.cap == 0 or "contiguous" not in estimator.families:
        return missing
    n = masks.shape[1]
    windows_of_n = contiguous(n, budget.width, 0, undrawn(""))
    is_window = _is_among(masks, windows_of_n)
    has_enough = (~missing[:, is_window]).sum(axis=1) >= min(budget.cap, len(windows_of_n))
    excused = (is_window & ~_is_among(masks, empty_and_grand(n)))[None, :] & has_enough[:, None]
    return np.asarray(missing & ~excused)


def _is_among(masks: Masks, others: Masks) -> NDArray[np.bool_]:
    known = {mask.tobytes() for mask in others}
    return np.array([mask.tobytes() in known for mask in masks], dtype=bool)

"""What each segment earned: one registry of estimators, from coalition values to shares in units of reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.coalitions import Masks, contiguous, empty_and_grand, family, prefix, union_of
from ospo_cli.maths.contributions import shapley_weights, weighted_marginals
from ospo_cli.maths.myerson import path_myerson

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Shares:
    """Shares φ of n segments, [..., n] like the values that they come from.

    Attributes:
        share: φ, in units of reward.
        n_contributions: marginals (or windows) that each share rests on.
        standard_error: of each share where coalitions were sampled (NaN where it cannot be told), else None.
        special_case: "" or the named case: `sampled-windows` where windows are missing, `no-contribution` where a segment had no marginal.
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
        families: coalition families that it needs evaluated.
        needs_order: whether it draws a random order of the segments.
        is_efficient: whether the shares always sum to v(N) - v(empty).
        formula: (masks, u, order) -> (shares, number of contributions, standard deviation of contributions or None).
    """

    name: str
    families: tuple[str, ...]
    is_efficient: bool
    formula: Callable[[Masks, Values, Indices | None], tuple[Values, Indices, Values | None]]
    needs_order: bool = False

    def shares(self, masks: Masks, values: Values, rng: np.random.Generator | None = None, order: Indices | None = None) -> Shares:
        """Return the shares.

        Args:
            masks: bool[m, n] coalitions; the empty and the grand one among them.
            values: [m] or [rows, m] v(S); NaN where not evaluated.
            rng: draws the order where one is needed and none is given.
            order: [..., n] the order of segments (estimators that need one).

        Raises:
            CreditError: the empty or the grand coalition has no value.
        """
        n = masks.shape[1]
        if n == 0:
            shape = (*values.shape[:-1], 0)
            empty = np.zeros(values.shape[:-1])
            return Shares(np.zeros(shape), np.zeros(shape, dtype=np.int64), None, np.full(values.shape[:-1], "", dtype="<U32"), empty)
        u = np.asarray(values - np.asarray(_value_of(masks, values, np.zeros(n, dtype=bool)))[..., None])
        grand = _value_of(masks, u, np.ones(n, dtype=bool))
        if self.needs_order and order is None:
            if rng is None:
                raise ValueError(f"estimator {self.name} needs a generator or an order")
            order = rng.permuted(np.broadcast_to(np.arange(n), (*values.shape[:-1], n)), axis=-1)
        share, count, spread = self.formula(masks, u, order)
        is_sampled = np.isnan(u).any(axis=-1)
        standard_error = None
        if spread is not None and is_sampled.any():
            standard_error = np.where(np.asarray(is_sampled)[..., None], spread / np.sqrt(np.maximum(count, 1)), np.nan)
        special = np.where((count == 0).any(axis=-1), "no-contribution", np.where(is_sampled, "sampled-windows", "")).astype("<U32")
        return Shares(share, count, standard_error, special, np.abs(share.sum(axis=-1) - grand))


def _value_of(masks: Masks, values: Values, mask: Masks) -> Values:
    rows = np.flatnonzero((masks == mask).all(axis=1))
    value: Values = values[..., rows[0]] if len(rows) else np.full(values.shape[:-1], np.nan)
    if np.isnan(value).any():
        name = "grand" if mask.all() else "empty"
        raise CreditError("coalition values", f"the {name} coalition has no value", remedy="score the coalitions again")
    return value


def _contiguous_mean(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """Mean of all evaluated marginals between contiguous coalitions; not efficient (Nath et al., arXiv 2601.08403)."""
    return weighted_marginals(masks, u)


def _contiguous_shapley(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """Shapley's weights on contiguous coalitions, not renormalised: what the code released with the paper computes."""
    share, count, _ = weighted_marginals(masks, u, shapley_weights(masks.shape[1]))
    return share, count, None


def _myerson(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """Myerson value of the line graph; windows that were not evaluated have no dividend of their own."""
    n = masks.shape[1]
    size = masks.sum(axis=1)
    first = masks.argmax(axis=1)
    last = n - 1 - masks[:, ::-1].argmax(axis=1)
    is_window = (size > 0) & (last - first + 1 == size)
    table = np.full((*u.shape[:-1], n, n), np.nan)
    table[..., first[is_window], last[is_window]] = u[..., is_window]
    count = np.rint((~np.isnan(u[..., is_window])).astype(np.float64) @ masks[is_window].astype(np.float64)).astype(np.int64)
    return path_myerson(table), count, None


def _leave_one_out(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """u(N) - u(N without j)."""
    n = masks.shape[1]
    return _single(masks, u, ~np.eye(n, dtype=bool), lambda part: _value_of(masks, u, np.ones(n, dtype=bool))[..., None] - part)


def _alone(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """u({j})."""
    return _single(masks, u, np.eye(masks.shape[1], dtype=bool), lambda part: part)


def _single(masks: Masks, u: Values, wanted: Masks, share: Callable[[Values], Values]) -> tuple[Values, Indices, Values | None]:
    rows = [np.flatnonzero((masks == mask).all(axis=1)) for mask in wanted]
    part = np.stack([u[..., row[0]] if len(row) else np.full(u.shape[:-1], np.nan) for row in rows], axis=-1)
    exists = ~np.isnan(part)
    return np.where(exists, share(part), 0.0), exists.astype(np.int64), None


def _uniform(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """u(N) / n."""
    n = masks.shape[1]
    grand = _value_of(masks, u, np.ones(n, dtype=bool))
    share = np.repeat(grand[..., None] / n, n, axis=-1)
    return share, np.ones(share.shape, dtype=np.int64), None


def _random(masks: Masks, u: Values, order: Indices | None) -> tuple[Values, Indices, Values | None]:
    """The Myerson value handed out in a random order: the same sizes of credit, no knowledge of who earned it."""
    share, count, _ = _myerson(masks, u, None)
    assert order is not None
    return np.take_along_axis(share, order, axis=-1), np.take_along_axis(count, order, axis=-1), None


ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator("contiguous-mean", ("contiguous",), False, _contiguous_mean),
        Estimator("contiguous-shapley", ("contiguous",), False, _contiguous_shapley),
        Estimator("myerson", ("contiguous",), True, _myerson),
        Estimator("leave-one-out", ("leave-one-out",), False, _leave_one_out),
        Estimator("alone", ("contiguous",), False, _alone),
        Estimator("uniform", (), True, _uniform),
        Estimator("random", ("contiguous",), True, _random, needs_order=True),
    )
}


def needed_coalitions(estimator: Estimator, n: int, width: int, with_prefixes: bool) -> Masks:
    """Return what is read for n segments: the empty and the grand coalition, the estimator's families without a cap, prefixes."""
    parts = [family(name, n, width, 0, _unused_generator()) for name in estimator.families]
    return union_of(empty_and_grand(n), *parts, *([prefix(n)] if with_prefixes else []))


def missing_coalitions(estimator: Estimator, masks: Masks, values: Values, width: int, cap: int, with_prefixes: bool) -> NDArray[np.bool_]:
    """Return [rows, m] which needed values are absent (NaN) though they should have been evaluated.

    Under a cap of the contiguous family, windows may be absent from a row that has as many of them as the cap allows.
    """
    missing: NDArray[np.bool_] = np.isnan(values)
    if cap == 0 or "contiguous" not in estimator.families:
        return missing
    n = masks.shape[1]
    windows = contiguous(n, width, 0, _unused_generator())
    is_window = _is_among(masks, windows)
    is_always = _is_among(masks, union_of(empty_and_grand(n), *([prefix(n)] if with_prefixes else [])))
    has_enough = (~missing[:, is_window]).sum(axis=1) >= min(cap, len(windows))
    excused = (is_window & ~is_always)[None, :] & has_enough[:, None]
    return np.asarray(missing & ~excused)


def _is_among(masks: Masks, others: Masks) -> NDArray[np.bool_]:
    known = {mask.tobytes() for mask in others}
    return np.array([mask.tobytes() in known for mask in masks], dtype=bool)


def _unused_generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=0))  # without a cap nothing is drawn

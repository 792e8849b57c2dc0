"""What an audit of credit measures: separation of known phrases, rank correlation, position bias, curves, calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths import student
from ospo_cli.maths.redistribution import NEGLIGIBLE, ascending_ranks

Values = NDArray[np.float64]


class Calibration(NamedTuple):
    """Share of estimates whose 95 % t interval holds the exact value; root mean square standard error over the true spread."""

    coverage: float
    ratio: float


def ranks(values: Values) -> Values:
    """Return ranks from 1, equal values (to 1e-12) sharing their mean rank."""
    return ascending_ranks(values, np.zeros(len(values), dtype=np.int64))


def auc(scores: Values, is_positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive scores above a negative, ties half; NaN where one of the two is absent.

    >>> auc(np.array([0.1, 0.9, 0.4]), np.array([False, True, False]))
    1.0
    """
    positive = int(is_positive.sum())
    negative = len(scores) - positive
    if not positive or not negative:
        return float("nan")
    return float((ranks(scores)[is_positive].sum() - positive * (positive + 1) / 2) / (positive * negative))


def spearman(a: Values, b: Values) -> float:
    """Return the rank correlation; NaN where either is constant (to 1e-12)."""
    if len(a) < 2 or np.ptp(a) <= NEGLIGIBLE or np.ptp(b) <= NEGLIGIBLE:
        return float("nan")
    x, y = ranks(a) - (len(a) + 1) / 2, ranks(b) - (len(b) + 1) / 2
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def position_slope(share: Values, orders: NDArray[np.int64]) -> float:
    """Return how much more a segment gets in the last place than in the first, by least squares within segments, n ≥ 2.

    Args:
        share: [shuffles, n] share of the segment in each place.
        orders: [shuffles, n] which segment stands in each place.
    """
    n = share.shape[1]
    place = np.broadcast_to(np.arange(n) / (n - 1), share.shape)
    count = np.bincount(orders.ravel(), minlength=n)

    def centred(values: Values) -> Values:
        return np.asarray(values - (np.bincount(orders.ravel(), weights=values.ravel(), minlength=n) / count)[orders])

    x = centred(place)
    return float((x * centred(share)).sum() / (x * x).sum())


def curve_area(values: Values) -> float:
    """Return the mean height of a deletion or insertion curve: the trapezoids under [n + 1] values, steps of equal width."""
    return float((values[1:] + values[:-1]).mean() / 2)


def calibration(estimates: Values, errors: Values, exact: Values, degrees: Values) -> Calibration:
    """Compare standard errors with repeated sampling: [repeats, n] estimates and standard errors, [n] exact values.

    Args:
        estimates, errors, exact: as above.
        degrees: [repeats, n] degrees of freedom of the errors.

    Returns:
        Coverage of the 95 % intervals of `student.half_width` (one of no width covers what is exact to 1e-9), and a ratio that is NaN
        where nothing varies.
    """
    covered = np.abs(estimates - exact) <= np.maximum(student.half_width(errors, degrees), 1e-9)
    spread = estimates.var(axis=0, ddof=1).sum()
    ratio = np.sqrt((errors**2).mean(axis=0).sum() / spread) if spread > NEGLIGIBLE**2 else np.nan
    return Calibration(float(covered.mean()), float(ratio))

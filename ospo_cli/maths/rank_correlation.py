"""Do two scorings put things in the same order: Kendall's τ-b, and which item is best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Values are sums of a few numbers of order 1: what differs less is a tie.
TIE = 1e-12


def kendall(a: Values, b: Values) -> float:
    """Return Kendall's τ-b of two scorings of the same n items; NaN where either ties everything, or n < 2.

    (concordant − discordant pairs) / sqrt(pairs not tied in a · pairs not tied in b). −1 to 1; 1 for the same order with the same ties;
    symmetric; scoring a or b by any rising function changes nothing.

    Args:
        a, b: float[n], n up to some thousands (all pairs are looked at).

    Source: Kendall, "The treatment of ties in ranking problems" (1945).

    >>> round(kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 6)
    0.333333
    """
    x, y = _signs(a), _signs(b)
    scale = np.sqrt(np.count_nonzero(x) * float(np.count_nonzero(y)))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def best_items(values: Values) -> set[int]:
    """Return which items have the largest value, ties included.

    >>> sorted(best_items(np.array([0.2, 0.5, 0.5])))
    [1, 2]
    """
    return set(np.flatnonzero(values >= values.max() - TIE).tolist())


def _signs(values: Values) -> Values:
    first, second = np.triu_indices(len(values), 1)
    difference = np.asarray(values, dtype=np.float64)[first] - np.asarray(values, dtype=np.float64)[second]
    return np.asarray(np.where(np.abs(difference) <= TIE, 0.0, np.sign(difference)))

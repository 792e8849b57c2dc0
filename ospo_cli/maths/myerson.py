"""The Myerson value of segments in a row, where only neighbours can cooperate: exact from contiguous windows alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def path_dividends(window_values: Values) -> Values:
    """Return [..., n, n] Harsanyi dividends of the windows: D[a,b] = u[a,b] - u[a+1,b] - u[a,b-1] + u[a+1,b-1], u(empty) = 0.

    D of a window is what its segments earn together and no smaller window within it earns; in the game that gives a coalition the sum of
    the values of its maximal runs, all other coalitions have a dividend of 0. A window that was not evaluated has D = 0.

    Args:
        window_values: [..., n, n], u of the window from the first index to the second; NaN where not evaluated (below the diagonal
            nothing is read).

    Source: Harsanyi, "A simplified bargaining model for the n-person cooperative game" (1963).

    >>> path_dividends(np.array([[0.2, 0.9, 1.0], [0, 0.5, 0.4], [0, 0, 0.1]])).round(4).tolist()
    [[0.2, 0.2, 0.2], [0.0, 0.5, -0.2], [0.0, 0.0, 0.1]]
    """
    n = window_values.shape[-1]
    # Known[a, b+1]: value of the window [a, b]; what was not evaluated is filled by size, shortest first.
    known = np.zeros((*window_values.shape[:-2], n + 1, n + 1))
    dividends = np.zeros(window_values.shape)
    for size in range(1, n + 1):
        first = np.arange(n - size + 1)
        end = first + size
        inferred = known[..., first + 1, end] + known[..., first, end - 1]
        if size > 1:
            inferred = inferred - known[..., first + 1, end - 1]
        value = window_values[..., first, end - 1]
        value = np.where(np.isnan(value), inferred, value)
        known[..., first, end] = value
        dividends[..., first, end - 1] = value - inferred
    return dividends


def path_myerson(window_values: Values) -> Values:
    """Return [..., n] the Myerson value of the line graph on n segments.

    Each member of a window gets an equal part of its dividend: φ_j = Σ over windows [a,b] that hold j of D[a,b] / (b - a + 1). Where the
    grand coalition was evaluated, its own dividend is what is left over, u(N) minus all others, so that Σφ = u(N) holds for truncated
    and sampled windows too.

    Args:
        window_values: as for `path_dividends`.

    Source: Myerson, "Graphs and cooperation in games" (1977); Owen, "Values of graph-restricted games" (1986).

    >>> u = np.array([[0.2, 0.9, 1.0], [0, 0.5, 0.4], [0, 0, 0.1]])
    >>> path_myerson(u).round(4).tolist()
    [0.3667, 0.5667, 0.0667]
    """
    return shared_equally(path_dividends(window_values))


def shared_equally(dividends: Values) -> Values:
    """Return [..., n] the sum over all windows that hold a segment of its equal part of their dividends."""
    n = dividends.shape[-1]
    size = np.maximum(np.arange(n) - np.arange(n)[:, None] + 1, 1)
    # φ_j = Σ_{a ≤ j} Σ_{b ≥ j}: a running sum from the left over a, from the right over b.
    held = np.cumsum(dividends / size, axis=-2)
    held = np.cumsum(held[..., ::-1], axis=-1)[..., ::-1]
    return np.diagonal(held, axis1=-2, axis2=-1).copy()

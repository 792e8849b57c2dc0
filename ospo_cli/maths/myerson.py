"""The Myerson value of segments in a row, where only neighbours can cooperate: exact from contiguous windows alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def path_myerson(window_values: Values) -> Values:
    """Return the Myerson value of the line graph on n segments.

    D[a,b] = u[a,b] - u[a+1,b] - u[a,b-1] + u[a+1,b-1] is the Harsanyi dividend of the window from a to b in the game that gives a
    coalition the sum of the values of its maximal runs, and each member gets an equal part: φ_j = Σ over windows [a,b] that hold j of
    D[a,b] / (b - a + 1). A window that was not evaluated has D = 0. Where the grand coalition was, its own dividend is then what is
    left over, u(N) minus all others, so that Σφ = u(N) holds for truncated and sampled windows too.

    Args:
        window_values: [..., n, n], u of the window from the first index to the second; NaN where not evaluated (below the diagonal
            nothing is read).

    Source: Myerson, "Graphs and cooperation in games" (1977); Owen, "Values of graph-restricted games" (1986).

    >>> u = np.array([[0.2, 0.9, 1.0], [0, 0.5, 0.4], [0, 0, 0.1]])
    >>> path_myerson(u).round(4).tolist()
    [0.3667, 0.5667, 0.0667]
    """
    n = window_values.shape[-1]
    # Known[a, b+1]: value of the window [a, b], 0 for empty ones; what was not evaluated is filled by size, shortest first.
    known = np.zeros((*window_values.shape[:-2], n + 1, n + 1))
    equal_parts = np.zeros_like(known)
    for size in range(1, n + 1):
        first = np.arange(n - size + 1)
        end = first + size
        inferred = known[..., first + 1, end] + known[..., first, end - 1]
        if size > 1:
            inferred = inferred - known[..., first + 1, end - 1]
        value = window_values[..., first, end - 1]
        value = np.where(np.isnan(value), inferred, value)
        known[..., first, end] = value
        equal_parts[..., first, end] = (value - inferred) / size
    # φ_j = Σ_{a ≤ j} Σ_{b ≥ j}: a running sum from the left over a, from the right over b.
    held = np.cumsum(equal_parts[..., :n, 1:], axis=-2)
    held = np.cumsum(held[..., ::-1], axis=-1)[..., ::-1]
    return np.diagonal(held, axis1=-2, axis2=-1).copy()

"""Advantages from prefix values: what the reward did from a segment on, with the value of what stands before it as the state's value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def prefix_advantages(prefix_values: Values, terminal: Values, trace: float) -> Values:
    """Return A_j = Σ_{l ≥ 0} λ^l δ_{j+l}, where δ_j = v(prefix_j) - v(prefix_{j-1}) and a last δ is what the reward holds beyond v(N).

    Args:
        prefix_values: [rows, n + 1] v of the empty prefix up to the whole answer.
        terminal: [rows] R - v(N), the parts of the reward that no text can earn.
        trace: λ, 0 to 1.

    Returns:
        [rows, n], in units of reward. λ = 1: R - v(prefix_{j-1}); λ = 0: δ_j.

    Source: Schulman et al., "High-dimensional continuous control using generalized advantage estimation" (2016), with a prefix's value as
    the state's value; as a potential: Ng, Harada & Russell, "Policy invariance under reward transformations" (1999).

    >>> prefix_advantages(np.array([[0.0, 0.25, 1.0]]), np.array([0.0]), 1.0).tolist()
    [[1.0, 0.75]]
    """
    steps = np.diff(prefix_values, axis=1)
    advantages = np.empty_like(steps)
    following = terminal
    for position in range(steps.shape[1] - 1, -1, -1):
        following = steps[:, position] + trace * following
        advantages[:, position] = following
    return advantages


def centred_by_position(advantages: Values, segment_row: Indices, position: Indices, group: Indices, terminal: Values) -> Values:
    """Subtract from each segment's advantage its rollout group's mean at the same position.

    An answer that ended before a position takes part in that mean with what it still had to come (`terminal`). So every mean runs over
    all G completions, and a completion's own part in it scales the expected gradient by 1 - 1/G everywhere alike, as in GRPO without
    the division by the standard deviation.

    Args:
        advantages: [segments].
        segment_row: [segments] row of each segment.
        position: [segments] index within the row.
        group: [rows] rollout group of each row.
        terminal: [rows].
    """
    if len(advantages) == 0:
        return advantages.copy()
    width = int(position.max()) + 1
    cell = group[segment_row] * width + position
    size = np.bincount(group)
    cells = len(size) * width
    gained = np.bincount(cell, weights=advantages - terminal[segment_row], minlength=cells)
    ended = np.repeat(np.bincount(group, weights=terminal), width)
    mean = (gained + ended) / np.repeat(np.maximum(size, 1), width)
    return np.asarray(advantages - mean[cell])

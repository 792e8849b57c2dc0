"""The advantage of a completion over the others of its rollout group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError

Values = NDArray[np.float64]

DEGENERATE_STD = 1e-8
EPSILON = 1e-4


@dataclass(frozen=True)
class GroupAdvantages:
    """Per row: the advantage, what its reward difference was divided by, and whether its rollout group tells nothing."""

    advantage: Values
    scale: Values
    is_degenerate: NDArray[np.bool_]


def group_advantages(rewards: Values, group: NDArray[np.int64], normalize: str = "std") -> GroupAdvantages:
    """Return Â = (R - mean) / (std + 1e-4) within each rollout group, ddof 1; with `normalize: none`, Â = R - mean.

    Args:
        rewards: [rows] R.
        group: [rows] number of the rollout group, from 0.

    A rollout group whose standard deviation is below 1e-8, or of one completion, is degenerate: Â = 0.
    Source: Shao et al., "DeepSeekMath" (2024), section 4.1.

    >>> group_advantages(np.array([1.0, 0.0, 0.5, 0.5]), np.array([0, 0, 1, 1]), "none").advantage.tolist()
    [0.5, -0.5, 0.0, 0.0]
    """
    if not np.isfinite(rewards).all():
        raise CreditError(f"reward of row {int(np.flatnonzero(~np.isfinite(rewards))[0])}", "is not a finite number")
    count = np.bincount(group).astype(np.float64)
    filled = np.maximum(count, 1)
    centred = rewards - (np.bincount(group, weights=rewards) / filled)[group]
    # A second pass takes off what rounding left in the mean, so that equal rewards have a deviation of 0.
    centred = centred - (np.bincount(group, weights=centred) / filled)[group]
    std = np.sqrt(np.bincount(group, weights=centred**2) / np.maximum(count - 1, 1))
    is_degenerate = ((std < DEGENERATE_STD) | (count < 2))[group]
    scale = std[group] + EPSILON if normalize == "std" else np.ones(len(rewards))
    return GroupAdvantages(np.where(is_degenerate, 0.0, centred / scale), scale, is_degenerate)

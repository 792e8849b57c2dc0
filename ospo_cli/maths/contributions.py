"""Marginal contributions over whatever coalitions were evaluated. u(S) = v(S) - v(empty)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.coalitions import Masks

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def marginal_pairs(masks: Masks) -> tuple[Indices, Indices, Indices]:
    """Return all (row of S, row of S with j, j) where both are rows of bool[m, n]."""
    m, n = masks.shape
    # A random 64-bit number per segment makes the hash of S with j one exclusive-or away; matches are compared bit by bit.
    keys: Indices = np.asarray(np.random.Generator(np.random.Philox(key=n)).integers(0, 2**63, size=n, dtype=np.int64))
    hashes = np.zeros(m, dtype=np.int64)
    for segment in range(n):
        hashes ^= np.where(masks[:, segment], keys[segment], np.int64(0))
    order = np.argsort(hashes, kind="stable")
    row, player = np.nonzero(~masks)
    wanted = hashes[row] ^ keys[player]
    place = np.minimum(np.searchsorted(hashes, wanted, sorter=order), m - 1)
    other = order[place]
    found = hashes[other] == wanted
    row, player, other = row[found], player[found], other[found]
    differs = masks[row] != masks[other]
    same = (differs.sum(axis=1) == 1) & differs[np.arange(len(row)), player]
    return row[same], other[same], player[same]


def mean_marginals(masks: Masks, values: Values) -> tuple[Values, Indices, Values]:
    """Return [..., n] the mean of the evaluated marginals v(S with j) - v(S), their number, and their sample standard deviation.

    The mean is 0 where a segment has none, the deviation NaN where it has fewer than two.

    Args:
        masks: bool[m, n] coalitions.
        values: [..., m] their values; NaN where not evaluated.
    """
    n = masks.shape[1]
    without, with_player, player = marginal_pairs(masks)
    marginals = values[..., with_player] - values[..., without]
    exists = ~np.isnan(marginals)
    marginals = np.where(exists, marginals, 0.0)
    of_player = (player[:, None] == np.arange(n)).astype(np.float64)
    count = np.rint(exists.astype(np.float64) @ of_player).astype(np.int64)
    mean = (marginals @ of_player) / np.maximum(count, 1)
    deviation = np.where(exists, marginals - mean[..., player], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(((deviation**2) @ of_player) / np.where(count > 1, count - 1, np.nan))
    return mean, count, spread


def shapley_weights(n: int) -> Values:
    """Return [n] weights 1 / (n · C(n-1, |S|)) of a marginal by the size of S (Shapley 1953)."""
    return np.array([1.0 / (n * math.comb(n - 1, size)) for size in range(n)])

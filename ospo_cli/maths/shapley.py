"""Values over all coalitions: Shapley, Banzhaf and Owen, exact from tables of values; Shapley and Owen from sampled orders."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.coalitions import Masks, Orders, Players, two_level_count
from ospo_cli.maths.contributions import marginal_pairs, shapley_weights

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def exact_shapley(masks: Masks, values: Values) -> Values:
    """Return the Shapley value: φ_j = Σ_{S without j} |S|! (n-|S|-1)! / n! · (v(S with j) - v(S)).

    Args:
        masks: bool[2^n, n] all coalitions, in any order.
        values: [..., 2^n] their values.

    Efficient, symmetric, linear, and 0 for a null player. Raises CreditError where a coalition is missing.
    Source: Shapley, "A value for n-person games" (1953).
    """
    n = masks.shape[1]
    _check_all(masks, values, "Shapley value", 2**n, "powerset")
    return _summed(masks, values, lambda without, player: shapley_weights(n)[masks[without].sum(axis=1)])


def exact_banzhaf(masks: Masks, values: Values) -> Values:
    """Return the Banzhaf value: the mean of v(S with j) - v(S) over all 2^(n-1) coalitions S without j.

    Symmetric, linear, and 0 for a null player; not efficient. Arguments and errors as for `exact_shapley`.
    Source: Banzhaf, "Weighted voting doesn't work" (1965).
    """
    n = masks.shape[1]
    _check_all(masks, values, "Banzhaf value", 2**n, "powerset")
    return _summed(masks, values, lambda without, player: np.full(len(without), 0.5 ** (n - 1)))


def exact_owen(masks: Masks, values: Values, players: Players) -> Values:
    """Return the Owen value of the given unions.

    φ_i = Σ_{H ⊆ other unions} Σ_{S ⊆ own union without i} h!(m-h-1)!/m! · s!(b-s-1)!/b! · (v(Q_H ∪ S ∪ i) - v(Q_H ∪ S)), with m
    unions, b segments in the own one, Q_H the segments of the unions in H.

    Args:
        masks: bool[rows, n] the coalitions with at most one union there in part; further ones are not read.
        values: [..., rows] their values.
        players: the segments with their unions.

    Efficient, linear, 0 for a null player, symmetric within and between unions; the unions' shares are the Shapley value of the game
    among unions. One union, or each segment its own, is the Shapley value. Raises CreditError where a coalition is missing.
    Source: Owen, "Values of games with a priori unions" (1977).
    """
    blocks = players.blocks()
    sizes = np.bincount(blocks)
    inside = np.stack([masks[:, blocks == union].sum(axis=1) for union in range(len(sizes))], axis=1)
    in_part = (inside > 0) & (inside < sizes)
    kept = in_part.sum(axis=1) <= 1
    masks, values, inside, in_part = masks[kept], values[..., kept], inside[kept], in_part[kept]
    _check_all(masks, values, "Owen value", two_level_count(players), "two-level")
    of_union, of_segment = shapley_weights(len(sizes)), {size: shapley_weights(size) for size in set(sizes.tolist())}

    def weight(without: Indices, player: int) -> Values:
        own = blocks[player]
        others_whole = np.delete(in_part[without], own, axis=1).sum(axis=1) == 0
        h = np.delete(inside[without] > 0, own, axis=1).sum(axis=1)
        return np.asarray(np.where(others_whole, of_union[h] * of_segment[int(sizes[own])][inside[without, own]], 0.0))

    return _summed(masks, values, weight)


def contiguous_shapley(masks: Masks, values: Values) -> Values:
    """Return Σ of the evaluated marginals with Shapley's weights, never renormalised over the coalitions that are contiguous.

    Neither efficient nor symmetric and no Shapley or Owen value: the weights of a segment's marginals sum to less than one, at n = 5 to
    .533 .383 .367 .383 .533. For comparison only.
    """
    return _summed(masks, values, lambda without, player: shapley_weights(masks.shape[1])[masks[without].sum(axis=1)])


def order_marginals(orders: Orders, chain_values: Values) -> Values:
    """Return [..., orders, n] what each segment added when its turn came.

    Args:
        orders: [..., orders, n] as from `sampled_orders`.
        chain_values: [..., orders, n + 1] v along each order, from the empty to the grand coalition.
    """
    marginals = np.empty(orders.shape)
    np.put_along_axis(marginals, orders, np.diff(chain_values, axis=-1), axis=-1)
    return marginals


def mean_of_pairs(marginals: Values) -> tuple[Values, Values]:
    """Return [..., n] mean over orders and its standard error, from the means of orders and their reverses (NaN for one pair).

    An order and its reverse depend on each other; pairs do not.
    Source: Mitchell et al., "Sampling permutations for Shapley value estimation" (2022), section 3.1.
    """
    pairs = (marginals[..., 0::2, :] + marginals[..., 1::2, :]) / 2
    count = pairs.shape[-2]
    if count < 2:
        return pairs.mean(axis=-2), np.full(pairs.shape[:-2] + pairs.shape[-1:], np.nan)
    return pairs.mean(axis=-2), pairs.std(axis=-2, ddof=1) / math.sqrt(count)


def banzhaf_of_subsets(subsets: Masks, values: Values) -> tuple[Values, Values]:
    """Return [..., n] estimate of the Banzhaf value from random subsets and their complements, and its standard error.

    Each pair tells ± (v(S) - v(N without S)) of every segment, + where it is in S; the mean of that over all S is the Banzhaf value.

    Args:
        subsets: bool[..., count, n] as from `random_subsets`.
        values: [..., count].

    Source: after Wang & Jia, "Data Banzhaf" (2023), maximum sample reuse, here with complements.
    """
    difference = values[..., 0::2] - values[..., 1::2]
    signed = np.where(subsets[..., 0::2, :], difference[..., None], -difference[..., None])
    count = signed.shape[-2]
    error = signed.std(axis=-2, ddof=1) / math.sqrt(count) if count > 1 else np.full(signed.shape[:-2] + signed.shape[-1:], np.nan)
    return signed.mean(axis=-2), error


def _summed(masks: Masks, values: Values, weight: Callable[[Indices, int], Values]) -> Values:
    """Sum the evaluated weighted marginals, one segment at a time: memory stays at the size of the table."""
    without, with_player, player = marginal_pairs(masks)
    shares = np.empty((*values.shape[:-1], masks.shape[1]))
    for segment in range(masks.shape[1]):
        own = np.flatnonzero(player == segment)
        marginals = values[..., with_player[own]] - values[..., without[own]]
        weighted = np.where(np.isnan(marginals), 0.0, marginals * weight(without[own], segment))
        # Rows next to each other in memory, so that a row's sum has the same last bit with and without the others.
        shares[..., segment] = np.ascontiguousarray(weighted).sum(axis=-1)
    return shares


def _check_all(masks: Masks, values: Values, what: str, expected: int, family: str) -> None:
    if len(np.unique(np.packbits(masks, axis=1), axis=0)) != expected or np.isnan(values).any():
        raise CreditError(
            what, "not all coalitions are evaluated", found=len(masks), expected=expected, remedy=f"evaluate the family {family}"
        )

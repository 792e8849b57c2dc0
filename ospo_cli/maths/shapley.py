"""The exact Shapley value, from the values of all coalitions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.coalitions import Masks
from ospo_cli.maths.contributions import shapley_weights, weighted_marginals


def exact_shapley(masks: Masks, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Shapley value: φ_j = Σ_{S without j} |S|! (n-|S|-1)! / n! · (v(S with j) - v(S)).

    Args:
        masks: bool[2^n, n] all coalitions, in any order.
        values: [..., 2^n] their values.

    Efficient, symmetric, linear, and 0 for a null player. Raises CreditError where a coalition is missing.
    Source: Shapley, "A value for n-person games" (1953).
    """
    n = masks.shape[1]
    if len(np.unique(np.packbits(masks, axis=1), axis=0)) != 2**n or np.isnan(values).any():
        raise CreditError(
            "Shapley value", "not all coalitions are evaluated", found=len(masks), expected=f"{2**n}", remedy="evaluate the family powerset"
        )
    return weighted_marginals(masks, values, shapley_weights(n))[0]


def contiguous_shapley(masks: Masks, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted sum that the code released with the paper computes: Shapley's weights, contiguous coalitions, no renormalising.

    Neither efficient nor symmetric and no Shapley or Owen value: the weights of a segment's marginals sum to less than one, at n = 5 to
    .533 .383 .367 .383 .533. For comparison only.
    """
    return weighted_marginals(masks, values, shapley_weights(masks.shape[1]))[0]

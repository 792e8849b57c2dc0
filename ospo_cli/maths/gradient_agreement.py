"""Do two halves of a rollout group ask for the same step? Cosines and errors of gradients, from their inner products alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Inner products are sums over all weights in float32: a gradient this short, in units of the longest, is rounding.
NEGLIGIBLE_LENGTH = 1e-9


@dataclass(frozen=True)
class HalfProducts:
    """Inner products of the gradients of half A and half B, [prompts] each; g is that of a rule, u that of GRPO (rule uniform).

    The halves of a prompt are independent samples of the same policy, so that <g_A, u_B> is an unbiased estimate of <E g, E u>.
    """

    g_a_g_a: Values
    g_b_g_b: Values
    g_a_g_b: Values
    g_a_u_b: Values
    g_b_u_a: Values
    u_a_u_a: Values
    u_b_u_b: Values
    u_a_u_b: Values


def agreement(products: HalfProducts) -> Values:
    """Return [prompts] cosine of the rule's gradients of both halves; 0 where one of them is 0."""
    return _cosine(products.g_a_g_b, products.g_a_g_a, products.g_b_g_b, _floor(products))


def agreement_with_uniform(products: HalfProducts) -> Values:
    """Return [prompts] cosine of the rule's gradient of one half and GRPO's of the other, mean of both ways; 0 where one is 0.

    A rule that always says the same agrees with itself, and not with this.
    """
    floor = _floor(products)
    forth = _cosine(products.g_a_u_b, products.g_a_g_a, products.u_b_u_b, floor)
    return (forth + _cosine(products.g_b_u_a, products.g_b_g_b, products.u_a_u_a, floor)) / 2


def scaled_error(products: HalfProducts, weights: Values | None = None) -> Values:
    """Return min over c ≥ 0 of Σ|c g - u'|² / Σ|u'|², u' = GRPO's gradient of the half that g was not made from: 1 says nothing is shared.

    Args:
        products: of the rule.
        weights: [..., prompts] how often each prompt counts; None: once.
    """
    shared = _total((products.g_a_u_b + products.g_b_u_a) / 2, weights)
    own = _total((products.g_a_g_a + products.g_b_g_b) / 2, weights)
    reference = _total((products.u_a_u_a + products.u_b_u_b) / 2, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(own * reference > 0, 1 - np.maximum(shared, 0) ** 2 / (own * reference), 1.0))


def error_to_exact(products: HalfProducts, weights: Values | None = None) -> Values:
    """Return the same with GRPO's exact gradient as reference, whose squared length Σ<u_A, u_B> estimates; NaN where that is not positive.

    The noise of the reference is out of it, the noise of its estimated length is not: it may leave 0 to 1.
    """
    shared = _total((products.g_a_u_b + products.g_b_u_a) / 2, weights)
    own = _total((products.g_a_g_a + products.g_b_g_b) / 2, weights)
    exact = _total(products.u_a_u_b, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((exact > 0) & (own > 0), 1 - np.maximum(shared, 0) ** 2 / (own * exact), np.nan))


def direction(products: HalfProducts, weights: Values | None = None) -> Values:
    """Return the cosine of the rule's expected gradient and GRPO's: what no number of rollouts mends. NaN where a length is not positive.

    Σ<g_A, u_B> / √(Σ<g_A, g_B> Σ<u_A, u_B>); 1 for GRPO itself, and a ratio of estimates: it may leave -1 to 1.
    """
    shared = _total((products.g_a_u_b + products.g_b_u_a) / 2, weights)
    own, exact = _total(products.g_a_g_b, weights), _total(products.u_a_u_b, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where((own > 0) & (exact > 0), shared / np.sqrt(np.abs(own * exact)), np.nan))


def resampled(size: int, count: int, generator: np.random.Generator) -> Values:
    """Return [count, size] how often each prompt is drawn, with replacement."""
    drawn = generator.integers(0, size, size=(count, size)) + np.arange(count)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size).astype(np.float64)


def interval(samples: Values, level: float = 0.95) -> tuple[float, float]:
    """Return the quantiles of bootstrap samples; NaN where one sample is not defined."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _floor(products: HalfProducts) -> float:
    longest = max(float(np.max(lengths, initial=0.0)) for lengths in (products.g_a_g_a, products.g_b_g_b))
    return longest * NEGLIGIBLE_LENGTH**2


def _cosine(product: Values, first: Values, second: Values, floor: float) -> Values:
    known = (first > floor) & (second > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(known, product / np.sqrt(first * second), 0.0)


def _total(values: Values, weights: Values | None) -> Values:
    return np.asarray(values.sum() if weights is None else weights @ values)

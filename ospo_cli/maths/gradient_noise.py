"""How noisy a gradient is, and whether it points the right way: inner products of the gradients of different prompts, and a jackknife.

Every quantity is an array [1 + prompts]: of all prompts, then of all but one. Arithmetic on such arrays gives the same arrays, so that any
ratio has its jackknife standard error (`estimate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Vectors = NDArray[np.float32] | NDArray[np.float64]

# Leaving one prompt out must leave two, whose gradients have one product.
FEWEST_PROMPTS = 3
# Standard deviations above 0 from which a squared length is called a signal.
SIGNAL_AT = 2.0


@dataclass(frozen=True)
class Gradients:
    """Gradients of N prompts under one rule (or of some tokens alone), as they are or projected.

    Attributes:
        mean: [N, size] per prompt: its gradient, or the mean over its rollout groups where it has several.
        squared_length: [N] of one rollout group's gradient, mean over the prompt's.
    """

    mean: Values
    squared_length: Values

    @cached_property
    def signal(self) -> Values:
        """[1 + N] |G|², G the expected gradient: unbiased, since it comes from products of different prompts."""
        return cross_products(self.mean, self.mean)

    @cached_property
    def size(self) -> Values:
        """[1 + N] E|g|² of a rollout group's gradient g."""
        return means(self.squared_length)

    @cached_property
    def significance(self) -> float:
        """|G|² over its standard deviation where G is 0: above `SIGNAL_AT` there is a signal.

        Source: Chen and Qin, "A two-sample test for high-dimensional data with applications to gene-set testing", 2010 (one sample).
        """
        count = len(self.mean)
        gram = self.mean @ self.mean.T
        spread = float((gram**2).sum() - (np.diag(gram) ** 2).sum()) / (count * (count - 1))
        deviation = np.sqrt(2.0 * spread / (count * (count - 1)))
        return float(self.signal[0] / deviation) if deviation > 0 else 0.0

    @property
    def has_signal(self) -> bool:
        """Whether |G|² is significantly above 0."""
        return self.significance > SIGNAL_AT

    def of_step(self, groups: int) -> Values:
        """Return [1 + N] E|mean gradient|² of a step of `groups` rollout groups."""
        return self.signal + (self.size - self.signal) / groups


def of_groups(gradients: Vectors) -> Gradients:
    """Return the gradients of [groups per prompt, N, size]."""
    vectors = np.asarray(gradients, dtype=np.float64)
    return Gradients(vectors.mean(axis=0), np.einsum("gns,gns->n", vectors, vectors) / len(vectors))


def cross_products(first: Values, second: Values) -> Values:
    """Return [1 + N] mean over i ≠ j of <x_i, y_j>: unbiased for <E x, E y>, whatever the noise within a prompt.

    Args:
        first, second: [N, size] x and y, N ≥ 3.

    >>> cross_products(np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [1.0], [4.0]])).round(3).tolist()
    [3.5, 5.5, 3.5, 1.5]
    """
    count = len(first)
    x, y = first.sum(axis=0), second.sum(axis=0)
    same = np.einsum("ns,ns->n", first, second)
    total = x @ y - same.sum()
    without = total - first @ y - second @ x + 2.0 * same
    return np.concatenate([[total / (count * (count - 1))], without / ((count - 1) * (count - 2))])


def means(values: Values) -> Values:
    """Return [1 + N] the mean of all, then of all but one."""
    count = len(values)
    return np.concatenate([[values.mean()], (values.sum() - values) / (count - 1)])


def estimate(quantity: Values) -> tuple[float, float]:
    """Return the value of [1 + N] and its jackknife standard error.

    It is on the large side: up to √2 times the true one where the noise is of second order, as in the direction of an unbiased rule.

    Source: Efron, "The jackknife, the bootstrap and other resampling plans", 1982.

    >>> [round(number, 6) for number in estimate(means(np.array([1.0, 2.0, 3.0])))]  # that of a mean is the usual one
    [2.0, 0.57735]
    """
    without = quantity[1:]
    with np.errstate(invalid="ignore"):  # a ratio that is not finite without some prompt has no standard error
        return float(quantity[0]), float(np.sqrt((len(without) - 1) * np.var(without)))


def noise_scale(own: Gradients) -> Values:
    """Return [1 + N] B = tr Σ / |G|² in rollout groups: a step of B groups has as much noise as signal.

    Source: McCandlish et al., "An empirical model of large-batch training", 2018.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((own.size - own.signal) / own.signal)


def direction(own: Gradients, true: Gradients) -> Values:
    """Return [1 + N] ρ, cosine of the expected gradients: below 1 is bias, which no number of rollouts mends.

    A ratio of estimates: it may leave -1 to 1.
    """
    shared = cross_products(own.mean, true.mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / np.sqrt(own.signal * true.signal))


def progress(own: Gradients, true: Gradients, groups: int) -> Values:
    """Return [1 + N] ρ²/(1 + B/groups): what a step of so many rollout groups gains, where the exact gradient gains 1; 0 where ρ < 0.

    To second order, each step as long as is best for it.
    """
    shared = np.maximum(cross_products(own.mean, true.mean), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared**2 / (own.of_step(groups) * true.signal))


def saving(own: Gradients, usual: Gradients, true: Gradients, groups: int) -> Values:
    """Return [1 + N] part of the rollouts that `own` needs less than `usual` for the same progress, in steps of so many groups."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1.0 - progress(usual, true, groups) / progress(own, true, groups))


def floor(halves: Vectors) -> Values:
    """Return [1 + N] the noise scale that is left where every prompt's own gradient is exact: the noise between prompts alone.

    The two halves of a prompt are independent, so that <g_A, g_B> is unbiased for the squared length of its expected gradient.

    Args:
        halves: [2, N, size] gradients of two rollout groups (or two halves of one) of each prompt.
    """
    vectors = np.asarray(halves, dtype=np.float64)
    both = vectors.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(means(np.einsum("ns,ns->n", vectors[0], vectors[1])) / cross_products(both, both) - 1.0)


def direction_by_prompt(halves: Vectors, exact: Values) -> Values:
    """Return [1 + N] the cosine of expected and exact gradients of each prompt by itself, weighed by their lengths.

    Bias that differs from prompt to prompt may be gone in the mean gradient, but not here.

    Args:
        halves: [2, N, size] gradients of two independent rollout groups of each prompt.
        exact: [N, size].
    """
    vectors = np.asarray(halves, dtype=np.float64)
    shared = means(np.einsum("ns,ns->n", vectors.mean(axis=0), exact))
    lengths = means(np.einsum("ns,ns->n", vectors[0], vectors[1])) * means(np.einsum("ns,ns->n", exact, exact))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / np.sqrt(lengths))

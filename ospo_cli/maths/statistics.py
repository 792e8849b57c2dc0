"""Intervals of means over prompts, and paired comparisons of two systems on the same prompts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ospo_cli.errors import OspoError

_CELLS = 1 << 22  # resampled values held at once: bounds memory, changes no result
_EXACT_BELOW = 16  # up to so many non-zero differences all sign flips are enumerated


class MeanInterval(NamedTuple):
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a - b with its bootstrap interval and the two-sided p-value of a sign-flip test."""

    mean: float
    low: float
    high: float
    p_value: float


def bootstrap_mean(values: ArrayLike, resamples: int, generator: np.random.Generator, level: float = 0.95) -> MeanInterval:
    """Return the mean and its percentile bootstrap interval.

    Definition: `resamples` times draw n values with replacement and take their mean; low and high are the (1 - level)/2 and
    (1 + level)/2 quantiles of these means. Invariant: low and high lie between the smallest and the largest value, and n equal
    values (so also n = 1) give an interval of no width.

    Args:
        values: float[n], one per prompt, n ≥ 1, finite.
        resamples: number of resamples, ≥ 1.
        generator: source of the draws; equal generators give equal results.
        level: coverage, between 0 and 1.

    Raises:
        OspoError: no values, values that are not finite, or a level outside (0, 1).

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.

    >>> bootstrap_mean([0.5, 0.5], 100, np.random.default_rng(0))
    MeanInterval(mean=0.5, low=0.5, high=0.5)
    """
    sample = _checked(values, "bootstrap_mean")
    if not 0 < level < 1:
        raise OspoError("bootstrap_mean", "level is out of range", found=level, expected="between 0 and 1")
    if resamples < 1:
        raise OspoError("bootstrap_mean", "too few resamples", found=resamples, expected="at least 1")
    mean = _mean(sample)
    if np.all(sample == sample[0]):
        return MeanInterval(mean, mean, mean)
    means = np.empty(resamples)
    rows = max(1, _CELLS // sample.size)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        means[first : first + count] = sample[generator.integers(0, sample.size, size=(count, sample.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return MeanInterval(mean, float(low), float(high))


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: int, generator: np.random.Generator, level: float = 0.95) -> PairedDifference:
    """Return the mean of a - b, its bootstrap interval over pairs, and the p-value of "signs of the differences are arbitrary".

    Definition: the test statistic is |sum of d|, d = a - b. Under the null hypothesis every d could as well be -d. With at most 16
    non-zero differences all sign patterns are counted (exact p); else `resamples` random patterns, p = (1 + at least as
    extreme) / (1 + resamples), which is never 0. Invariant: swapping a and b negates the mean and keeps an exact p;
    equal a and b give mean 0 and p 1.

    Args:
        a: float[n], values of one system, one per prompt, finite.
        b: float[n], values of the other, the same prompts in the same order.
        resamples: bootstrap resamples, and random sign patterns.
        generator: source of the draws.
        level: coverage of the interval.

    Raises:
        OspoError: different lengths, no values, values that are not finite.

    Source: Fisher, "The design of experiments", 1935 (the randomisation test); Smucker, Allan and Carterette, "A comparison of
    statistical significance tests for information retrieval evaluation", 2007.

    >>> paired_difference([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], 100, np.random.default_rng(0)).p_value
    0.25
    """
    first, second = _checked(a, "paired_difference"), _checked(b, "paired_difference")
    if first.size != second.size:
        raise OspoError(
            "paired_difference", "the two systems have different prompts", found=f"{first.size} and {second.size} values", expected="pairs"
        )
    difference = first - second
    mean, low, high = bootstrap_mean(difference, resamples, generator, level)
    return PairedDifference(mean, low, high, _sign_flip_p(difference[difference != 0], resamples, generator))


def _sign_flip_p(difference: NDArray[np.float64], resamples: int, generator: np.random.Generator) -> float:
    if difference.size == 0:
        return 1.0
    size = np.abs(difference)
    bound = abs(float(difference.sum())) - 1e-12 * float(size.sum())  # sums of other order must not miss a tie
    if difference.size <= _EXACT_BELOW:
        sums = np.zeros(1)
        for value in size:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= bound))
    extreme = 0
    rows = max(1, _CELLS // size.size)
    for first in range(0, resamples, rows):
        count = min(rows, resamples - first)
        signs = generator.integers(0, 2, size=(count, size.size), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ size) >= bound))
    return (1 + extreme) / (1 + resamples)


def _checked(values: ArrayLike, where: str) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise OspoError(where, "needs one value per prompt", found=f"shape {sample.shape}", expected="a list of at least one number")
    if not np.isfinite(sample).all():
        raise OspoError(
            where, "a value is not a finite number", found=f"at position {int(np.argmin(np.isfinite(sample)))}", expected="finite numbers"
        )
    return sample


def _mean(sample: NDArray[np.float64]) -> float:
    return float(sample[0]) if np.all(sample == sample[0]) else float(sample.mean())

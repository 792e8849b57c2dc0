"""Intervals of means over prompts, and paired comparisons of two systems on the same prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ospo_cli.errors import OspoError

_CELLS = 1 << 22  # draws held at once (32 MiB): bounds memory, changes no result
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


class Resamples:
    """Bootstrap draws and sign patterns over n prompts, made once and used for many comparisons of the same prompts.

    Every interval rests on the same draws, so that two systems are always resampled with the same prompts.

    Args:
        size: n, number of prompts, ≥ 1.
        resamples: number of bootstrap resamples and of random sign patterns, ≥ 1.
        generator: source of the draws; equal generators give equal results.
        level: coverage of the intervals, between 0 and 1.
    """

    def __init__(self, size: int, resamples: int, generator: np.random.Generator, level: float = 0.95) -> None:
        if not 0 < level < 1:
            raise OspoError("bootstrap", "level is out of range", found=level, expected="between 0 and 1")
        if resamples < 1:
            raise OspoError("bootstrap", "too few resamples", found=resamples, expected="at least 1")
        if size < 1:
            raise OspoError("bootstrap", "no prompts to draw from", found=size, expected="at least 1")
        self.size, self.resamples, self.level = size, resamples, level
        self.seeds = generator.integers(1 << 63, size=2)

    def mean(self, values: ArrayLike) -> MeanInterval:
        """Return the mean of float[n] and its interval; see `bootstrap_mean`."""
        sample = self._checked(values)
        if np.all(sample == sample[0]):  # no rounding where there is nothing to estimate
            return MeanInterval(float(sample[0]), float(sample[0]), float(sample[0]))
        # einsum and not @: BLAS adds in an order that depends on threads and shapes.
        means = np.concatenate([np.einsum("rn,n->r", block, sample) for block in self._blocks("weights")]) / self.size
        low, high = np.quantile(means, [(1 - self.level) / 2, (1 + self.level) / 2])
        return MeanInterval(float(sample.mean()), float(low), float(high))

    def difference(self, a: ArrayLike, b: ArrayLike) -> PairedDifference:
        """Return the mean of a - b, its interval and p-value; see `paired_difference`."""
        difference = self._checked(a) - self._checked(b)
        return PairedDifference(*self.mean(difference), self._sign_flip_p(difference))

    def _sign_flip_p(self, difference: NDArray[np.float64]) -> float:
        sizes = np.abs(difference[difference != 0])
        if sizes.size == 0:
            return 1.0
        bound = abs(float(difference.sum())) - 1e-12 * float(sizes.sum())  # sums of other order must not miss a tie
        if sizes.size <= _EXACT_BELOW:
            sums = np.zeros(1)
            for value in sizes:
                sums = np.concatenate([sums + value, sums - value])
            return float(np.mean(np.abs(sums) >= bound))
        extreme = sum(int(np.count_nonzero(np.abs(np.einsum("rn,n->r", block, difference)) >= bound)) for block in self._blocks("signs"))
        return (1 + extreme) / (1 + self.resamples)

    def _blocks(self, kind: str) -> Iterator[NDArray[np.float64]]:
        if self.resamples * self.size > _CELLS:
            yield from self._drawn(kind)
            return
        if kind not in self._kept:
            self._kept[kind] = list(self._drawn(kind))
        yield from self._kept[kind]

    @cached_property
    def _kept(self) -> dict[str, list[NDArray[np.float64]]]:
        return {}

    def _drawn(self, kind: str) -> Iterator[NDArray[np.float64]]:
        """Yield float64[rows, n]: how often each prompt is drawn, or a sign for each."""
        generator = np.random.Generator(np.random.Philox(key=int(self.seeds[0 if kind == "weights" else 1])))
        rows = max(1, _CELLS // self.size)
        for first in range(0, self.resamples, rows):
            count = min(rows, self.resamples - first)
            if kind == "signs":
                yield np.asarray(generator.integers(0, 2, size=(count, self.size)) * 2 - 1, dtype=np.float64)
            else:
                drawn = generator.integers(0, self.size, size=(count, self.size)) + np.arange(count)[:, None] * self.size
                yield np.bincount(drawn.ravel(), minlength=count * self.size).reshape(count, self.size).astype(np.float64)

    def _checked(self, values: ArrayLike) -> NDArray[np.float64]:
        sample = np.asarray(values, dtype=np.float64)
        if sample.ndim != 1 or sample.size != self.size:
            raise OspoError("bootstrap", "needs one value per prompt", found=f"shape {sample.shape}", expected=f"{self.size} numbers")
        if not np.isfinite(sample).all():
            place = int(np.argmin(np.isfinite(sample)))
            raise OspoError("bootstrap", "a value is not a finite number", found=f"at position {place}", expected="finite numbers")
        return sample


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
    return Resamples(np.size(values), resamples, generator, level).mean(values)


def paired_difference(a: ArrayLike, b: ArrayLike, resamples: int, generator: np.random.Generator, level: float = 0.95) -> PairedDifference:
    """Return the mean of a - b, its bootstrap interval over pairs, and the p-value of "signs of the differences are arbitrary".

    Definition: the test statistic is |sum of d|, d = a - b. Under the null hypothesis every d could as well be -d. With at most 16
    non-zero differences all sign patterns are counted (exact p); else `resamples` random patterns, p = (1 + at least as
    extreme) / (1 + resamples), which is never 0. Invariant: swapping a and b negates the mean and keeps p; equal a and b give
    mean 0 and p 1.

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
    return Resamples(np.size(a), resamples, generator, level).difference(a, b)

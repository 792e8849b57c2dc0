"""Intervals of means over prompts, and paired comparisons of two systems on the same prompts.

They say what other prompts would have given *these trained policies*. What another training would have given is in `over_trainings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ospo_cli.errors import OspoError
from ospo_cli.maths import student

_CELLS = 1 << 22  # draws held at once (32 MiB): bounds memory, changes no result
_EXACT_BELOW = 16  # up to so many non-zero differences all sign flips are enumerated
_FEW = 30  # up to so many values unlike the median the percentile interval is too narrow


class MeanInterval(NamedTuple):
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a - b with its bootstrap interval and the two-sided p-value of a sign-flip test.

    `detectable` is the smallest true difference that so many prompts, so different, would have shown four times in five (power .8,
    two-sided, at 1 - level); 0 where all differences are equal, so that nothing tells how different prompts are.
    """

    mean: float
    low: float
    high: float
    p_value: float
    detectable: float


class Resamples:
    """Bootstrap draws and sign patterns over n prompts, made once and used for many comparisons of the same prompts.

    Every interval rests on the same draws, so that two systems are always resampled with the same prompts.

    Args:
        size: n, number of prompts, ≥ 1.
        resamples: number of bootstrap resamples and of random sign patterns, ≥ 1.
        generator: source of the draws; equal generators give equal results.
        level: coverage of the intervals, between 0 and 1.
        bounds: the smallest and the largest value that there can be; intervals of means (not of differences) end there.
    """

    def __init__(
        self,
        size: int,
        resamples: int,
        generator: np.random.Generator,
        level: float = 0.95,
        bounds: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        if not 0 < level < 1:
            raise OspoError("bootstrap", "level is out of range", found=level, expected="between 0 and 1")
        if resamples < 1:
            raise OspoError("bootstrap", "too few resamples", found=resamples, expected="at least 1")
        if size < 1:
            raise OspoError("bootstrap", "no prompts to draw from", found=size, expected="at least 1")
        self.size, self.resamples, self.level, self.bounds = size, resamples, level, bounds
        self.seeds = generator.integers(1 << 63, size=2)

    def mean(self, values: ArrayLike) -> MeanInterval:
        """Return the mean of float[n], finite values of one prompt each, and its bootstrap interval.

        Definition: `resamples` times draw n values with replacement and take their mean; low and high are the (1 - level)/2 and
        (1 + level)/2 quantiles of these means. Where at most 30 values are unlike the median (few prompts, or rare differences among many)
        this is too narrow. There low and high are the wider of BCa's quantiles, which follow skewed values, and Student's t, which knows
        that the spread is estimated too. docs/statistics.md has the coverage of each. Invariant: more values than that give an interval
        between the smallest and the largest; n equal values (so also n = 1) give one of no width.

        Source: Efron, "Bootstrap methods: another look at the jackknife", 1979; "Better bootstrap confidence intervals", 1987.

        >>> Resamples(2, 100, np.random.default_rng(0)).mean([0.5, 0.5])
        MeanInterval(mean=0.5, low=0.5, high=0.5)
        """
        mean, low, high = self._interval(self._checked(values))
        return MeanInterval(mean, max(low, self.bounds[0]), min(high, self.bounds[1]))

    def difference(self, a: ArrayLike, b: ArrayLike) -> PairedDifference:
        """Return the mean of a - b, its bootstrap interval over pairs, and the p-value of "signs of the differences are arbitrary".

        Definition: the test statistic is |sum of d|, d = a - b. Under the null hypothesis every d could as well be -d. With at most 16
        non-zero differences all sign patterns are counted (exact p); else `resamples` random patterns, p = (1 + at least as
        extreme) / (1 + resamples), which is never 0. Invariant: swapping a and b negates the mean and keeps p; equal a and b give
        mean 0 and p 1.

        Source: Fisher, "The design of experiments", 1935 (the randomisation test); Smucker, Allan and Carterette, "A comparison of
        statistical significance tests for information retrieval evaluation", 2007.

        >>> Resamples(3, 100, np.random.default_rng(0)).difference([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]).p_value
        0.25
        """
        difference = self._checked(a) - self._checked(b)
        detectable = 0.0
        if np.any(difference != difference[0]):
            standard_error = float(difference.std(ddof=1)) / np.sqrt(self.size)
            detectable = standard_error * student.detectable(self.size - 1, self.level)
        return PairedDifference(*self._interval(difference), self._sign_flip_p(difference), detectable)

    def _interval(self, sample: NDArray[np.float64]) -> tuple[float, float, float]:
        if np.all(sample == sample[0]):  # no rounding where there is nothing to estimate
            return float(sample[0]), float(sample[0]), float(sample[0])
        # einsum and not @: BLAS adds in an order that depends on threads and shapes.
        means = np.concatenate([np.einsum("rn,n->r", block, sample) for block in self._blocks("weights")]) / self.size
        mean, ends = float(sample.mean()), [(1 - self.level) / 2, (1 + self.level) / 2]
        if np.count_nonzero(sample != np.median(sample)) > _FEW:
            low, high = np.quantile(means, ends)
            return mean, float(low), float(high)
        low, high = np.quantile(means, _corrected(sample, means, np.array(ends)))
        half = float(student.quantile(self.size - 1, self.level)) * float(sample.std(ddof=1)) / np.sqrt(self.size)
        return mean, min(float(low), mean - half), max(float(high), mean + half)

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


def _corrected(sample: NDArray[np.float64], means: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which quantiles of the bootstrap means are the ends of the BCa interval (Efron 1987)."""
    from scipy.special import ndtr, ndtri

    deviation = sample - sample.mean()
    # The jackknife's acceleration, which for a mean has this closed form.
    acceleration = float((deviation**3).sum()) / (6 * float((deviation**2).sum()) ** 1.5)
    rounding = 1e-12 * float(np.abs(sample).max())
    below = np.count_nonzero(means < sample.mean() - rounding) + np.count_nonzero(means <= sample.mean() + rounding)
    bias = ndtri(np.clip(below / (2 * means.size), 1 / means.size, 1 - 1 / means.size))
    shifted = bias + ndtri(ends)
    return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family of comparisons, adjusted so that any false rejection among them has the stated chance.

    Definition: with the i-th smallest of m (from 0) times m - i; then none below a smaller one's, and none above 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(np.asarray(p_values, dtype=np.float64), kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * (len(p_values) - np.arange(len(p_values)))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p_values) else scaled
    return [float(value) for value in adjusted]

"""Differences between two ways of training: seeds and prompts are both samples, so the interval is over both.

One value per seed s and prompt i, the paired difference d[s, i] = μ + a[s] + b[i] + e[s, i]: another seed would have given other a and e,
other prompts other b and e. The variance of the mean over S seeds and n prompts is σ²a/S + σ²b/n + σ²e/(S·n). With the mean squares of
seeds A, prompts B and rest E of a two-way analysis of variance, its estimate is (A + max(B - E, 0))/(S·n), since these expect
σ²e + n·σ²a, σ²e + S·σ²b and σ²e. Where each seed has prompts of its own (the demo's shop depends on the seed), b is part of e, and this
is the variance of the seeds' means over S.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ospo_cli.errors import OspoError
from ospo_cli.maths import student

# From so many seeds on the degrees of freedom are estimated. With fewer, the seeds' own variance is too uncertain to be weighed.
_ENOUGH_SEEDS = 5


class TrainingDifference(NamedTuple):
    """Mean difference over seeds and prompts, its interval, two-sided p of Student's t, and what the design could have shown.

    Attributes:
        mean: over the seeds' means.
        low: of the interval.
        high: of the interval.
        p_value: of "no difference"; 1 where all is 0.
        degrees: of freedom.
        detectable: the smallest true difference that such a design shows four times in five; 0 where nothing varies.
        by_seed: mean difference of each seed.
    """

    mean: float
    low: float
    high: float
    p_value: float
    degrees: float
    detectable: float
    by_seed: tuple[float, ...]


def over_trainings(differences: Sequence[ArrayLike], same_prompts: bool, level: float = 0.95) -> TrainingDifference:
    """Return the mean difference of two ways of training with an interval over seeds and prompts.

    The interval is Student's t. From five seeds on its degrees of freedom are Satterthwaite's; below, seeds - 1, so that with two seeds
    nothing is shown unless both agree closely: coverage is then at least the stated one. `tests/maths/test_over_trainings.py` simulates it.

    Args:
        differences: per seed float[n], the paired differences of its prompts.
        same_prompts: whether every seed has the same prompts, in the same order; else each has its own.
        level: coverage, between 0 and 1.

    Raises:
        OspoError: fewer than two seeds, a seed without prompts, values that are not finite, or other numbers of prompts where they are
            said to be the same.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", 1946; seeds as a sample: Bouthillier et al.,
    "Accounting for variance in machine learning benchmarks", 2021.

    >>> found = over_trainings([[0.004], [0.012]], same_prompts=False)
    >>> round(found.mean, 3), round(found.p_value, 2), found.degrees
    (0.008, 0.3, 1.0)
    """
    rows = _checked(differences, same_prompts)
    means = np.array([row.mean() for row in rows])
    variance, degrees = _seeds_and_prompts(np.array(rows)) if same_prompts else (float(means.var(ddof=1)) / len(rows), len(rows) - 1.0)
    mean, by_seed = float(means.mean()), tuple(float(value) for value in means)
    if variance <= 0:
        return TrainingDifference(mean, mean, mean, float(mean == 0), degrees, 0.0, by_seed)
    error = float(np.sqrt(variance))
    half = float(student.quantile(degrees, level)) * error
    p_value = student.two_sided_p(mean / error, degrees)
    return TrainingDifference(mean, mean - half, mean + half, p_value, degrees, error * student.detectable(degrees, level), by_seed)


def _seeds_and_prompts(table: NDArray[np.float64]) -> tuple[float, float]:
    """Return the variance of the mean of [seeds, prompts] and its degrees of freedom."""
    seeds, prompts = table.shape
    by_seed, by_prompt = table.mean(axis=1), table.mean(axis=0)
    a = prompts * float(by_seed.var(ddof=1))
    if prompts == 1:
        return a / seeds, seeds - 1.0
    b = seeds * float(by_prompt.var(ddof=1))
    rest = table - by_seed[:, None] - by_prompt + table.mean()
    e = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1))
    shared = max(b - e, 0.0)
    variance, degrees = (a + shared) / (seeds * prompts), seeds - 1.0
    if seeds >= _ENOUGH_SEEDS and shared > 0:
        degrees = max(1.0, (a + shared) ** 2 / (a**2 / (seeds - 1) + b**2 / (prompts - 1) + e**2 / ((seeds - 1) * (prompts - 1))))
    return variance, degrees


def _checked(differences: Sequence[ArrayLike], same_prompts: bool) -> list[NDArray[np.float64]]:
    rows = [np.asarray(row, dtype=np.float64) for row in differences]
    where = "differences over trainings"
    if len(rows) < 2:
        raise OspoError(where, "one seed tells nothing about others", found=len(rows), expected="at least 2 seeds")
    sizes = [row.size if row.ndim == 1 else 0 for row in rows]
    if min(sizes) < 1 or (same_prompts and len(set(sizes)) > 1):
        expected = "the same number of prompts for every seed" if same_prompts else "at least one prompt per seed"
        raise OspoError(where, "seeds have unfit prompts", found=", ".join(map(str, sizes)), expected=expected)
    if not all(np.isfinite(row).all() for row in rows):
        raise OspoError(where, "a value is not a finite number", expected="finite numbers")
    return rows

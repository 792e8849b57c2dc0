"""Student's t: how many standard errors an interval takes where they come from few pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Weight of the variance of the other segments of a rollout, in pairs.
SHARED_PAIRS = 2.0


def quantile(degrees: Values | float, level: float = 0.95) -> Values:
    """Return t with which estimate ± t·(standard error) covers `level`, two-sided, of the draws of a normal estimate.

    Args:
        degrees: degrees of freedom, > 0; NaN or ≤ 0 gives NaN.
        level: coverage, between 0 and 1.

    Source: Student, "The probable error of a mean", 1908.

    >>> quantile(np.array([3.0, 7.0, 1e9])).round(3).tolist()
    [3.182, 2.365, 1.96]
    """
    # scipy.stats takes more than a second to import; this is the function behind its t.ppf.
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.asarray(degrees, dtype=np.float64), (1 + level) / 2))


def detectable(degrees: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return how many standard errors from 0 a true mean must lie for a two-sided t test to show it with probability `power`.

    It is the noncentrality at which a test at 1 - `level` rejects on the true side.

    >>> round(detectable(1e6), 3), round(detectable(1), 1)
    (2.802, 16.3)
    """
    from scipy.special import nctdtrinc

    return float(nctdtrinc(degrees, 1 - power, float(quantile(degrees, level))))


def two_sided_p(statistic: float, degrees: float) -> float:
    """Return the chance that Student's t lies at least so far from 0.

    >>> round(two_sided_p(2.0, 1), 3)
    0.295
    """
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(statistic)))


def half_width(standard_error: Values, degrees: Values, level: float = 0.95) -> Values:
    """Return [..., n] half the width of the interval around each share of a rollout, from standard errors of few pairs.

    A value that few orders meet can be missed by all of them: their pairs then agree, and the standard error is 0. So each segment's
    variance is moderated by the mean variance of its rollout's segments, which weighs as much as two more pairs, and the quantile is that
    of as many degrees of freedom.

    Args:
        standard_error: [..., n] of the mean over pairs.
        degrees: [..., n] pairs - 1.
        level: coverage.

    Source: after Smyth, "Linear models and empirical Bayes methods for assessing differential expression", 2004 (the moderated t).
    """
    pairs = degrees + 1
    variance = standard_error**2 * pairs
    shared = variance.mean(axis=-1, keepdims=True)
    moderated = (degrees * variance + SHARED_PAIRS * shared) / (degrees + SHARED_PAIRS)
    return np.asarray(quantile(degrees + SHARED_PAIRS, level) * np.sqrt(moderated / pairs))


def degrees_of_freedom(n_contributions: NDArray[np.int64]) -> Values:
    """Return those of the standard error of sampled orders or subsets: antithetic pairs - 1, n_contributions as in `Shares`."""
    return np.asarray(n_contributions // 2 - 1, dtype=np.float64)

"""Student's t: how many standard errors an interval takes where they come from few pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


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


def degrees_of_freedom(n_contributions: NDArray[np.int64]) -> Values:
    """Return those of the standard error of sampled orders or subsets: antithetic pairs - 1, n_contributions as in `Shares`."""
    return np.asarray(n_contributions // 2 - 1, dtype=np.float64)

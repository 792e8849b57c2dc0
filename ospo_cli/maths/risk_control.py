"""Which of several thresholds keep a mean loss below a bound, with stated confidence, from a sample: learn then test.

Sources: Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", 2021 (testing thresholds in a fixed order); Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2023 (the p-value), as in Bates et al., "Distribution-free, risk-controlling
prediction sets", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import OspoError

Values = NDArray[np.float64]


def betting_p(losses: Values, bound: float, level: float = 0.1) -> float:
    """Return a p-value of "the mean loss is `bound` or more", for independent losses in [0, 1].

    A gambler bets that each loss is below the bound; under the hypothesis the capital is not expected to grow, so that it ever reaches
    1/p has probability p at most (Ville). The bets follow the variance seen so far, so that losses that are mostly 0 tell much. Valid for
    any distribution and any n; the order of the losses must not depend on their values. No losses: 1.

    Args:
        losses: [n].
        bound: between 0 and 1.
        level: of the test that the bets are sized for; any value keeps the p-value valid.

    >>> betting_p(np.zeros(100), 0.05) < 0.01 < 0.5 < betting_p(np.full(100, 0.06), 0.05)
    True
    """
    if not 0 < bound < 1 or (len(losses) and not (losses.min() >= 0 and losses.max() <= 1)):
        raise OspoError("risk control", "bound or losses are out of range", found=bound, expected="between 0 and 1")
    n = len(losses)
    if not n:
        return 1.0
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(losses)) / (counts + 1)
    variances = (0.25 + np.cumsum((losses - means) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    bets = np.minimum(np.sqrt(2 * np.log(1 / level) / (n * before)), 1.0)
    capital = np.cumsum(np.log1p(-bets * (losses - bound)))
    return float(np.exp(-max(float(capital.max()), 0.0)))


def passed(p_values: Sequence[float], starts: Sequence[int], delta: float) -> list[int]:
    """Return which hypotheses are rejected with family-wise error `delta`: fixed sequences from several starts, each with an equal part.

    Args:
        p_values: from the strictest threshold to the loosest.
        starts: places where a sequence begins; it goes on to looser ones until a hypothesis stands.
        delta: chance of one false rejection or more.
    """
    found: set[int] = set()
    for start in starts:
        for place in range(start, len(p_values)):
            if p_values[place] > delta / len(starts):
                break
            found.add(place)
    return sorted(found)

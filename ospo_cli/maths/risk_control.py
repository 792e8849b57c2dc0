"""Which of several thresholds keep a mean loss below a bound, with stated confidence, from a sample: learn then test.

Sources: Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", 2021 (thresholds tested in an order that other data gave);
Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023 (the p-value), as in Bates et al.,
"Distribution-free, risk-controlling prediction sets", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import OspoError

Values = NDArray[np.float64]
FEWEST_QUERIES = 40  # with a rewrite, in dev and in test: on fewer no gate is made
SEQUENCES = 2  # orders of a gate's tests, each with its part of the error


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


def fewest_without_loss(bound: float, level: float) -> int:
    """Return of how many queries, none of which loses, a gate can be certified: one half certifies, in two sequences of tests (`passed`).

    >>> [fewest_without_loss(bound, 0.1) for bound in (0.05, 0.1, 0.2)]
    [126, 64, 34]
    """
    half = 1
    while betting_p(np.zeros(half), bound, level) > level / SEQUENCES:
        half += 1
    return 2 * half


def passed(p_values: Sequence[float], sequences: Sequence[Sequence[int]], delta: float) -> list[int]:
    """Return which hypotheses are rejected with family-wise error `delta`: each sequence until the first that stands, with an equal part.

    Args:
        p_values: of each hypothesis.
        sequences: orders of tests; none may depend on the data that the p-values are of (split fixed-sequence testing: on other data).
        delta: chance of one false rejection or more.
    """
    found: set[int] = set()
    for sequence in sequences:
        for place in sequence:
            if p_values[place] > delta / len(sequences):
                break
            found.add(place)
    return sorted(found)

"""Decision problems of a few binary tokens, each with a trap for credit: what is enumerated in full, so that nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Masks

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Outcome = tuple[int, ...]

OUTSIDE = -1


@dataclass(frozen=True)
class DecisionProblem:
    """Binary tokens, drawn one after another, and what their segments are worth.

    Attributes:
        name: short, for tables.
        meaning: one line for people.
        segments: the segment of each token, from 0 in order; OUTSIDE for none. Tokens beyond `drawn` are always there.
        drawn: number of tokens that the policy draws.
        logit: index of the logit that a token is drawn with, given the tokens before it.
        start: logits at the start.
        is_learned: which logits the policy may change; the others belong to the world.
        value: v of the segments that are present in a completion; 0 for none.
        group_size: G, completions per rollout group.
    """

    name: str
    meaning: str
    segments: tuple[int, ...]
    drawn: int
    logit: Callable[[Outcome], int]
    start: tuple[float, ...]
    is_learned: tuple[bool, ...]
    value: Callable[[Outcome, frozenset[int]], float]
    group_size: int = 3

    @property
    def n(self) -> int:
        """Number of segments."""
        return max(self.segments) + 1

    @property
    def has_outside(self) -> bool:
        """Whether a token belongs to no segment, so that `outside` matters."""
        return OUTSIDE in self.segments

    @property
    def outcomes(self) -> list[Outcome]:
        """All completions."""
        return list(product((0, 1), repeat=self.drawn))

    def values(self, masks: Masks) -> Values:
        """Return [outcomes, m] v of the coalitions in each completion."""
        present = [frozenset(np.flatnonzero(mask).tolist()) for mask in masks]
        return np.array([[self.value(outcome, members) for members in present] for outcome in self.outcomes])

    def rewards(self) -> Values:
        """Return [outcomes] R = v(N)."""
        return np.asarray(self.values(np.ones((1, self.n), dtype=bool))[:, 0])

    def ladder(self) -> Values:
        """Return [outcomes, n + 1] v of the prefixes."""
        return self.values(coalitions.prefix(self.n))

    def tables(self) -> tuple[Values, Indices]:
        """Return [outcomes, drawn] tokens, and the logit that each was drawn with."""
        outcomes = self.outcomes
        place = [[self.logit(outcome[:position]) for position in range(self.drawn)] for outcome in outcomes]
        return np.array(outcomes, dtype=np.float64), np.array(place, dtype=np.int64)

    def probabilities(self, logits: Values) -> Values:
        """Return [..., outcomes] the chance of each completion under [..., logits]."""
        tokens, place = self.tables()
        chance = sigmoid(logits)[..., place]
        return np.asarray(np.prod(np.where(tokens == 1, chance, 1.0 - chance), axis=-1))

    def expected_reward(self, logits: Values) -> Values:
        """Return [...] J, the expected reward under [..., logits]."""
        return np.asarray(self.probabilities(logits) @ self.rewards())

    def best(self) -> float:
        """Return the largest J that a policy can reach (by one that always decides alike; what belongs to the world stays as it is)."""
        learned = np.flatnonzero(self.is_learned)
        choices = np.array(list(product((-1e3, 1e3), repeat=len(learned))))
        logits = np.tile(np.array(self.start), (len(choices), 1))
        logits[:, learned] = choices
        return float(self.expected_reward(logits).max())


def sigmoid(logits: Values) -> Values:
    """Return 1 / (1 + exp(-x)) without overflow.

    >>> sigmoid(np.array([0.0, -1e3])).tolist()
    [0.5, 0.0]
    """
    smaller = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, smaller) / (1.0 + smaller))


def additive(weights: tuple[float, ...]) -> Callable[[Outcome, frozenset[int]], float]:
    """Return v of words that earn (or cost) by themselves."""
    return lambda outcome, present: sum(weights[segment] * outcome[segment] for segment in present)


def _duplicate(outcome: Outcome, present: frozenset[int]) -> float:
    first, second = (segment in present and outcome[segment] == 1 for segment in (0, 1))
    return 0.6 * (first or second) - 0.1 * (first and second) + 0.3 * (2 in present) * outcome[2]


def _pair(outcome: Outcome, present: frozenset[int]) -> float:
    return 0.6 * (0 in present and 1 in present) * outcome[0] * outcome[1] + 0.3 * (2 in present) * outcome[2]


def _independent(name: str, meaning: str, value: Any, start: tuple[float, ...], group_size: int = 3) -> DecisionProblem:
    n = len(start)
    return DecisionProblem(name, meaning, tuple(range(n)), n, len, start, (True,) * n, value, group_size)


def _context(name: str, meaning: str, first_segment: int) -> DecisionProblem:
    own = first_segment + 1
    return DecisionProblem(
        name=name,
        meaning=meaning,
        segments=(first_segment, own, own + 1),
        drawn=2,
        logit=lambda before: before[0] + 1 if before else 0,
        start=(0.0, float(np.log(0.3 / 0.7)), float(np.log(0.9 / 0.1))),
        is_learned=(True, False, False),
        value=lambda outcome, present: (own in present) * outcome[1] + 0.2 * (own + 1 in present),
    )


LONG = (0.02, 0.2, 0.05, 0.17, 0.08, 0.14, 0.11, 0.23)

PROBLEMS: dict[str, DecisionProblem] = {
    problem.name: problem
    for problem in (
        _independent("independent", "two words, R = .6 a1 + .3 a2", additive((0.6, 0.3)), (0.0, 0.0)),
        _context("context", "a token of no segment; the rewarded word that follows succeeds .9 or .3 of the time by it", OUTSIDE),
        _context("context-word", "the same, and that token is a segment, whose share is 0", 0),
        _independent("duplicate", "word 2 repeats word 1: .6 once, -.1 if both stand there; word 3 earns .3", _duplicate, (0.1, -0.1, 0.0)),
        _independent("harmful", "a harmful word, R = .6 a1 + .3 a2 - .3 a3", additive((0.6, 0.3, -0.3)), (0.0, 0.0, 0.0)),
        _independent("pair", "words 1 and 2 earn .6 only together; word 3 earns .3", _pair, (0.0, 0.0, 0.0)),
        _independent("long", "eight words that earn .02 to .23 each, all unlikely at the start", additive(LONG), (-1.0,) * 8, 2),
    )
}  # fmt: skip

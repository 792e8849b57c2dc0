"""Exact expectations: every rollout group of a policy of a few binary tokens, each with its probability; nothing is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import Credit, Settings, redistribute
from ospo_cli.maths.shaping import prefix_advantages
from tests.games import windows
from tests.maths.flat_rows import OUTSIDE, token_map

GROUP_SIZE = 3
Outcome = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Binary tokens, drawn one after another.

    Attributes:
        bits: tokens that the policy draws, before any fixed ones.
        segments: the segment of each token, fixed ones included; OUTSIDE for none.
        logit: index of the logit that a token is drawn with, given the tokens before it.
        value: v of the segments that are present, in a completion.
    """

    bits: int
    segments: tuple[int, ...]
    logit: Callable[[Outcome], int]
    value: Callable[[Outcome, frozenset[int]], float]

    @property
    def outcomes(self) -> list[Outcome]:
        return list(product((0, 1), repeat=self.bits))

    @property
    def n(self) -> int:
        return max(self.segments) + 1

    def reward(self, outcome: Outcome) -> float:
        return self.value(outcome, frozenset(range(self.n)))

    def logits_of(self, outcome: Outcome) -> list[int]:
        return [self.logit(outcome[:position]) for position in range(self.bits)]


def advantages(
    problem: Problem, rule: str, how: Settings, estimator: str = "myerson", normalize: str = "std", trace: float = 1.0
) -> np.ndarray:
    """Return [groups, completions, drawn tokens] advantages of all rollout groups, in the order of the product of outcomes."""
    masks = windows(problem.n)
    shares, prefixes = {}, {}
    for outcome in problem.outcomes:
        values = np.array([problem.value(outcome, frozenset(np.flatnonzero(mask).tolist())) for mask in masks])
        shares[outcome] = ESTIMATORS[estimator].shares(masks, values).share
        ladder = np.array([[problem.value(outcome, frozenset(range(count))) for count in range(problem.n + 1)]])
        prefixes[outcome] = prefix_advantages(ladder, np.zeros(1), trace)[0]
    flat = [outcome for group in product(problem.outcomes, repeat=GROUP_SIZE) for outcome in group]
    number = np.repeat(np.arange(len(flat) // GROUP_SIZE), GROUP_SIZE)
    reward = np.array([problem.reward(outcome) for outcome in flat])
    advantage = group_advantages(reward, number, normalize)
    credit = Credit(
        advantage=advantage.advantage,
        scale=advantage.scale,
        group=number,
        is_degenerate=advantage.is_degenerate,
        share=np.concatenate([shares[outcome] for outcome in flat]),
        prefix_advantage=np.concatenate([prefixes[outcome] for outcome in flat]),
        terminal=np.zeros(len(flat)),
        noise=np.full(len(flat) * problem.n, 0.5),  # every division of the answer alike: what random shares are in the mean
        reward=reward,
    )
    found = redistribute(rule, token_map([problem.segments] * len(flat)), credit, how).advantages
    return found.reshape(-1, GROUP_SIZE, len(problem.segments))[:, :, : problem.bits]


def expected_gradient(problem: Problem, logits: np.ndarray, credit: np.ndarray) -> np.ndarray:
    """Return the expected gradient of all logits under these advantages."""
    probability, score = _scores(problem, logits)
    groups = np.array(list(product(range(len(probability)), repeat=GROUP_SIZE)))
    return np.einsum("g,gct,gctl->l", np.prod(probability[groups], axis=1), credit, score[groups]) / GROUP_SIZE


def exact_gradient(problem: Problem, logits: np.ndarray) -> np.ndarray:
    """Return the gradient of the expected reward."""
    probability, score = _scores(problem, logits)
    return np.einsum("o,o,otl->l", probability, [problem.reward(outcome) for outcome in problem.outcomes], score)


def climbed(problem: Problem, credit: np.ndarray, logits: np.ndarray, steps: int) -> np.ndarray:
    """Return the logits after so many steps of 0.5 along the expected gradient."""
    for _ in range(steps):
        logits = logits + 0.5 * expected_gradient(problem, logits, credit)
    return logits


def expected_reward(problem: Problem, logits: np.ndarray) -> float:
    return float(_scores(problem, logits)[0] @ [problem.reward(outcome) for outcome in problem.outcomes])


def _scores(problem: Problem, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return [outcomes] probabilities, and [outcomes, tokens, logits] gradients of each token's log-probability."""
    chance = 1 / (1 + np.exp(-logits))
    place = np.array([problem.logits_of(outcome) for outcome in problem.outcomes])
    bits = np.array(problem.outcomes)
    score = (bits - chance[place])[:, :, None] * (place[:, :, None] == np.arange(len(logits)))
    return np.prod(np.where(bits == 1, chance[place], 1 - chance[place]), axis=1), score


WEIGHTS = (0.6, 0.3)
TWO_TOKENS = Problem(2, (0, 1), len, lambda outcome, present: sum(WEIGHTS[segment] * outcome[segment] for segment in present))


def context(first_segment: int) -> Problem:
    """The second token alone is rewarded; it succeeds .9 or .3 of the time, by the first. A last segment always earns .2.

    `first_segment`: OUTSIDE, or 0 for a segment of its own, whose share is 0.
    """
    own = first_segment + 1
    return Problem(
        bits=2,
        segments=(first_segment, own, own + 1),
        logit=lambda before: before[0] + 1 if before else 0,
        value=lambda outcome, present: (own in present) * outcome[1] + 0.2 * (own + 1 in present),
    )


CONTEXT_LOGITS = np.array([0.0, np.log(0.3 / 0.7), np.log(0.9 / 0.1)])


def table(seed: int, first_outside: bool) -> Problem:
    """Three tokens, the first of them in no segment or in one; a completion's and its parts' worth are any numbers, v(empty) = 0."""
    drawn = np.random.Generator(np.random.Philox(key=seed))
    segments = (OUTSIDE, 0, 1) if first_outside else (0, 1, 2)
    worth = {}
    for outcome in product((0, 1), repeat=3):
        for mask in product((False, True), repeat=max(segments) + 1):
            worth[outcome, frozenset(np.flatnonzero(mask).tolist())] = float(drawn.uniform(0, 1)) * any(mask)

    # A part's worth knows only what stands in it, and what stood before it outside the answer.
    def value(outcome: Outcome, present: frozenset[int]) -> float:
        shown = tuple(bit if owner in present or owner == OUTSIDE else 0 for bit, owner in zip(outcome, segments, strict=True))
        return worth[shown, present]

    return Problem(3, segments, len, value)

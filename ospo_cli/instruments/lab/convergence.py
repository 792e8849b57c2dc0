"""Where a rule leads a policy, and how fast: steps along the exact expected gradient, over all rollout groups with their chances."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.instruments.lab.decision_problems import OUTSIDE, DecisionProblem, Outcome, sigmoid
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import Estimator, needed_coalitions
from ospo_cli.maths.redistribution import Credit, Rule, Settings, redistribute
from ospo_cli.maths.shaping import prefix_advantages
from ospo_cli.maths.token_map import TokenMap

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ExpectedAdvantages:
    """What a completion's tokens get, by who else is in its rollout group.

    Attributes:
        advantages: [rules, outcomes, drawn, companies] advantages of a completion's drawn tokens.
        companies: [companies, G - 1] the other completions of the rollout group, in no order.
        orders: [companies] in how many orders they may have come.
    """

    advantages: Values
    companies: Indices
    orders: Values


@dataclass(frozen=True)
class Climb:
    """The way of each rule.

    Attributes:
        expected_reward: [steps + 1, rules] J.
        logits: [rules, logits] at the end.
        first_gradient: [rules, logits] expected gradient at the start.
        last_gradient: [rules, logits] at the end.
    """

    expected_reward: Values
    logits: Values
    first_gradient: Values
    last_gradient: Values


def expected_advantages(
    problem: DecisionProblem,
    rules: Sequence[Rule],
    settings: Settings,
    estimator: Estimator,
    normalize: str = "std",
    trace: float = 1.0,
) -> ExpectedAdvantages:
    """Apply rules to every rollout group of a problem.

    Completions of a rollout group have no order, so each is counted once with the number of its orders. Rules that read noise get
    the middle of its range: random shares are then equal shares, which is what they are in the mean.

    Raises:
        CreditError: the estimator draws a random order, or samples coalitions of so many segments.
    """
    n = problem.n
    if estimator.needs_order or estimator.is_sampled(Players(n), Budget()):
        raise CreditError(f"estimator {estimator.name}", "is random, which exact expectations are not", expected="another estimator")
    masks = needed_coalitions(estimator, n, n)
    share = estimator.shares(masks, problem.values(masks)).share
    rewards, prefix = problem.rewards(), prefix_advantages(problem.ladder(), np.zeros(len(share)), trace)
    kinds = len(rewards)
    groups = np.array(list(combinations_with_replacement(range(kinds), problem.group_size)), dtype=np.int64)
    flat, number = groups.ravel(), np.repeat(np.arange(len(groups)), problem.group_size)
    advantage = group_advantages(rewards[flat], number, normalize)
    credit = Credit(
        advantage=advantage.advantage,
        scale=advantage.scale,
        group=number,
        is_degenerate=advantage.is_degenerate,
        share=share[flat].ravel(),
        prefix_advantage=prefix[flat].ravel(),
        terminal=np.zeros(len(flat)),
        noise=np.full(len(flat) * n, 0.5),
        reward=rewards[flat],
    )
    tokens = _token_map(problem.segments, len(flat))
    companies = np.array(list(combinations_with_replacement(range(kinds), problem.group_size - 1)), dtype=np.int64)
    orders = np.array([_orders(tuple(company)) for company in companies.tolist()])
    keys = _key(companies, kinds)
    by_key = np.argsort(keys)
    table = np.zeros((len(rules), kinds, problem.drawn, len(companies)))
    for index, rule in enumerate(rules):
        found = redistribute(rule, tokens, credit, settings).advantages
        found = found.reshape(len(groups), problem.group_size, len(problem.segments))[:, :, : problem.drawn]
        for member in range(problem.group_size):
            others = by_key[np.searchsorted(keys, _key(np.delete(groups, member, axis=1), kinds), sorter=by_key)]
            table[index, groups[:, member], :, others] = found[:, member]
    return ExpectedAdvantages(table, companies, orders)


def climb(problem: DecisionProblem, expected: ExpectedAdvantages, steps: int, step_size: float) -> Climb:
    """Take steps of one size along the expected gradient of each rule, from the problem's start."""
    gradient = ExpectedGradient(problem, expected)
    logits = np.tile(np.array(problem.start), (len(expected.advantages), 1))
    rewards = problem.rewards()
    curve = np.zeros((steps + 1, len(logits)))
    first = gradient.at(logits)[0]
    for step in range(steps):
        direction, probability = gradient.at(logits)
        curve[step] = probability @ rewards
        logits = logits + step_size * direction
    last, probability = gradient.at(logits)
    curve[steps] = probability @ rewards
    return Climb(curve, logits, first, last)


def steps_to(curve: Values, level: float) -> int | None:
    """Return the first step from which J stays at a level or above, or None.

    >>> steps_to(np.array([0.1, 0.6, 0.4, 0.7]), 0.5)
    3
    """
    below = np.flatnonzero(curve < level)
    if len(below) == 0:
        return 0
    return int(below[-1]) + 1 if below[-1] + 1 < len(curve) else None


class ExpectedGradient:
    """The expectation of the policy gradient of one completion, and what of it does not change from step to step."""

    def __init__(self, problem: DecisionProblem, expected: ExpectedAdvantages) -> None:
        self.tokens, self.place = problem.tables()
        self.expected = expected
        rules, self.outcomes, self.drawn, companies = expected.advantages.shape
        self.flat = expected.advantages.reshape(rules, self.outcomes * self.drawn, companies)
        learned = np.asarray(problem.is_learned)
        self.to_logit = (self.place[:, :, None] == np.arange(len(learned))) * learned.astype(np.float64)
        self.to_logit = self.to_logit.reshape(self.outcomes * self.drawn, len(learned))

    def at(self, logits: Values) -> tuple[Values, Values]:
        """Return [rules, logits] gradient under each rule's own logits, and [rules, outcomes] probabilities."""
        chance = sigmoid(logits)[:, self.place]
        probability = np.prod(np.where(self.tokens == 1, chance, 1.0 - chance), axis=2)
        company = self.expected.orders * np.prod(probability[:, self.expected.companies], axis=2)
        mean = np.matmul(self.flat, company[:, :, None])[:, :, 0].reshape(-1, self.outcomes, self.drawn)
        weighted = probability[:, :, None] * mean * (self.tokens - chance)
        return weighted.reshape(len(logits), -1) @ self.to_logit, probability


def _token_map(segments: tuple[int, ...], rows: int) -> TokenMap:
    width, n = len(segments), max(segments) + 1
    inside = np.flatnonzero(np.array(segments) != OUTSIDE)
    row = np.arange(rows)[:, None]
    return TokenMap(
        token_row=np.repeat(np.arange(rows), width),
        segment_row=np.repeat(np.arange(rows), n),
        overlap_token=(row * width + inside).ravel(),
        overlap_segment=(row * n + np.array(segments)[inside]).ravel(),
        overlap_weight=np.ones(rows * len(inside)),
        n_rows=rows,
    )


def _key(rows: Indices, base: int) -> Indices:
    return np.asarray(rows @ base ** np.arange(rows.shape[1]), dtype=np.int64)


def _orders(company: Outcome) -> float:
    return math.factorial(len(company)) / math.prod(math.factorial(count) for count in Counter(company).values())

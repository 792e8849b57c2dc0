"""What the rules teach a policy, without sampling: all rollout groups of a tiny policy, each with its probability."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import Credit, Settings, redistribute
from ospo_cli.maths.shaping import prefix_advantages
from tests.games import generator, windows
from tests.maths.flat_rows import OUTSIDE, token_map

Outcome = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """All completions of a policy, which of their tokens are segments, and what coalitions and completions are worth."""

    outcomes: list[Outcome]
    is_segment: Callable[[Outcome], list[bool]]
    value: Callable[[Outcome, frozenset[int]], float]  # of the segments at these token positions
    format_part: Callable[[Outcome], float] = lambda outcome: 0.0

    def reward(self, outcome: Outcome) -> float:
        return self.value(outcome, self.positions(outcome)) + self.format_part(outcome)

    def positions(self, outcome: Outcome) -> frozenset[int]:
        return frozenset(position for position, inside in enumerate(self.is_segment(outcome)) if inside)


def advantages_of_all_groups(
    task: Task, group_size: int, rule: str, how: Settings, normalize: str = "std", trace: float = 1.0
) -> list[list[np.ndarray]]:
    """Return, per rollout group (product of outcomes), per completion, the advantages of its tokens: one call of the rule for all of them."""
    shares, prefixes, rows = {}, {}, {}
    for outcome in task.outcomes:
        players = sorted(task.positions(outcome))
        masks = windows(len(players))
        values = np.array([task.value(outcome, frozenset(np.array(players, dtype=int)[mask].tolist())) for mask in masks])
        shares[outcome] = ESTIMATORS["myerson"].shares(masks, values).share
        ladder = np.array([[task.value(outcome, frozenset(players[:count])) for count in range(len(players) + 1)]])
        prefixes[outcome] = prefix_advantages(ladder, np.array([task.format_part(outcome)]), trace)[0]
        numbers = np.cumsum(task.is_segment(outcome)) - 1
        rows[outcome] = [int(number) if inside else OUTSIDE for number, inside in zip(numbers, task.is_segment(outcome), strict=True)]
    groups = list(product(task.outcomes, repeat=group_size))
    flat = [outcome for group in groups for outcome in group]
    tokens = token_map([rows[outcome] for outcome in flat])
    number = np.repeat(np.arange(len(groups)), group_size)
    advantage = group_advantages(np.array([task.reward(outcome) for outcome in flat]), number, normalize)
    credit = Credit(
        advantage=advantage.advantage,
        scale=advantage.scale,
        group=number,
        is_degenerate=advantage.is_degenerate,
        share=np.concatenate([shares[outcome] for outcome in flat]),
        prefix_advantage=np.concatenate([prefixes[outcome] for outcome in flat]),
        terminal=np.array([task.format_part(outcome) for outcome in flat]),
    )
    advantages = np.split(redistribute(rule, tokens, credit, how).advantages, np.cumsum(tokens.tokens).astype(int)[:-1])
    return [advantages[at : at + group_size] for at in range(0, len(flat), group_size)]


# Independent binary tokens: token i is 1 with probability sigmoid(logit_i).


def binary_gradient(logits: np.ndarray, task: Task, credit: np.ndarray, group_size: int) -> np.ndarray:
    """Return the exact expected gradient; `credit` [groups, completions, tokens]."""
    chance = 1 / (1 + np.exp(-logits))
    outcomes = np.array(task.outcomes)
    probability = np.prod(np.where(outcomes == 1, chance, 1 - chance), axis=1)
    groups = np.array(list(product(range(len(outcomes)), repeat=group_size)))
    score = outcomes[groups] - chance
    return np.einsum("g,gct,gct->t", np.prod(probability[groups], axis=1), credit, score) / group_size


def climb(task: Task, rule: str, how: Settings, start: list[float], steps: int = 600, group_size: int = 3) -> np.ndarray:
    credit = np.array(advantages_of_all_groups(task, group_size, rule, how))
    logits = np.array(start)
    for _ in range(steps):
        logits = logits + 0.5 * binary_gradient(logits, task, credit, group_size)
    return 1 / (1 + np.exp(-logits))


WEIGHTS = (0.6, 0.3)
TWO_TOKENS = Task(
    outcomes=list(product((0, 1), repeat=2)),
    is_segment=lambda outcome: [True, True],
    value=lambda outcome, present: sum(WEIGHTS[position] * outcome[position] for position in present),
)


@pytest.mark.parametrize("rule", ["uniform", "signed", "potential", "group-additive", "share-only"])
def test_two_tokens_are_both_learned_to_a_reward_of_nine_tenths(rule: str) -> None:
    assert climb(TWO_TOKENS, rule, Settings(), [0.0, 0.0]) @ WEIGHTS == pytest.approx(0.9, abs=0.02)


def test_the_released_normalisation_stops_at_the_first_token() -> None:
    # Shares scaled to 0..1 within each completion, completions without reward dropped: the second token earns nothing beside the first.
    credit = np.zeros((64, 3, 2))
    for index, group in enumerate(product(TWO_TOKENS.outcomes, repeat=3)):
        advantage = group_advantages(np.array([TWO_TOKENS.reward(outcome) for outcome in group]), np.zeros(3, dtype=np.int64)).advantage
        for row, outcome in enumerate(group):
            share = np.array(WEIGHTS) * outcome
            spread = np.ptp(share)
            credit[index, row] = advantage[row] * (share - share.min()) / max(spread, 1e-9) * (sum(outcome) > 0)
    logits = np.zeros(2)
    for _ in range(4000):
        logits = logits + 0.5 * binary_gradient(logits, TWO_TOKENS, credit, 3)
    assert (1 / (1 + np.exp(-logits))) @ WEIGHTS == pytest.approx(0.6, abs=0.03)


# The first token stands outside the answer; the second succeeds .9 or .3 of the time, by the first; a third segment always earns .2.

LATER = {0: 0.3, 1: 0.9}
CONTEXT = Task(
    outcomes=list(product((0, 1), repeat=2)),
    is_segment=lambda outcome: [False, True, True],
    value=lambda outcome, present: (1 in present) * outcome[1] + 0.2 * (2 in present),
)


def context_gradient(rule: str, how: Settings) -> float:
    """Return the expected gradient of the first token's logit at probability 1/2."""
    total = 0.0
    for group, advantages in zip(product(CONTEXT.outcomes, repeat=3), advantages_of_all_groups(CONTEXT, 3, rule, how), strict=True):
        probability = np.prod([0.5 * (LATER[first] if second else 1 - LATER[first]) for first, second in group])
        total += probability * sum(row[0] * (outcome[0] - 0.5) for outcome, row in zip(group, advantages, strict=True)) / 3
    return total


@pytest.mark.parametrize("rule", ["proportional", "signed", "rank", "group-additive", "share-only", "potential"])
def test_a_token_that_only_prepares_the_answer_is_never_learned_when_tokens_outside_get_zero(rule: str) -> None:
    assert context_gradient(rule, Settings(outside="zero")) == 0


@pytest.mark.parametrize("rule", ["uniform", "proportional", "signed", "rank", "group-additive", "share-only", "potential"])
def test_a_token_that_only_prepares_the_answer_is_learned_when_tokens_outside_keep_the_group_advantage(rule: str) -> None:
    assert context_gradient(rule, Settings(outside="sequence")) > 0.02


# Three segments whose worth is any table: the exact gradient against the rule's expectation.


def table_task(seed: int) -> Task:
    numbers = generator(seed).uniform(0, 1, size=(3, 3, 3))

    def value(outcome: Outcome, present: frozenset[int]) -> float:
        return float(numbers[tuple(outcome[position] + 1 if position in present else 0 for position in range(3))] - numbers[0, 0, 0])

    return Task(list(product((0, 1), repeat=3)), lambda outcome: [True] * 3, value)


def exact_gradient(task: Task, logits: np.ndarray) -> np.ndarray:
    chance = 1 / (1 + np.exp(-logits))
    outcomes = np.array(task.outcomes)
    probability = np.prod(np.where(outcomes == 1, chance, 1 - chance), axis=1)
    return np.einsum("o,o,ot->t", probability, [task.reward(outcome) for outcome in task.outcomes], outcomes - chance)


@pytest.mark.parametrize("rule", ["uniform", "potential"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_uniform_and_potential_are_unbiased_up_to_the_factor_of_the_groups_own_mean(rule: str, seed: int) -> None:
    task, logits = table_task(seed), np.array([0.3, -0.5, 0.1])
    credit = np.array(advantages_of_all_groups(task, 3, rule, Settings(), normalize="none"))
    assert binary_gradient(logits, task, credit, 3) == pytest.approx(2 / 3 * exact_gradient(task, logits), abs=1e-12)


@pytest.mark.parametrize("rule", ["proportional", "rank", "signed", "group-additive", "share-only"])
def test_the_other_rules_are_biased(rule: str) -> None:
    directions = []
    for seed in range(3):
        task, logits = table_task(seed), np.array([0.3, -0.5, 0.1])
        credit = np.array(advantages_of_all_groups(task, 3, rule, Settings(), normalize="none"))
        found, exact = binary_gradient(logits, task, credit, 3), exact_gradient(task, logits)
        directions.append(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    assert min(directions) < 0.999


def test_potential_with_a_shorter_trace_is_biased() -> None:
    task, logits = table_task(0), np.array([0.3, -0.5, 0.1])
    credit = np.array(advantages_of_all_groups(task, 3, "potential", Settings(), normalize="none", trace=0.5))
    found, exact = binary_gradient(logits, task, credit, 3), exact_gradient(task, logits)
    assert found @ exact / np.linalg.norm(found) / np.linalg.norm(exact) < 0.999


# Answers that end by themselves: 2 stands for the end token. Their lengths differ within a rollout group, one may be empty.

STOPPING = Task(
    outcomes=[(2,), (0, 2), (1, 2), (0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)],
    is_segment=lambda outcome: [token != 2 for token in outcome],
    value=lambda outcome, present: sum((0.3, 0.5)[position] * (0.4 + 0.6 * outcome[position]) for position in present) - 0.35 * (len(present) == 2) * (sum(outcome[:2]) == 2),
    format_part=lambda outcome: -0.1 * len(outcome),
)  # fmt: skip


@pytest.mark.parametrize("rule", ["uniform", "potential"])
def test_unbiasedness_survives_answers_of_different_lengths(rule: str) -> None:
    logits = generator(8).normal(size=(3, 3))
    logits[2, :2] = -np.inf  # after two segments the policy ends
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    def score(outcome: Outcome) -> np.ndarray:
        return np.array([(np.arange(3) == token) - chance[place] for place, token in enumerate(outcome)])

    probability = {outcome: np.prod([chance[place, token] for place, token in enumerate(outcome)]) for outcome in STOPPING.outcomes}
    exact, found = np.zeros((3, 3)), np.zeros((3, 3))
    for outcome, weight in probability.items():
        exact[: len(outcome)] += weight * STOPPING.reward(outcome) * score(outcome)
    for group, advantages in zip(
        product(STOPPING.outcomes, repeat=3), advantages_of_all_groups(STOPPING, 3, rule, Settings(), "none"), strict=True
    ):
        weight = np.prod([probability[outcome] for outcome in group])
        for outcome, row in zip(group, advantages, strict=True):
            found[: len(outcome)] += weight * row[:, None] * score(outcome) / 3
    assert sum(probability.values()) == pytest.approx(1)
    assert found == pytest.approx(2 / 3 * exact, abs=1e-12)

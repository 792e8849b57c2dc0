"""The facts about rules in docs/maths.md, on exact expectations: where they end, what they never learn, which are unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from ospo_cli.maths.redistribution import RULES, Settings
from tests.maths.expected_gradients import (
    CONTEXT_LOGITS,
    TWO_TOKENS,
    advantages,
    climbed,
    context,
    exact_gradient,
    expected_gradient,
    expected_reward,
    table,
)
from tests.maths.flat_rows import OUTSIDE

# Two independent tokens worth .6 and .3


@pytest.mark.parametrize(
    "rule",
    ["uniform", "mix", "signed", "additive", "group-additive", "share-only", "potential", "answer-uniform", "random", "rms-matched"],
)
def test_two_tokens_are_both_learned(rule: str) -> None:
    found = climbed(TWO_TOKENS, advantages(TWO_TOKENS, rule, Settings()), np.zeros(2), 600)
    assert expected_reward(TWO_TOKENS, found) == pytest.approx(0.9, abs=0.02)


# A token that is worth nothing by itself, and makes the rewarded one likely


def of_context(rule: str, how: Settings, first_segment: int) -> float:
    problem = context(first_segment)
    return float(expected_gradient(problem, CONTEXT_LOGITS, advantages(problem, rule, how))[0])


@pytest.mark.parametrize("rule", [name for name in RULES if name not in ("uniform", "mix")])
def test_outside_the_answer_it_is_never_learned_when_tokens_there_get_zero(rule: str) -> None:
    assert of_context(rule, Settings(outside="zero"), OUTSIDE) == 0


@pytest.mark.parametrize("rule", RULES)
def test_outside_the_answer_it_is_learned_when_tokens_there_keep_the_group_advantage(rule: str) -> None:
    assert of_context(rule, Settings(outside="sequence"), OUTSIDE) == pytest.approx(of_context("uniform", Settings(), OUTSIDE))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_a_mix_learns_it_as_far_as_the_mix_is_uniform(alpha: float) -> None:
    expected = (1 - alpha) * of_context("uniform", Settings(), OUTSIDE)
    assert of_context("mix", Settings(alpha=alpha, outside="zero"), OUTSIDE) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("outside", ["sequence", "zero"])
@pytest.mark.parametrize("rule", ["proportional", "share-only"])
def test_as_a_segment_without_a_share_it_is_never_learned_by_rules_that_go_by_shares_alone(rule: str, outside: str) -> None:
    assert of_context(rule, Settings(outside=outside), 0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("outside", ["sequence", "zero"])
@pytest.mark.parametrize("rule", ["uniform", "mix", "additive", "potential"])
def test_as_a_segment_without_a_share_it_is_learned_by_rules_that_keep_something_of_the_whole(rule: str, outside: str) -> None:
    assert of_context(rule, Settings(outside=outside), 0) > 0.05


# Bias

LOGITS = np.array([0.3, -0.5, 0.1])


@pytest.mark.parametrize("first_outside", [False, True])
@pytest.mark.parametrize("rule", ["uniform", "potential"])
@pytest.mark.parametrize("seed", range(3))
def test_uniform_and_potential_are_unbiased_but_for_the_groups_own_mean(rule: str, seed: int, first_outside: bool) -> None:
    problem = table(seed, first_outside)
    found = expected_gradient(problem, LOGITS, advantages(problem, rule, Settings(), normalize="none"))
    assert found == pytest.approx(2 / 3 * exact_gradient(problem, LOGITS), abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "how"),
    [
        *[(name, Settings()) for name in RULES if name not in ("uniform", "potential", "answer-uniform", "random")],
        ("answer-uniform", Settings(outside="zero")),
        ("random", Settings(outside="zero")),
        ("potential", Settings(outside="zero")),
        ("mix", Settings(alpha=0.1)),
        ("additive", Settings(beta=0.1)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.outside}-{value.alpha}-{value.beta}",
)
def test_every_other_rule_is_biased(rule: str, how: Settings) -> None:
    cosines = []
    for seed in range(5):
        problem = table(seed, first_outside=True)
        found, exact = expected_gradient(problem, LOGITS, advantages(problem, rule, how, normalize="none")), exact_gradient(problem, LOGITS)
        cosines.append(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    assert min(cosines) < 0.999


@pytest.mark.parametrize("trace", [0.0, 0.5, 0.9])
def test_potential_with_a_shorter_trace_is_biased(trace: float) -> None:
    cosines = []
    for seed in range(5):
        problem = table(seed, first_outside=False)
        found = expected_gradient(problem, LOGITS, advantages(problem, "potential", Settings(), normalize="none", trace=trace))
        exact = exact_gradient(problem, LOGITS)
        cosines.append(found @ exact / np.linalg.norm(found) / np.linalg.norm(exact))
    assert min(cosines) < 0.999

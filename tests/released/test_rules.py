"""The two rules of the released code: against the obvious loop, where they end, and broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ospo_cli.instruments.lab.convergence import climb, expected_advantages
from ospo_cli.instruments.lab.decision_problems import PROBLEMS
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.redistribution import RULES, Rule, Settings, redistribute
from ospo_cli.own_code import rules as rule_file
from ospo_cli.released import rules as released
from tests.maths.expected_gradients import CONTEXT_LOGITS, TWO_TOKENS, advantages, climbed, context, expected_gradient, expected_reward
from tests.maths.flat_rows import OUTSIDE, credit, token_map
from tests.maths.rule_checks import CASES, REAL, SETTINGS, Case, apply, replace_degenerate

PROPORTIONAL, RANK = released.RULES


def obvious(rule: str, case: Case, row: int) -> list[float]:
    owners, share, advantage = case.rows[row], case.share[row], case.advantage[row]
    ranks = [1 + sum(other < value for other in share) + (share.count(value) - 1) / 2 for value in share]
    values = {"released": list(share), "released-rank": [-rank for rank in ranks]}[rule]
    spread = max(values) - min(values)
    is_paid = spread > 0 and (rule == "released-rank" or case.reward[row] != 0)
    weights = [(value - min(values)) / (spread or 1) * is_paid for value in values]
    begins = next(token for token, owner in enumerate(owners) if owner != OUTSIDE)
    first = begins if case.before_answer is None else case.before_answer[row]
    return [0.0 if owner == OUTSIDE else weights[owner] * advantage for owner in owners[first:]] + [0.0] * first


def check_the_obvious_loop(rule: Rule) -> None:
    for case in CASES:
        for how in SETTINGS:
            for row, found in enumerate(apply(REAL, rule, case, how)[0]):
                np.testing.assert_allclose(found, obvious(rule.name, case, row), atol=1e-9)


def check_named_cases(rule: Rule) -> None:
    second = {"released": "zero-reward", "released-rank": ""}[rule.name]
    assert apply(REAL, rule, CASES[0], SETTINGS[1])[1] == ["", second, "", "", "no-spread", "", "no-spread", "no-spread", "", ""]


CHECKS: tuple[Callable[[Rule], None], ...] = (check_the_obvious_loop, check_named_cases)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("rule", released.RULES, ids=lambda rule: rule.name)
def test_a_rule_passes_its_checks(rule: Rule, check: Callable[[Rule], None]) -> None:
    assert check(rule) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weights = np.where(has_reward[tokens.segment_row], weights, 0.0)", "pass"),
        ("_min_max(-ascending_ranks(", "_min_max(ascending_ranks("),
        ("scaled = (share - low[tokens.segment_row])", "scaled = share"),
        ("moved[touched - before[tokens.token_row[touched]]]", "moved[touched]"),
        ("moved[touched - before[tokens.token_row[touched]]]", "moved[touched - before[tokens.token_row[touched]] + 1]"),
        ("touched - tokens.first_token[tokens.token_row[touched]])", "touched)"),
        ("before = tokens.before_answer", "pass"),
        ("return moved * credit", "return -moved * credit"),
    ],
)
def test_a_broken_copy_fails_a_check(old: str, new: str) -> None:
    source = Path(str(released.__file__)).read_text(encoding="utf-8")
    assert source.count(old) == 1
    broken = ModuleType("broken_released_rules")
    exec(compile(source.replace(old, new), "<broken>", "exec"), vars(broken))

    def fails(check: Callable[[Rule], None], rule: Rule) -> bool:
        try:
            check(rule)
        except Exception:  # a broken rule may raise anything
            return True
        return False

    assert any(fails(check, rule) for rule in broken.RULES for check in CHECKS)


@pytest.mark.parametrize("rule", released.RULES, ids=lambda rule: rule.name)
def test_an_answer_of_no_segments_and_a_degenerate_group_get_nothing(rule: Rule) -> None:
    found = redistribute(rule, token_map([[OUTSIDE, OUTSIDE], [0, 1]]), credit([-0.7, 0.7], [0.4, 0.1]), Settings())
    assert found.advantages[:2].tolist() == [0.0, 0.0]
    assert found.special_case[0] == "empty-answer"
    case = CASES[0]
    degenerate = redistribute(rule, case.tokens(REAL), replace_degenerate(REAL, case), Settings())
    assert not degenerate.advantages[: len(case.rows[0])].any()
    assert degenerate.special_case[:2].tolist() == ["degenerate-group", {"released": "zero-reward", "released-rank": ""}[rule.name]]


def test_the_rules_enter_by_the_door_of_a_users_rules_and_no_other() -> None:
    assert list(rule_file.load("ospo_cli.released.rules")) == ["released", "released-rank"]
    assert not {"released", "released-rank"} & set(RULES)


# Where they end, on exact expectations


def test_with_the_released_estimator_the_second_of_two_tokens_is_never_learned() -> None:
    found = advantages(TWO_TOKENS, PROPORTIONAL, Settings(), "contiguous-shapley")
    assert expected_reward(TWO_TOKENS, climbed(TWO_TOKENS, found, np.zeros(2), 4000)) == pytest.approx(0.6, abs=0.01)
    # Not a matter of patience: the second token is pushed down, ever more slowly, wherever one starts.
    assert expected_gradient(TWO_TOKENS, np.array([4.0, 1.0]), found)[1] < 0
    assert expected_gradient(TWO_TOKENS, np.array([4.0, -4.0]), found)[1] < 0


def ended(problem: str, estimator: str = "myerson", **how: Any) -> Any:
    made = PROBLEMS[problem]
    return climb(made, expected_advantages(made, [PROPORTIONAL], Settings(**how), ESTIMATORS[estimator]), 4000, 0.5)


@pytest.mark.parametrize("estimator", ["myerson", "contiguous-shapley"])
def test_in_the_lab_too_the_normalisation_stops_at_the_first_word(estimator: str) -> None:
    assert ended("independent", estimator).expected_reward[-1, 0] == pytest.approx(0.6, abs=0.01)


def test_a_harmful_word_is_never_unlearned() -> None:
    assert ended("harmful").expected_reward[-1, 0] < 0.76


@pytest.mark.parametrize("outside", ["sequence", "zero"])
def test_a_segment_without_a_share_is_never_learned(outside: str) -> None:
    problem = context(0)
    found = expected_gradient(problem, CONTEXT_LOGITS, advantages(problem, PROPORTIONAL, Settings(outside=outside)))
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert ended("context-word", outside=outside).logits[0, 0] - PROBLEMS["context-word"].start[0] == pytest.approx(0, abs=1e-9)

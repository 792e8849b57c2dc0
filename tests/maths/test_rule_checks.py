"""Every rule does what its row of the table says, and every step below the rules what its definition says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ospo_cli.maths.redistribution import RULES
from tests.maths.rule_checks import KEEPING, REAL, STEPS, checks_of


@pytest.mark.parametrize(
    ("rule", "check"), [pytest.param(rule, check, id=f"{rule}-{check.__name__}") for rule in RULES for check in checks_of(rule)]
)
def test_a_rule_passes_its_checks(rule: str, check: Callable[[Any, str], None]) -> None:
    assert check(REAL, rule) is None


@pytest.mark.parametrize("check", STEPS, ids=lambda check: check.__name__)
def test_a_step_passes_its_check(check: Callable[[Any], None]) -> None:
    assert check(REAL) is None


def test_the_rules_that_keep_the_sum_are_those_that_say_so() -> None:
    assert tuple(name for name, rule in RULES.items() if rule.keeps_sum) == KEEPING

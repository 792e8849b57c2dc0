"""Rules that a user wrote: a Python file of their own that defines RULE or RULES, named by them in attribute.rule_file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.redistribution import RULE_NAMES, Credit, Rule, Settings, TokenMap
from ospo_cli.own_code.loading import REMEDY, RULE, OwnCode
from ospo_cli.own_code.loading import load as load_code

Formula = Callable[[TokenMap, Credit, Settings], tuple[NDArray[np.float64], NDArray[np.str_]]]

_NAME = r"[a-z][a-z0-9-]{0,31}"


def load(name: str, root: Path = Path()) -> dict[str, Rule]:
    """Return the rules by name; their formulas are checked whenever they are called.

    Args:
        name: FILE.py (its RULE or RULES), FILE.py:NAME or MODULE:NAME (a Rule or several), an entry point; empty: no rules.
        root: folder that files are relative to.

    Raises:
        CreditError: there is no such file, it cannot be run, it defines no rules, or a rule's name is taken.
    """
    if not name:
        return {}
    own = load_code(RULE, name, root)
    return {rule.name: dataclasses.replace(rule, formula=_guarded(rule, own)) for rule in _found(own)}


def _found(own: OwnCode) -> list[Rule]:
    given, path = [own.value], own.source
    if not own.attribute:
        given = [getattr(own.value, name) for name in ("RULE", "RULES") if hasattr(own.value, name)]
    if len(given) != 1:
        raise CreditError(path, "defines no rule" if not given else "defines both RULE and RULES", expected="one of them", remedy=REMEDY)
    rules = list(given[0]) if isinstance(given[0], (list, tuple)) else [given[0]]
    if not rules:
        raise CreditError(path, "RULES is empty", expected="at least one Rule", remedy=REMEDY)
    names: set[str] = set()
    for rule in rules:
        if not isinstance(rule, Rule) or not isinstance(rule.name, str) or not callable(rule.formula):
            raise CreditError(path, "is no rule", found=repr(rule), expected="Rule(name, keeps_sum, formula)", remedy=REMEDY)
        if not re.fullmatch(_NAME, rule.name):
            raise CreditError(path, "a rule's name is not usable", found=rule.name, expected="small letters, digits and -, a letter first")
        if rule.name in RULE_NAMES or rule.name in names:
            raise CreditError(path, "a rule's name is taken", found=rule.name, expected="another name", remedy="rename it")
        names.add(rule.name)
    return rules


def _guarded(rule: Rule, own: OwnCode) -> Formula:
    where = f"{own.source}, rule {rule.name}"

    def arrays(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        advantages, special = rule.formula(tokens, credit, settings)
        return np.asarray(advantages, dtype=np.float64), np.asarray(special, dtype=np.str_)

    def formula(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        advantages, special = own.run(f"rule {rule.name}", arrays, tokens, credit, settings)
        for name, found, size in (("advantages", advantages, len(tokens.token_row)), ("special cases", special, tokens.n_rows)):
            if found.shape != (size,):
                raise CreditError(where, f"{name} have the wrong shape", found=found.shape, expected=f"({size},)")
        if not np.isfinite(advantages).all():
            token = int(np.argmin(np.isfinite(advantages)))
            raise CreditError(where, "an advantage is not a finite number", found=f"{advantages[token]}, token {token}")
        return advantages, special

    return formula

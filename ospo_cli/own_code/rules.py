"""Rules that a user wrote: a Python file of their own that defines RULE or RULES, named by them and run as it stands."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.maths.redistribution import RULES, Credit, Rule, Settings, TokenMap

Formula = Callable[[TokenMap, Credit, Settings], tuple[NDArray[np.float64], NDArray[np.str_]]]

_NAME = r"[a-z][a-z0-9-]{0,31}"
_REMEDY = "docs/lab.md has an example"


def load(name: str | Path, root: Path = Path()) -> dict[str, Rule]:
    """Run the file (relative to `root`) or module and return its rules by name; formulas are checked whenever they are called.

    Raises:
        CreditError: there is no such file or module, it cannot be run, it defines no rules, or a rule's name is taken.
    """
    path = root / source_file(name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CreditError(path, "no such file", expected="a Python file that defines RULE or RULES", remedy=_REMEDY) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CreditError(path, "cannot be read", found=error, expected="a Python file") from None
    module = types.ModuleType(f"ospo_rule_file_{path.stem}")
    module.__file__ = str(path)
    # Dataclasses look their module up by name; nothing is written beside the user's file.
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102  (a local file that the user named)
    except SyntaxError as error:
        raise CreditError(f"{path}, line {error.lineno}", "is no valid Python", found=error.msg) from None
    except Exception as error:
        raise CreditError(_place(path, error), "cannot be run", found=f"{type(error).__name__}: {error}") from None
    finally:
        sys.modules.pop(module.__name__, None)
    return {rule.name: dataclasses.replace(rule, formula=_guarded(rule, path)) for rule in _found(path, module)}


def source_file(name: str | Path) -> Path:
    """Return the Python file that is meant, as given where it is one; a module (`package.module`) is not run."""
    module = str(name)
    if module.endswith(".py") or not re.fullmatch(r"\w+(\.\w+)+", module):
        return Path(name)
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    return Path(spec.origin) if spec is not None and spec.origin is not None else Path(name)


def _found(path: Path, module: types.ModuleType) -> list[Rule]:
    given = [getattr(module, name) for name in ("RULE", "RULES") if name in module.__dict__]
    if len(given) != 1:
        raise CreditError(path, "defines no rule" if not given else "defines both RULE and RULES", expected="one of them", remedy=_REMEDY)
    rules = list(given[0]) if isinstance(given[0], (list, tuple)) else [given[0]]
    if not rules:
        raise CreditError(path, "RULES is empty", expected="at least one Rule", remedy=_REMEDY)
    names: set[str] = set()
    for rule in rules:
        if not isinstance(rule, Rule) or not isinstance(rule.name, str) or not callable(rule.formula):
            raise CreditError(path, "is no rule", found=repr(rule), expected="Rule(name, keeps_sum, formula)", remedy=_REMEDY)
        if not re.fullmatch(_NAME, rule.name):
            raise CreditError(path, "a rule's name is not usable", found=rule.name, expected="small letters, digits and -, a letter first")
        if rule.name in RULES or rule.name in names:
            raise CreditError(path, "a rule's name is taken", found=rule.name, expected="another name", remedy="rename it")
        names.add(rule.name)
    return rules


def _guarded(rule: Rule, path: Path) -> Formula:
    def formula(tokens: TokenMap, credit: Credit, settings: Settings) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        try:
            advantages, special = rule.formula(tokens, credit, settings)
            advantages, special = np.asarray(advantages, dtype=np.float64), np.asarray(special, dtype=np.str_)
        except Exception as error:
            raise CreditError(f"{_place(path, error)}, rule {rule.name}", "fails", found=f"{type(error).__name__}: {error}") from None
        for name, found, size in (("advantages", advantages, len(tokens.token_row)), ("special cases", special, tokens.n_rows)):
            if found.shape != (size,):
                raise CreditError(f"{path}, rule {rule.name}", f"{name} have the wrong shape", found=found.shape, expected=f"({size},)")
        if not np.isfinite(advantages).all():
            token = int(np.argmin(np.isfinite(advantages)))
            raise CreditError(
                f"{path}, rule {rule.name}", "an advantage is not a finite number", found=f"{advantages[token]}, token {token}"
            )
        return advantages, special

    return formula


def _place(path: Path, error: BaseException) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)

"""Deliberately broken copies of the rules and of the steps below them: each is caught by a named check, or the checks are worth nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ospo_cli.maths import redistribution
from ospo_cli.maths.redistribution import RULES, Rule
from tests.maths.rule_checks import REAL, checks_of, failures

# Broken whole: every rule with its input or output spoilt.


def _sign_of_shares(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    flipped = dataclasses.replace(credit, share=-credit.share, prefix_advantage=-credit.prefix_advantage, terminal=-credit.terminal)
    return rule.formula(tokens, dataclasses.replace(flipped, noise=1 - credit.noise), how)


def _sign_of_advantages(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    advantages, special = rule.formula(tokens, credit, how)
    return -advantages, special


def _weight_of_one_segment(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    advantages, special = rule.formula(tokens, credit, how)
    return advantages * (1 + 0.1 * tokens.to_tokens((tokens.position == 0).astype(float))), special


def _off_by_one_segment(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    rolled = {name: np.roll(getattr(credit, name), 1) for name in ("share", "prefix_advantage", "noise")}
    return rule.formula(tokens, dataclasses.replace(credit, **rolled), how)


def _off_by_one_token(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    return rule.formula(dataclasses.replace(tokens, overlap_token=np.maximum(tokens.overlap_token - 1, 0)), credit, how)


def _one_token_late(rule: Rule, tokens: Any, credit: Any, how: Any) -> Any:
    advantages, special = rule.formula(tokens, credit, how)
    return np.roll(advantages, 1), special


BREAKS: tuple[Callable[..., Any], ...] = (
    _sign_of_shares, _sign_of_advantages, _weight_of_one_segment, _off_by_one_segment, _off_by_one_token, _one_token_late,
)  # fmt: skip
# Broken in what the rule does not read, it is the rule itself.
READS_NO_SHARE = {("uniform", _sign_of_shares), ("uniform", _off_by_one_segment), ("uniform", _off_by_one_token)}


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        pytest.param(rule, spoil, id=f"{rule}-{spoil.__name__.strip('_')}")
        for rule in RULES
        for spoil in BREAKS
        if (rule, spoil) not in READS_NO_SHARE
    ],
)
def test_a_spoilt_rule_fails_a_check(rule: str, spoil: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = RULES[rule]
    monkeypatch.setitem(
        redistribution.RULES, rule, dataclasses.replace(real, formula=lambda tokens, credit, how: spoil(real, tokens, credit, how))
    )
    assert any(_raises(check, rule) for check in checks_of(rule))


@pytest.mark.parametrize("rule", ["uniform"])
def test_uniform_reads_nothing_of_segments(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, spoil in sorted(READS_NO_SHARE, key=lambda pair: pair[1].__name__):
        monkeypatch.setitem(
            redistribution.RULES,
            rule,
            dataclasses.replace(RULES[rule], formula=lambda *given, spoil=spoil: spoil(RULES_AS_THEY_ARE, *given)),
        )
        assert not [check.__name__ for check in checks_of(rule) if _raises(check, rule)]


RULES_AS_THEY_ARE = RULES["uniform"]


def _raises(check: Callable[[Any, str], None], rule: str) -> bool:
    try:
        check(REAL, rule)
    except Exception:  # a broken rule may raise anything
        return True
    return False


# Broken inside: one expression of the source changed.

MUTANTS = {
    "redistribution": [
        ("np.where(values > NEGLIGIBLE, values, 0.0)", "np.abs(values)"),
        ("np.where(values > NEGLIGIBLE, values, 0.0)", "values"),
        ("is_good = credit.advantage >= 0", "is_good = credit.advantage < 0"),
        ("_positive(best[tokens.segment_row] - credit.share)", "_positive(credit.share - best[tokens.segment_row])"),
        ("np.concatenate([[True], (np.diff(rounded[order]) > 0) | (np.diff(row[order]) > 0)])", "np.ones(len(share), dtype=bool)"),
        ("np.repeat(np.cumsum(count) - count, count) + 1\n    changes", "np.repeat(np.cumsum(count) - count, count)\n    changes"),
        ("order = np.lexsort((rounded, row))", "order = np.lexsort((-rounded, row))"),
        ("total = tokens.sum_of_row(relative * tokens.length)", "total = tokens.sum_of_row(relative)"),
        ("[tokens.segment_row] / tokens.length\n    special", "[tokens.segment_row]\n    special"),
        ("[tokens.segment_row] / tokens.length\n    special", "[tokens.segment_row] / (tokens.length + 1)\n    special"),
        ('return tokens.tokens_inside if settings.outside == "sequence"', 'return tokens.tokens_inside if settings.outside == "zero"'),
        ("of_token = of_token + (1.0 - tokens.inside)\n    of_token", "of_token = of_token + 1.0\n    of_token"),
        ("alpha * of_token + (1.0 - alpha)", "(1.0 - alpha) * of_token + alpha"),
        ("alpha * of_token + (1.0 - alpha)", "alpha * of_token"),
        ("return np.where(tokens.segments < 2,", "return np.where(tokens.segments < 1,"),
        ("special = np.where(tokens.segments < 2,", "special = np.where(tokens.segments < 1,"),
        ("return np.where(tokens.segments < 2,", "return np.where(tokens.segments < 3,"),
        ("settings.beta * z", "-settings.beta * z"),
        ("np.sqrt(np.bincount(group, weights=centred**2) / count)", "np.sqrt(np.bincount(group, weights=centred**2) / (count - 1))"),
        ("centred = share - (np.bincount(group, weights=share) / count)[group]", "centred = share.copy()"),
        ("credit.advantage * tokens.tokens / np.maximum(tokens.tokens_inside", "credit.advantage * tokens.tokens_inside / np.maximum(tokens.tokens"),
        ("is_aligned = (fewest == most)[group]", "is_aligned = (fewest < most)[group]"),
        ("centred / credit.scale[tokens.segment_row]), _no_case", "centred), _no_case"),
        ("np.where(is_aligned, tokens.position, width - 1)", "np.where(is_aligned, 0, width - 1)"),
        ("mean = tokens.sum_of_row(credit.share * tokens.length)", "mean = tokens.sum_of_row(credit.share)"),
        ("mean = tokens.sum_of_row(credit.share) / per_row", "mean = tokens.sum_of_row(credit.share) / (per_row + 1)"),
        ("* mean_length[tokens.segment_row] / tokens.length", "* mean_length[tokens.segment_row]"),
        ("settings.beta * difference / credit.scale", "settings.beta * difference * credit.scale"),
        ("settings.beta * difference / credit.scale", "-settings.beta * difference / credit.scale"),
        ("centred = centred / credit.scale[place_row]", "centred = centred * credit.scale[place_row]"),
        ("position = np.concatenate([tokens.position, tokens.segments])", "position = np.concatenate([tokens.position, tokens.segments + 1])"),
        ("behind[tokens.token_row]), _no_case", "-behind[tokens.token_row]), _no_case"),
        ("-np.log1p(-credit.noise)", "credit.noise"),
        ("factor * uniform, elsewhere", "factor**2 * uniform, elsewhere"),
        ("np.where(tokens.inside > 0, factor * uniform, elsewhere)", "factor * uniform"),
        ("matched = redistribute(settings.matched_rule,", 'matched = redistribute("proportional",'),
        ("np.clip(advantages, -bound, bound)", "np.clip(advantages, -bound / 2, bound)"),
        ("outside = np.abs(advantages) > bound", "outside = advantages > bound"),
        ("outside = np.abs(advantages) > bound", "outside = np.abs(advantages) >= bound"),
        ("np.where(credit.is_degenerate[tokens.token_row], 0.0, advantages)", "advantages"),
        ("advantages = np.where(has_no_segment[tokens.token_row], alone, advantages)", "pass"),
    ],
    "token_map": [
        ("found = np.searchsorted(first_token, np.arange(len(self.token_row)))", "found = np.searchsorted(first_token, np.arange(len(self.token_row)) - 1)"),
        ("weights = self.overlap_weight * of_segments[self.overlap_segment]", "weights = of_segments[self.overlap_segment]"),
        ("np.bincount(self.overlap_token, weights=weights, minlength", "np.bincount(np.roll(self.overlap_token, 1), weights=weights, minlength"),
        ("np.bincount(self.overlap_segment, weights=self.overlap_weight, minlength=len(self.segment_row)).astype", "np.bincount(self.overlap_segment, minlength=len(self.segment_row)).astype"),
    ],
    "shaping": [
        ("mean = (gained + ended) / np.repeat(np.maximum(size, 1), width)", "mean = gained / np.repeat(np.maximum(size, 1), width)"),
        ("advantages - mean[cell]", "advantages + mean[cell]"),
        ("cell = group[segment_row] * width + position", "cell = group[segment_row] * width"),
        ("weights=advantages - terminal[segment_row]", "weights=advantages"),
        ("steps[:, position] + trace * following", "steps[:, position] + following"),
        ("range(steps.shape[1] - 1, -1, -1)", "range(steps.shape[1])"),
        ("following = terminal\n", "following = np.zeros_like(terminal)\n"),
        ("np.diff(prefix_values, axis=1)", "-np.diff(prefix_values, axis=1)"),
    ],
    "advantages": [
        ("np.maximum(count - 1, 1)", "np.maximum(count, 1)"),
        ("np.where(is_degenerate, 0.0, centred / scale)", "np.where(is_degenerate, 0.0, -centred / scale)"),
        ("std[group] + EPSILON", "std[group]"),
        ("EPSILON = 1e-4", "EPSILON = 1e-1"),
        ("(std < DEGENERATE_STD) | (count < 2)", "std < -1"),
    ],
}  # fmt: skip


@pytest.fixture
def broken(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The code with one expression changed; modules above the changed one are copies that use it."""
    module, old, new = request.param
    code = SimpleNamespace(**vars(REAL))
    setattr(code, module, _copy(getattr(REAL, module), old, new))
    if module == "shaping":
        code.redistribution = _copy(REAL.redistribution, "", "")
        code.redistribution.centred_by_position = code.shaping.centred_by_position
    yield code
    for name in [name for name in sys.modules if name.startswith("broken_copy_of_")]:
        del sys.modules[name]


def _copy(module: ModuleType, old: str, new: str) -> ModuleType:
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert not old or source.count(old) == 1, f"{old!r} stands {source.count(old)} times in the source: mend this list"
    copy = ModuleType(f"broken_copy_of_{module.__name__.rsplit('.', 1)[-1]}")
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    exec(compile(source.replace(old, new) if old else source, f"<{copy.__name__}>", "exec"), vars(copy))
    return copy


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param((module, *change), id=f"{module}-{index}")
        for module, changes in MUTANTS.items()
        for index, change in enumerate(changes)
    ],
    indirect=True,
)
def test_a_broken_copy_fails_a_named_check(broken: SimpleNamespace) -> None:
    assert next(failures(broken), "")


@pytest.mark.parametrize("broken", [(module, "", "") for module in MUTANTS], indirect=True, ids=list(MUTANTS))
def test_a_copy_with_nothing_changed_fails_none(broken: SimpleNamespace) -> None:
    assert list(failures(broken)) == []

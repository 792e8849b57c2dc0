"""What every rule must do, as functions of the code under test: used on the code itself, and on broken copies of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ospo_cli.maths import advantages, redistribution, shaping
from ospo_cli.maths import token_map as token_maps
from ospo_cli.maths.redistribution import Credit, Settings, TokenMap
from tests.games import generator
from tests.maths.flat_rows import OUTSIDE, token_map

REAL = SimpleNamespace(token_map=token_maps, redistribution=redistribution, shaping=shaping, advantages=advantages)
KEEPING = ("uniform", "proportional", "rank", "mix", "signed", "additive", "answer-uniform", "random")
SETTINGS = [Settings(0.5, 0.3, "signed", outside, unit) for outside in ("sequence", "zero") for unit in ("divide", "copy")]


@dataclass(frozen=True)
class Case:
    """A few rows by hand: the segment of each token (OUTSIDE: none), and what each row's segments earned."""

    rows: tuple[tuple[int, ...], ...]
    group: tuple[int, ...]
    advantage: tuple[float, ...]
    share: tuple[tuple[float, ...], ...]
    prefix: tuple[tuple[float, ...], ...]
    terminal: tuple[float, ...]
    noise: tuple[tuple[float, ...], ...]
    reward: tuple[float, ...]
    before_answer: tuple[int, ...] | None = None
    scale: tuple[float, ...] = (0.5, 0.5, 0.5, 0.8, 0.8, 0.8, 1.5, 1.5, 0.9, 0.9)

    def tokens(self, code: Any) -> TokenMap:
        made = token_map(self.rows, [len(share) for share in self.share])
        before = None if self.before_answer is None else np.array(self.before_answer)
        return copied(code, replace(made, before_answer=before))

    def credit(self, code: Any) -> Credit:
        flat = {name: np.array([x for row in getattr(self, name) for x in row], dtype=float) for name in ("share", "prefix", "noise")}
        return code.redistribution.Credit(
            advantage=np.array(self.advantage),
            scale=np.array(self.scale),
            group=np.array(self.group),
            is_degenerate=np.zeros(len(self.rows), dtype=bool),
            share=flat["share"],
            prefix_advantage=flat["prefix"],
            terminal=np.array(self.terminal),
            noise=flat["noise"],
            reward=np.array(self.reward),
        )


def _case(has_word_before: bool) -> Case:
    o = OUTSIDE
    rows = (
        (o, o, 0, 0, o, 1, 2, 2, 2, o),  # think, tag, "aa", separator, "b", "ccc", end
        (0, 1, 1, o, 2, 3),
        (o, 0, 1, 1, 1, 2, o),
        (o, 0, 0, 1, o),
        (o, 0, o),  # one segment
        (0, 1, 1, 2),
        (o, 0, o, 1),
        (o, 0, o, 1),
        (0, 0, 1, o),  # as many segments as the other answer of its group
        (0, 1, 1, 1, o),
    )
    share = (
        (0.6, -0.2, 0.1),
        (0.3, 0.3, 0.0, -0.4),
        (0.2, 0.5, 0.9),
        (0.05, 0.45),
        (0.7,),
        (-0.1, -0.3, -0.2),  # nothing positive
        (0.4, 0.4),  # nothing to blame
        (0.4, 0.4),
        (0.5, 0.1),
        (0.2, -0.3),
    )
    drawn = generator(5)
    like_segments = [tuple(drawn.uniform(-1, 1, len(row)).tolist()) for row in share]
    noise = [tuple(drawn.uniform(0, 1, len(row)).tolist()) for row in share]
    # With a word before, the answer begins before its first segment, with a word of none.
    return Case(
        rows=rows,
        group=(0, 0, 0, 1, 1, 1, 2, 2, 3, 3),
        advantage=(0.9, -0.4, -0.5, 0.7, -1.1, 0.4, -0.6, 0.6, 0.7, -0.7),
        share=share,
        prefix=tuple(like_segments),
        terminal=(-0.1, 0.0, -0.05, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, -0.1),
        noise=tuple(noise),
        reward=(0.5, 0.0, 1.2, 0.8, 0.3, -0.4, 0.6, 0.9, 0.8, 0.3),
        before_answer=(1, 0, 1, 0, 0, 0, 0, 1, 0, 0) if has_word_before else None,
    )


def copied(code: Any, made: TokenMap) -> Any:
    """Return the token map as the code under test defines it."""
    return code.token_map.TokenMap(**{name: getattr(made, name) for name in TokenMap.__dataclass_fields__})


CASES = [_case(False), _case(True)]


def apply(code: Any, rule: str, case: Case, how: Settings) -> tuple[list[list[float]], list[str]]:
    """Return the advantages row by row, and the special cases."""
    tokens = case.tokens(code)
    found = code.redistribution.redistribute(rule, tokens, case.credit(code), how)
    ends = np.cumsum([len(row) for row in case.rows])[:-1]
    return [part.tolist() for part in np.split(found.advantages, ends)], found.special_case.tolist()


# The obvious loop


def obvious(rule: str, case: Case, how: Settings) -> list[list[float]]:
    """Return what ALGORITHM's table says, one row and one token at a time."""
    return [_obvious_row(rule, case, how, row) for row in range(len(case.rows))]


def _obvious_row(rule: str, case: Case, how: Settings, row: int) -> list[float]:
    owners, share, advantage = case.rows[row], case.share[row], case.advantage[row]
    n, length = len(share), [owners.count(segment) for segment in range(len(share))]
    inside, everything = sum(length), len(owners)
    members = [other for other in range(len(case.rows)) if case.group[other] == case.group[row]]
    uniform = [advantage] * everything
    elsewhere = advantage if how.outside == "sequence" else 0.0
    base = advantage if how.outside == "sequence" else advantage * everything / inside

    def by_segment(values: list[float]) -> list[float]:
        return [elsewhere if owner == OUTSIDE else values[owner] for owner in owners]

    def spend(weights: list[float]) -> list[float]:
        if n < 2 or not any(weight > 0 for weight in weights):
            return uniform
        mass = (inside if how.outside == "sequence" else everything) * advantage
        if how.credit_unit == "copy":
            total = sum(weight * tokens for weight, tokens in zip(weights, length, strict=True))
            return by_segment([mass * weight / total for weight in weights])
        return by_segment([mass * weight / sum(weights) / tokens for weight, tokens in zip(weights, length, strict=True)])

    positive = [max(value, 0.0) for value in share]
    is_spent = any(positive)
    if rule == "uniform":
        return uniform
    if rule == "proportional":
        return spend(positive)
    if rule == "rank":
        return spend([_rank(share, value) * is_spent for value in share])
    if rule == "mix":
        return [how.alpha * one + (1 - how.alpha) * other for one, other in zip(spend(positive), uniform, strict=True)]
    if rule == "signed":
        return spend(positive if advantage >= 0 else [max(share) - value for value in share])
    if rule == "additive":
        if n < 2:
            return uniform
        if how.credit_unit == "copy":
            mean = sum(value * tokens for value, tokens in zip(share, length, strict=True)) / inside
            return by_segment([base + how.beta * (value - mean) / case.scale[row] for value in share])
        mean = sum(share) / n
        steps = [how.beta * (value - mean) / case.scale[row] * (inside / n) / tokens for value, tokens in zip(share, length, strict=True)]
        return by_segment([base + step for step in steps])
    if rule == "group-additive":
        pooled = [value for other in members for value in case.share[other]]
        mean = sum(pooled) / len(pooled)
        std = math.sqrt(sum((value - mean) ** 2 for value in pooled) / len(pooled))
        return by_segment([base + how.beta * ((value - mean) / std if std > 1e-12 else 0.0) for value in share])
    if rule == "share-only":
        pooled = [value for other in members for value in case.share[other]]
        means = [sum(pooled) / len(pooled)] * n
        if len({len(case.share[other]) for other in members}) == 1:
            means = [sum(case.share[other][place] for other in members) / len(members) for place in range(n)]
        return by_segment([(value - mean) / case.scale[row] for value, mean in zip(share, means, strict=True)])
    if rule == "potential":
        ladder = {other: [*case.prefix[other], case.terminal[other]] for other in members}
        centred = []
        for place in range(n + 1):
            others = [ladder[other][min(place, len(case.share[other]))] for other in members]
            centred.append((ladder[row][place] - sum(others) / len(others)) / case.scale[row])
        if how.outside == "zero":
            return by_segment(centred)
        values = []
        for token, owner in enumerate(owners):
            following = [later for later in owners[token + 1 :] if later != OUTSIDE]
            values.append(centred[owner if owner != OUTSIDE else following[0] if following else n])
        return values
    if rule == "answer-uniform":
        return spend([float(tokens) for tokens in length] if how.credit_unit == "divide" else [1.0] * n) if is_spent else uniform
    if rule == "random":
        return spend([-math.log(1 - number) * is_spent for number in case.noise[row]])
    if rule == "rms-matched":
        matched = obvious(how.matched_rule, case, how)
        pairs = [(value, case.advantage[at]) for at, line in enumerate(matched) for value, owner in zip(line, case.rows[at], strict=True) if owner != OUTSIDE]  # fmt: skip
        factor = math.sqrt(sum(value**2 for value, _ in pairs) / sum(own**2 for _, own in pairs))
        return [elsewhere if owner == OUTSIDE else factor * advantage for owner in owners]
    raise ValueError(rule)


def _rank(share: tuple[float, ...], value: float) -> float:
    """Ascending from 1; equal ones share their mean."""
    return 1 + sum(other < value for other in share) + (sum(other == value for other in share) - 1) / 2


# Checks. Each takes the code under test, and raises where it does something else.


def check_agrees_with_the_obvious_loop(code: Any, rule: str) -> None:
    for case in CASES:
        for how in SETTINGS:
            for found, expected in zip(apply(code, rule, case, how)[0], obvious(rule, case, how), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=f"{rule} {how}")


def check_spends_tokens_times_advantage(code: Any, rule: str) -> None:
    case = CASES[0]
    for how in SETTINGS:
        spent = [sum(row) for row in apply(code, rule, case, how)[0]]
        wanted = [len(row) * advantage for row, advantage in zip(case.rows, case.advantage, strict=True)]
        keeps = rule in KEEPING
        np.testing.assert_allclose(np.array(spent) * keeps, np.array(wanted) * keeps, atol=1e-9)


def check_knows_no_other_rollout_group(code: Any, rule: str) -> None:
    first = [index for index, group in enumerate(CASES[0].group) if group == 0]
    alone = replace(
        CASES[0],
        **{
            name: tuple(getattr(CASES[0], name)[index] for index in first)
            for name in ("rows", "group", "advantage", "share", "prefix", "terminal", "noise", "reward", "scale")
        },
    )
    # One factor for all rows is what rms-matched is, so that it is matched to itself here.
    how = replace(SETTINGS[0], matched_rule="uniform")
    assert apply(code, rule, alone, how)[0] == apply(code, rule, CASES[0], how)[0][: len(first)]


def check_a_cut_token_has_of_both_segments_by_overlap(code: Any, rule: str) -> None:
    """Three tokens: one in segment 0, one .25 in segment 0 and .5 in segment 1, one in segment 1; as if each had been cut in four."""
    cut = code.token_map.TokenMap(
        np.zeros(3, dtype=int), np.zeros(2, dtype=int), np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), np.array([1, 0.25, 0.5, 1.0]), 1
    )
    fine = token_map([[0] * 4 + [0, 1, 1, OUTSIDE] + [1] * 4])
    fine = copied(code, fine)
    given = code.redistribution.Credit(
        np.array([0.8]), np.array([0.5]), np.array([0]), np.array([False]), np.array([0.6, 0.2]), np.array([0.3, 0.1]), np.zeros(1),
        np.array([0.2, 0.7]), np.array([1.0]),
    )  # fmt: skip
    for how in SETTINGS:
        whole = code.redistribution.redistribute(rule, cut, given, how).advantages
        quarters = code.redistribution.redistribute(rule, fine, given, how).advantages
        np.testing.assert_allclose(whole, quarters.reshape(3, 4).mean(axis=1), atol=1e-9)


def check_equal_shares_over_the_whole_completion_are_grpo_to_the_last_bit(code: Any, rule: str) -> None:
    for n in (2, 3, 49):
        tokens = copied(code, token_map([range(n)]))
        given = code.redistribution.Credit(
            np.array([0.3]), np.ones(1), np.array([0]), np.array([False]), np.full(n, 1 / 3), np.zeros(n), np.zeros(1), np.zeros(n) + 0.5,
            np.ones(1),
        )  # fmt: skip
        for how in SETTINGS:
            assert code.redistribution.redistribute(rule, tokens, given, how).advantages.tolist() == [0.3] * n


def check_names_what_it_could_not_share_out(code: Any, rule: str) -> None:
    named = apply(code, rule, CASES[0], SETTINGS[1])[1]
    expected = {
        "signed": ["", "", "", "", "single-segment", "no-positive-share", "no-blame", "", "", ""],
        "additive": ["", "", "", "", "single-segment", "", "", "", "", ""],
        "group-additive": ["", "", "", "", "", "", "no-spread", "no-spread", "", ""],
    }
    nothing_to_share = ["", "", "", "", "single-segment", "no-positive-share", "", "", "", ""]
    other = nothing_to_share if rule in ("proportional", "rank", "mix", "answer-uniform", "random") else [""] * 10
    assert named == expected.get(rule, other)


# Settings under which a rule is one of the whole-completion family: then equal shares are GRPO.
GRPO_LIKE = ("uniform", "proportional", "rank", "mix", "signed", "group-additive", "answer-uniform")
OF_EVERY_RULE: tuple[Callable[[Any, str], None], ...] = (
    check_agrees_with_the_obvious_loop,
    check_spends_tokens_times_advantage,
    check_knows_no_other_rollout_group,
    check_names_what_it_could_not_share_out,
)
# A token cut by a border counts as a whole for potential and rms-matched.
BY_OVERLAP = tuple(name for name in redistribution.RULES if name not in ("potential", "rms-matched"))


def checks_of(rule: str) -> list[Callable[[Any, str], None]]:
    return [
        *OF_EVERY_RULE,
        *([check_equal_shares_over_the_whole_completion_are_grpo_to_the_last_bit] if rule in GRPO_LIKE else []),
        *([check_a_cut_token_has_of_both_segments_by_overlap] if rule in BY_OVERLAP else []),
    ]


# Steps that no rule alone shows


def check_clipping_bounds_both_sides_and_counts(code: Any) -> None:
    found, share = code.redistribution.clipped(np.array([-3.0, -1.0, 0.5, 2.0, 1.5]), 1.5)
    assert (found.tolist(), share) == ([-1.5, -1.0, 0.5, 1.5, 1.5], 0.4)


def check_degenerate_groups_get_nothing(code: Any) -> None:
    for rule in redistribution.RULES:
        case = CASES[0]
        given = replace_degenerate(code, case)
        found = code.redistribution.redistribute(rule, case.tokens(code), given, SETTINGS[1])
        assert not found.advantages[: len(case.rows[0])].any()
        assert found.special_case[0] == "degenerate-group"
        assert found.special_case[1] != "degenerate-group"


def replace_degenerate(code: Any, case: Case) -> Any:
    """The first row's group counts as one without differences, as far as this row is concerned."""
    given = case.credit(code)
    flags = np.zeros(len(case.rows), dtype=bool)
    flags[0] = True
    return code.redistribution.Credit(
        given.advantage, given.scale, given.group, flags, given.share, given.prefix_advantage, given.terminal, given.noise, given.reward
    )


def check_an_answer_of_no_segments_is_uniform(code: Any) -> None:
    made = token_map([[OUTSIDE, OUTSIDE], [0, 1]])
    tokens = copied(code, made)
    given = code.redistribution.Credit(
        np.array([-0.7, 0.7]), np.ones(2), np.zeros(2, dtype=int), np.zeros(2, dtype=bool), np.array([0.4, 0.1]), np.array([0.5, 0.3]),
        np.zeros(2), np.array([0.1, 0.9]), np.ones(2),
    )  # fmt: skip
    for rule in redistribution.RULES:
        found = code.redistribution.redistribute(rule, tokens, given, SETTINGS[2])
        assert found.advantages[:2].tolist() == [-0.7] * 2
        assert found.special_case[0] == "empty-answer"


def check_group_advantages_are_those_of_the_definition(code: Any) -> None:
    rewards, group = np.array([0.2, 0.9, 0.4, 0.7, 0.7, 0.1, 0.3]), np.array([0, 0, 0, 1, 1, 2, 2])
    found = code.advantages.group_advantages(rewards, group)
    expected = []
    for reward, own in zip(rewards, group, strict=True):
        others = [other for other, number in zip(rewards, group, strict=True) if number == own]
        mean = sum(others) / len(others)
        std = math.sqrt(sum((other - mean) ** 2 for other in others) / (len(others) - 1))
        expected.append(0.0 if std < 1e-8 else (reward - mean) / (std + 1e-4))
    np.testing.assert_allclose(found.advantage, expected, atol=1e-12)
    assert found.is_degenerate.tolist() == [False] * 3 + [True] * 2 + [False] * 2


def check_prefix_advantages_are_sums_of_steps(code: Any) -> None:
    values, terminal = np.array([[0.1, 0.4, 0.2, 0.9]]), np.array([-0.3])
    steps = [0.3, -0.2, 0.7, -0.3]
    for trace in (0.0, 0.5, 1.0):
        expected = [sum(trace**later * steps[place + later] for later in range(4 - place)) for place in range(3)]
        np.testing.assert_allclose(code.shaping.prefix_advantages(values, terminal, trace)[0], expected, atol=1e-12)


STEPS: tuple[Callable[[Any], None], ...] = (
    check_clipping_bounds_both_sides_and_counts,
    check_degenerate_groups_get_nothing,
    check_an_answer_of_no_segments_is_uniform,
    check_group_advantages_are_those_of_the_definition,
    check_prefix_advantages_are_sums_of_steps,
)


def failures(code: Any) -> Iterator[str]:
    """Give the names of the checks that the code does not pass."""
    for check in STEPS:
        if not _passes(lambda check=check: check(code)):
            yield check.__name__
    for rule in redistribution.RULES:
        for check in checks_of(rule):
            if not _passes(lambda check=check, rule=rule: check(code, rule)):
                yield f"{rule}: {check.__name__}"


def _passes(check: Callable[[], None]) -> bool:
    try:
        with np.errstate(all="ignore"):
            check()
    except Exception:  # a broken copy may raise anything
        return False
    return True

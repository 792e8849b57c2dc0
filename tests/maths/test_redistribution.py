"""Token advantages: sums, known answers, special cases, and relations between rules."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths.redistribution import RULES, Credit, Settings, TokenMap, ascending_ranks, clipped, redistribute, standardised
from tests.maths.flat_rows import OUTSIDE, credit, token_map
from tests.oracles import proportional_tokens

KEEPING = [name for name, rule in RULES.items() if rule.keeps_sum]
SETTINGS = [Settings(outside=outside, credit_unit=unit) for outside in ("sequence", "zero") for unit in ("divide", "copy")]


@st.composite
def problems(draw: st.DrawFn) -> tuple[TokenMap, Credit]:
    """Several rows; tokens partly inside segments, every segment with some token."""
    rows = draw(st.integers(1, 5))
    counts = [draw(st.integers(0, 4)) for _ in range(rows)]
    token_row, token, segment, weight = [], [], [], []
    first = np.cumsum(counts) - counts
    number = 0
    for row in range(rows):
        for index in range(counts[row]):
            for _ in range(draw(st.integers(1, 3))):
                token_row.append(row)
                token.append(number)
                segment.append(int(first[row]) + index)
                weight.append(draw(st.sampled_from([1.0, 0.5, 0.2])))
                number += 1
        for _ in range(draw(st.integers(0, 3))):
            token_row.append(row)
            number += 1
    n_segments = sum(counts)
    numbers = st.floats(-2, 2)
    made = TokenMap(
        np.array(token_row, dtype=np.int64), np.repeat(np.arange(rows), counts), np.array(token, dtype=np.int64), np.array(segment, dtype=np.int64), np.array(weight), rows
    )  # fmt: skip
    share = [draw(st.one_of(numbers, st.just(0.0))) for _ in range(n_segments)]
    advantage = [draw(numbers) for _ in range(rows)]
    group = sorted(draw(st.integers(0, 1)) for _ in range(rows))
    return made, credit(advantage, share, group, prefix=share, terminal=[draw(numbers) for _ in range(rows)])


@pytest.mark.parametrize("rule", KEEPING)
@pytest.mark.parametrize("how", SETTINGS, ids=lambda how: f"{how.outside}-{how.credit_unit}")
@settings(max_examples=15)
@given(problem=problems())
def test_rules_that_keep_the_sum_spend_exactly_tokens_times_advantage(rule: str, how: Settings, problem: tuple[TokenMap, Credit]) -> None:
    tokens, given_credit = problem
    advantages = redistribute(rule, tokens, given_credit, how).advantages
    total = np.bincount(tokens.token_row, weights=advantages, minlength=tokens.n_rows)
    assert total == pytest.approx(tokens.tokens * given_credit.advantage, abs=1e-9)


@pytest.mark.parametrize("rule", ["proportional", "rank", "signed", "group-additive", "share-only"])
@settings(max_examples=15)
@given(problem=problems())
def test_tokens_of_no_segment_keep_the_group_advantage_or_get_nothing(rule: str, problem: tuple[TokenMap, Credit]) -> None:
    tokens, given_credit = problem
    result = {outside: redistribute(rule, tokens, given_credit, Settings(outside=outside)) for outside in ("sequence", "zero")}
    is_outside = tokens.inside == 0
    is_credited = (result["zero"].special_case == "")[tokens.token_row]
    assert result["sequence"].advantages[is_outside] == pytest.approx(given_credit.advantage[tokens.token_row][is_outside])
    assert np.all(result["zero"].advantages[is_outside & is_credited] == 0)


@pytest.mark.parametrize("rule", list(RULES))
def test_degenerate_groups_get_nothing_under_any_rule(rule: str) -> None:
    tokens = token_map([[0, 1, OUTSIDE], [0, 0]])
    given_credit = credit([0.5, 0.5], [0.1, 0.9, 0.4], degenerate=[True, True], prefix=[0.1, 0.2, 0.3])
    result = redistribute(rule, tokens, given_credit, Settings())
    assert result.advantages.tolist() == [0.0] * 5
    assert result.special_case.tolist() == ["degenerate-group"] * 2


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_answer_gets_the_group_advantage_on_every_token(rule: str) -> None:
    tokens = token_map([[OUTSIDE, OUTSIDE], [0, 1]])
    given_credit = credit([-0.7, 0.7], [0.4, 0.1], prefix=[0.5, 0.3])
    result = redistribute(rule, tokens, given_credit, Settings(outside="zero"))
    assert result.advantages[:2].tolist() == [-0.7, -0.7]
    assert result.special_case[0] == "empty-answer"


# Known answers


@pytest.mark.parametrize(
    ("rule", "advantage", "how", "expected"),
    [
        # 6 tokens, segments of 2, 1 and 1 tokens with shares .6 .2 .0; two tokens outside.
        ("uniform", 0.5, Settings(outside="zero"), [0.5] * 6),
        ("proportional", 0.5, Settings(), [0.5, 0.75, 0.75, 0.5, 0.0, 0.5]),
        ("proportional", 0.5, Settings(outside="zero"), [0.0, 1.125, 1.125, 0.75, 0.0, 0.0]),
        ("proportional", 0.5, Settings(credit_unit="copy"), [0.5, 0.6 / 1.4 * 2, 0.6 / 1.4 * 2, 0.2 / 1.4 * 2, 0.0, 0.5]),
        ("rank", 0.5, Settings(), [0.5, 0.5, 0.5, 2 / 3, 1 / 3, 0.5]),
        ("signed", 0.5, Settings(), [0.5, 0.75, 0.75, 0.5, 0.0, 0.5]),
        ("signed", -0.5, Settings(), [-0.5, 0.0, 0.0, -0.8, -1.2, -0.5]),
        ("proportional", -0.5, Settings(), [-0.5, -0.75, -0.75, -0.5, 0.0, -0.5]),
    ],
)
def test_known_answers_of_one_row(rule: str, advantage: float, how: Settings, expected: list[float]) -> None:
    tokens = token_map([[OUTSIDE, 0, 0, 1, 2, OUTSIDE]])
    assert redistribute(rule, tokens, credit([advantage], [0.6, 0.2, 0.0]), how).advantages == pytest.approx(expected)


def test_group_additive_adds_shares_standardised_over_the_rollout_group() -> None:
    tokens = token_map([[0, 1, OUTSIDE], [0, 0, 1]])
    share = np.array([0.4, 0.0, 0.1, 0.3])
    z = (share - 0.2) / share.std()
    advantages = redistribute("group-additive", tokens, credit([1.0, -1.0], share.tolist()), Settings(beta=0.5)).advantages
    assert advantages == pytest.approx([1 + z[0] / 2, 1 + z[1] / 2, 1.0, -1 + z[2] / 2, -1 + z[2] / 2, -1 + z[3] / 2])


def test_group_additive_never_compares_across_rollout_groups() -> None:
    tokens = token_map([[0, 1], [0, 1]])
    together = redistribute("group-additive", tokens, credit([1, 1], [0.1, 0.2, 5.0, 9.0], [0, 1]), Settings()).advantages
    alone = redistribute("group-additive", token_map([[0, 1]]), credit([1], [0.1, 0.2]), Settings()).advantages
    assert together[:2] == pytest.approx(alone)


def test_share_only_takes_off_the_mean_at_the_same_position_where_answers_align() -> None:
    tokens = token_map([[0, 1], [0, 1]])
    advantages = redistribute("share-only", tokens, credit([1, -1], [0.5, 0.1, 0.1, 0.3], scale=0.5), Settings()).advantages
    assert advantages == pytest.approx([0.4, -0.2, -0.4, 0.2])


def test_share_only_takes_off_the_mean_of_all_segments_where_answers_do_not_align() -> None:
    tokens = token_map([[0, 1], [0]])
    advantages = redistribute("share-only", tokens, credit([1, -1], [0.5, 0.0, 0.1]), Settings()).advantages
    assert advantages == pytest.approx([0.3, -0.2, -0.1])


def test_potential_gives_a_token_between_segments_the_advantage_of_its_own_place() -> None:
    tokens = token_map([[OUTSIDE, 0, OUTSIDE, 1, OUTSIDE], [0, OUTSIDE]])
    given_credit = credit([0.2, -0.2], [0, 0, 0], prefix=[0.8, 0.5, 0.4], terminal=[-0.1, 0.0], scale=0.5)
    advantages = redistribute("potential", tokens, given_credit, Settings()).advantages
    # Places of the first row .8 .5 -.1, of the second .4 .0 .0; means .6 .25 -.05; everything over .5.
    assert advantages == pytest.approx([0.4, 0.4, 0.5, 0.5, -0.1, -0.4, -0.5])
    zero = redistribute("potential", tokens, given_credit, Settings(outside="zero")).advantages
    assert zero == pytest.approx([0.0, 0.4, 0.0, 0.5, 0.0, -0.4, 0.0])


def test_potential_gives_a_token_cut_by_a_border_the_advantage_of_the_first_segment_that_it_touches() -> None:
    # The first token is half separator, the second holds the ends of both segments: either is one action, taken at one place.
    tokens = TokenMap(
        np.zeros(3, dtype=int), np.zeros(2, dtype=int), np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), np.array([0.5, 0.4, 0.4, 1.0]), 1
    )
    other = token_map([[0, 1]])
    both = TokenMap(
        np.concatenate([tokens.token_row, other.token_row + 1]),
        np.concatenate([tokens.segment_row, other.segment_row + 1]),
        np.concatenate([tokens.overlap_token, other.overlap_token + 3]),
        np.concatenate([tokens.overlap_segment, other.overlap_segment + 2]),
        np.concatenate([tokens.overlap_weight, other.overlap_weight]),
        2,
    )
    given_credit = credit([0.5, -0.5], [0, 0, 0, 0], prefix=[0.8, 0.5, 0.4, 0.1])
    assert redistribute("potential", both, given_credit, Settings()).advantages == pytest.approx([0.2, 0.2, 0.2, -0.2, -0.2])


def test_equal_shares_in_a_whole_group_add_nothing() -> None:
    tokens = token_map([[0, 1], [0, 1]])
    advantages = redistribute("group-additive", tokens, credit([1, -1], [0.1 + 0.2, 0.3, 0.3, 0.3]), Settings()).advantages
    assert advantages.tolist() == [1, 1, -1, -1]


# Special cases


@pytest.mark.parametrize(
    ("rule", "advantage", "share", "case"),
    [
        ("proportional", 0.5, [-0.1, 0.0], "no-positive-share"),
        ("proportional", 0.5, [-0.1, 1e-17], "no-positive-share"),
        ("rank", -0.5, [-0.1, -0.2], "no-positive-share"),
        ("signed", 0.5, [-0.1, 0.0], "no-positive-share"),
        ("signed", -0.5, [0.2, 0.2], "no-blame"),
        ("signed", -0.5, [0.3, 0.1 + 0.2], "no-blame"),
    ],
)
def test_where_no_segment_has_weight_the_row_is_uniform_and_says_so(rule: str, advantage: float, share: list[float], case: str) -> None:
    result = redistribute(rule, token_map([[0, 1, OUTSIDE]]), credit([advantage], share), Settings(outside="zero"))
    assert result.advantages.tolist() == [advantage] * 3
    assert result.special_case.tolist() == [case]


@pytest.mark.parametrize("rule", ["proportional", "rank", "signed"])
def test_a_single_segment_makes_the_row_uniform(rule: str) -> None:
    result = redistribute(rule, token_map([[0, OUTSIDE]]), credit([0.5], [0.7]), Settings(outside="zero"))
    assert result.advantages.tolist() == [0.5, 0.5]
    assert result.special_case.tolist() == ["single-segment"]


# Relations


@pytest.mark.parametrize("n", [2, 3, 7, 48, 49, 93])
@pytest.mark.parametrize("share", [0.1, 1 / 3, 1e-9, 7.0])
def test_proportional_with_equal_shares_over_the_whole_completion_is_grpo_to_the_last_bit(n: int, share: float) -> None:
    tokens = token_map([list(range(n))])
    for_all = [redistribute("proportional", tokens, credit([0.3], [share] * n), how).advantages for how in SETTINGS]
    assert all(np.array_equal(advantages, np.full(n, 0.3)) for advantages in for_all)


@settings(max_examples=40)
@given(
    share=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    lengths=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    outside=st.integers(0, 3),
    advantage=st.floats(-2, 2),
)
def test_proportional_agrees_with_the_obvious_loop(share: list[float], lengths: list[int], outside: int, advantage: float) -> None:
    lengths = lengths[: len(share)]
    row = [index for index, length in enumerate(lengths) for _ in range(length)] + [OUTSIDE] * outside
    inside, rest = proportional_tokens(share, lengths, outside, advantage)
    expected = [value for segment in inside for value in segment] + [rest] * outside
    assert redistribute("proportional", token_map([row]), credit([advantage], share), Settings()).advantages == pytest.approx(
        expected, abs=1e-9
    )


@pytest.mark.parametrize("rule", [name for name in RULES if name != "potential"])  # there the place of a token counts
@settings(max_examples=15)
@given(problem=problems(), seed=st.integers(0, 100))
def test_shuffled_tokens_within_rows_change_nothing_else(rule: str, problem: tuple[TokenMap, Credit], seed: int) -> None:
    tokens, given_credit = problem
    # Renumber tokens within each row: position p of the new map is token order[p] of the old one.
    order = np.lexsort((np.random.Generator(np.random.Philox(seed)).random(len(tokens.token_row)), tokens.token_row))
    where = np.argsort(order)
    shuffled = dataclasses.replace(tokens, overlap_token=where[tokens.overlap_token])
    before, after = (redistribute(rule, made, given_credit, Settings()).advantages for made in (tokens, shuffled))
    assert after == pytest.approx(before[order], abs=1e-12)


def test_rank_depends_on_the_order_of_shares_alone() -> None:
    tokens = token_map([[0, 1, 2]])
    few, many = (
        redistribute("rank", tokens, credit([1.0], share), Settings()).advantages for share in ([0.1, 0.2, 0.3], [-5.0, 0.2, 90.0])
    )
    assert np.array_equal(few, many)
    assert few == pytest.approx([0.5, 1.0, 1.5])


def test_equal_shares_get_their_mean_rank() -> None:
    ranks = ascending_ranks(np.array([0.3, 0.1 + 0.2, 0.1, 5.0, 5.0]), np.array([0, 0, 0, 1, 1]))
    assert ranks.tolist() == [2.5, 2.5, 1.0, 1.5, 1.5]


@settings(max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_standardised_shares_have_mean_zero_and_deviation_one_or_zero(share: list[float]) -> None:
    z = standardised(np.array(share), np.zeros(len(share), dtype=np.int64))
    assert abs(z.mean()) < 1e-6
    assert min(abs(z.std() - 1), z.std()) < 1e-6


def test_clipping_bounds_every_token_and_counts_what_it_changed() -> None:
    advantages, share = clipped(np.array([-3.0, 0.5, 2.0, 1.0]), 1.5)
    assert advantages.tolist() == [-1.5, 0.5, 1.5, 1.0]
    assert share == 0.5


# Guards


def test_a_rule_that_loses_mass_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(tokens: TokenMap, given_credit: Credit, how: Settings) -> tuple[np.ndarray, np.ndarray]:
        advantages, special = RULES["uniform"].formula(tokens, given_credit, how)
        return advantages * 0.99, special

    monkeypatch.setitem(RULES, "proportional", dataclasses.replace(RULES["proportional"], formula=leaky))
    with pytest.raises(CreditError, match=r"rollout 7, rule proportional: token advantages do not add up"):
        redistribute("proportional", token_map([[0, 1]]), credit([1.0], [0.1, 0.2]), Settings(), ["rollout 7"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_shares_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(CreditError, match="not a finite number"):
        redistribute("proportional", token_map([[0, 1]]), credit([1.0], [0.1, bad]), Settings())


def test_a_segment_without_a_token_is_refused() -> None:
    with pytest.raises(CreditError, match="segment without a token"):
        redistribute("proportional", token_map([[0, OUTSIDE]], [2]), credit([1.0], [0.1, 0.2]), Settings())


def test_an_unknown_rule_is_refused_with_the_list() -> None:
    with pytest.raises(CreditError, match="uniform, proportional, rank, mix, signed"):
        redistribute("fair", token_map([[0]]), credit([1.0], [0.1]), Settings())


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_says_whether_it_reads_shares(rule: str) -> None:
    tokens = token_map([(0, 0, 1, OUTSIDE), (0, 1, 1, OUTSIDE)], [2, 2])
    rows = {"prefix_advantage": np.array([0.2, 0.1, 0.3, -0.2]), "terminal": np.zeros(2), "noise": np.array([0.3, 0.6, 0.9, 0.2])}
    known = Credit(
        np.array([1.0, -1.0]), np.ones(2), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=bool), np.zeros(4), **rows, reward=np.ones(2)
    )
    drawn = [np.array(share) for share in ([0.1, 0.5, 0.2, 0.4], [0.5, 0.1, 0.3, 0.3], [0.0, 0.0, 0.0, 0.0], [-0.1, -0.3, 0.2, 0.1])]
    how = Settings(matched_rule="signed", outside="zero")
    found = {redistribute(rule, tokens, dataclasses.replace(known, share=share), how).advantages.tobytes() for share in drawn}
    assert (len(found) > 1) == RULES[rule].needs_share

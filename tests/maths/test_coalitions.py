"""Families of coalitions: counts, order, caps, mask strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Budget, Players
from tests.games import generator


def draw(stream: str) -> np.random.Generator:
    return generator(len(stream))


@pytest.mark.parametrize(("n", "width", "count"), [(5, 32, 16), (8, 8, 37), (12, 8, 70), (17, 8, 110), (17, 32, 154), (0, 4, 1), (1, 4, 2)])
def test_contiguous_family_has_the_counts_of_the_specification(n: int, width: int, count: int) -> None:
    assert len(coalitions.contiguous(n, width, 0, generator())) == count


@pytest.mark.parametrize(("width", "cap"), [(8, 96), (32, 64)])
def test_the_papers_caps_bind_at_seventeen_segments(width: int, cap: int) -> None:
    full = set(coalitions.to_mask_strings(coalitions.contiguous(17, width, 0, generator())))
    sampled = coalitions.to_mask_strings(coalitions.contiguous(17, width, cap, generator(3)))
    assert len(sampled) == len(set(sampled)) == cap
    assert {"0" * 17, "1" * 17} <= set(sampled) <= full


def test_a_capped_family_depends_on_its_generator_alone() -> None:
    first, again, other = (coalitions.to_mask_strings(coalitions.contiguous(17, 8, 40, generator(seed))) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(n=st.integers(0, 30), width=st.integers(1, 40))
def test_contiguous_family_is_every_window_up_to_its_width_and_both_ends(n: int, width: int) -> None:
    expected = {"".join("1" if a <= i < b else "0" for i in range(n)) for a in range(n + 1) for b in range(a, min(a + width, n) + 1)} | {
        "1" * n,
        "0" * n,
    }
    assert set(coalitions.to_mask_strings(coalitions.contiguous(n, width, 0, generator()))) == expected


@pytest.mark.parametrize(("name", "count"), [("prefix", lambda n: n + 1), ("leave-one-out", lambda n: n + 2), ("powerset", lambda n: 2**n)])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_other_families_have_their_counts(name: str, count: object, n: int) -> None:
    assert len(coalitions.family(name, Players(n), Budget(width=1), draw)) == count(n)  # leave-one-out brings the empty coalition along


@pytest.mark.parametrize("name", list(coalitions.FAMILIES))
@pytest.mark.parametrize("n", [0, 1, 2, 5, 11])
def test_rows_of_a_family_are_distinct_and_ordered_by_size_then_members(name: str, n: int) -> None:
    rows = [(int(mask.sum()), tuple(np.flatnonzero(mask))) for mask in coalitions.family(name, Players(n), Budget(width=3), draw)]
    assert rows == sorted(set(rows))


def test_families_put_together_hold_each_coalition_once() -> None:
    union = coalitions.union_of(coalitions.prefix(4), coalitions.leave_one_out(4), coalitions.contiguous(4, 4, 0, generator()))
    assert len(union) == 13
    assert coalitions.to_mask_strings(union)[:3] == ["0000", "1000", "0100"]


@given(st.text(alphabet="01", max_size=200))
def test_a_mask_string_has_one_character_per_segment(text: str) -> None:
    assert coalitions.to_mask_string(np.array([letter == "1" for letter in text], dtype=bool)) == text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: coalitions.family("owen", Players(3), Budget(), draw),
        lambda: coalitions.powerset(13),
        lambda: coalitions.contiguous(3, 0, 0, generator()),
        lambda: coalitions.contiguous(3, 2, 1, generator()),
        lambda: coalitions.prefix(-1),
        lambda: coalitions.row_of(coalitions.prefix(2), np.array([False, True])),
    ],
)
def test_what_is_no_coalition_is_refused(wrong: object) -> None:
    with pytest.raises(CreditError):
        wrong()


@settings(max_examples=20)
@given(st.integers(100, 200))
def test_long_answers_have_mask_strings_too(n: int) -> None:
    strings = coalitions.to_mask_strings(coalitions.contiguous(n, 3, 0, generator()))
    assert len(strings) == 3 * n - 3 + 2
    assert {len(text) for text in strings} == {n}

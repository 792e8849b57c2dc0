"""Texts of coalitions."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ospo_cli.text.coalition_text import coalition_text, segment_words, words_of_parts
from ospo_cli.text.levels import LEVELS
from ospo_cli.text.scripts import EAST_ASIAN, SOUTH_EAST_ASIAN
from ospo_cli.text.segments import segment
from ospo_cli.text.words import words
from tests.text.hostile_texts import ANSWERS

ANSWER = "navy, wool coat for men."
SPANS = [(0, 4), (6, 10), (11, 15), (16, 23)]


@pytest.mark.parametrize(
    ("present", "text"),
    [
        ([1, 1, 1, 1], "navy, wool coat for men"),
        ([0, 0, 0, 0], ""),
        ([1, 1, 0, 1], "navy, wool for men"),
        ([1, 0, 1, 0], "navy coat"),
        ([0, 1, 1, 0], "wool coat"),
    ],
)
def test_runs_keep_their_separators_and_are_joined_by_one_space(present: list[int], text: str) -> None:
    assert coalition_text(ANSWER, SPANS, np.array(present, dtype=bool)) == text


def obvious(text: str, spans: list[tuple[int, int]], present: list[bool]) -> str:
    """One segment after the other: a run ends at an absent one, and where a word of no segment stands between two."""
    runs: list[list[int]] = []
    for index, is_in in enumerate(present):
        before = index - 1
        goes_on = index > 0 and present[before] and not any(map(str.isalnum, text[spans[before][1] : spans[index][0]]))
        if is_in and goes_on:
            runs[-1].append(index)
        elif is_in:
            runs.append([index])
    return " ".join(text[spans[run[0]][0] : spans[run[-1]][1]] for run in runs)


@settings(max_examples=200)
@given(st.text(alphabet="ab1 .,'-é", max_size=24), st.lists(st.integers(0, 24), max_size=10), st.randoms(use_true_random=False))
def test_the_text_of_any_coalition_is_that_of_the_obvious_loop(text, cuts, random):
    places = sorted({min(cut, len(text)) for cut in cuts})
    spans = [span for span in pairwise(places) if random.random() < 0.8]
    present = [random.random() < 0.5 for _ in spans]
    assert coalition_text(text, spans, present) == obvious(text, spans, present)


def test_spans_on_the_completion_give_the_same_text_as_spans_on_the_answer() -> None:
    shifted = [(start + 8, end + 8) for start, end in SPANS]
    assert coalition_text(f"<answer>{ANSWER}</answer>", shifted, [True, False, True, True]) == coalition_text(
        ANSWER, SPANS, [True, False, True, True]
    )


def test_duplicated_phrases_are_two_players() -> None:
    assert coalition_text("red, red", [(0, 3), (5, 8)], [False, True]) == "red"


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60)
@given(answer=ANSWERS)
def test_the_grand_coalition_has_all_words_of_the_answer(level: str, answer: str) -> None:
    spans = [(span.start, span.end) for span in segment(answer, level, 2)]
    assert words(coalition_text(answer, spans, [True] * len(spans))) == words(answer)


@settings(max_examples=60)
@example(answer="15.6 inch, Crème")
@given(answer=ANSWERS)
def test_words_cut_apart_are_the_words_that_retrievers_count(answer: str) -> None:
    # Scripts without blanks are cut into units, and retrievers count pairs of letters across their borders too.
    assume(not re.search(f"[{EAST_ASIAN}{SOUTH_EAST_ASIAN}]", unicodedata.normalize("NFKD", answer)))
    assert [word for span in segment(answer, "word") for word in words(answer[span.start : span.end])] == words(answer)


def test_marks_and_spans_must_match() -> None:
    with pytest.raises(ValueError, match="4 spans, 1 marks"):
        coalition_text(ANSWER, SPANS, [True])


@settings(max_examples=300)
@given(st.text(alphabet="ab1 .,'-5", max_size=24), st.lists(st.integers(0, 24), max_size=10), st.randoms(use_true_random=False))
def test_the_words_of_a_coalition_are_those_of_its_segments_wherever_segment_words_says_so(text, cuts, random):
    places = sorted({min(cut, len(text)) for cut in cuts})
    spans = [span for span in pairwise(places) if random.random() < 0.8]
    parts = [text[start:end] for start, end in spans]
    apart = segment_words(text, spans)
    assert apart is None or apart == words_of_parts(parts)
    for _ in range(8):
        present = [random.random() < 0.5 for _ in spans]
        chosen = [part for part, is_in in zip(parts, present, strict=True) if is_in]
        assert apart is None or words(coalition_text(text, spans, present)) == words_of_parts(chosen)


def test_segments_that_share_no_word_are_known_by_their_texts():
    assert segment_words("navy, wool coat", [(0, 4), (6, 10), (11, 15)]) == ["navy", "wool", "coat"]


@pytest.mark.parametrize(("text", "spans"), [("woolcoat", [(0, 4), (4, 8)]), ("15.6", [(0, 2), (3, 4)]), ("crème coat", [(0, 5), (6, 10)])])
def test_segments_that_cut_a_word_or_are_no_ascii_are_known_by_coalition_texts_alone(text, spans):
    assert segment_words(text, spans) is None

"""Segments: known phrases, the partition property, levels and unions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.text.segments import LEVELS, Span, segment, segmentation, word_coverage
from tests.text.hostile_texts import ANSWERS


def texts(answer: str, level: str = "phrase", window: int = 3) -> list[str]:
    return [answer[span.start : span.end] for span in segment(answer, level, window)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("navy wool coat, waterproof, for men with hood", ["navy wool coat", "waterproof", "for men", "with hood"]),
        ("15.6 inch laptop usb-c under 50 without touchscreen", ["15.6 inch", "laptop usb-c", "under 50", "without touchscreen"]),
        ("16 gb ram laptop", ["16 gb ram", "laptop"]),
        ('laptop 15.6" screen', ["laptop", '15.6" screen']),
        ('"windows 11, pro" laptop', ["windows 11, pro", "laptop"]),
        ("“red, white” dress", ["red, white", "dress"]),
        ("shoes size 10 in black", ["shoes", "size 10", "in black"]),
        ("bag and belt; hat", ["bag", "and belt", "hat"]),
        ("a set of 4 mugs", ["a set of 4 mugs"]),
        ("up to 50 dollars gift", ["up to 50 dollars", "gift"]),
        ("less than 20 red", ["less than 20", "red"]),
        ("slip on shoes", ["slip on shoes"]),
        ("no sugar. gluten free!", ["no sugar", "gluten free"]),
        ("10 x 12 inch rug", ["10 x 12 inch", "rug"]),
        ("1,000 piece puzzle", ["1,000 piece", "puzzle"]),
        ("I am looking for a red dress that fits well", ["I am looking", "for a red dress", "that fits well"]),
        ("red and", ["red and"]),
        ("with", ["with"]),
        ("red,red,red", ["red", "red", "red"]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("- navy\n- wool", ["navy", "wool"]),
        ("navy 🔥 coat", ["navy 🔥 coat"]),
        ("和風 ドレス、赤い", ["和風 ドレス", "赤い"]),
        ("", []),
        (" ,.;!? -- ", []),
    ],
)
def test_known_phrases(answer: str, expected: list[str]) -> None:
    assert texts(answer) == expected


def test_a_run_that_no_rule_cuts_is_cut_into_even_pieces_and_counted() -> None:
    answer = "navy blue waterproof hiking jacket hood pockets, coat"
    found = segmentation(answer, "phrase")
    assert [answer[span.start : span.end] for span in found.spans] == ["navy blue waterproof", "hiking jacket", "hood pockets", "coat"]
    assert found.fallbacks == 1
    assert segmentation("navy blue wool coat", "phrase").fallbacks == 0


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("word", ["Navy", "wool", "usb-c", "15.6", "inch", "Red", "dress"]),
        ("sentence", ["Navy wool usb-c, 15.6 inch", "Red dress"]),
        ("window", ["Navy wool", "usb-c", "15.6 inch", "Red dress"]),
    ],
)
def test_other_levels(level: str, expected: list[str]) -> None:
    assert texts("Navy wool usb-c, 15.6 inch. Red dress!", level, 2) == expected


def test_unions_of_phrases_are_clauses_or_sentences_where_there_are_several() -> None:
    assert [span.union_index for span in segment("coat for men, red", "phrase")] == [0, 0, 1]
    assert [span.union_index for span in segment("coat for men, red. hat", "phrase")] == [0, 0, 0, 1]


def test_unions_of_words_are_phrases() -> None:
    assert [span.union_index for span in segment("navy coat for men, red", "word")] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=80, deadline=None)
@given(answer=ANSWERS, window=st.integers(1, 4))
def test_segments_are_disjoint_ordered_and_hold_every_letter_and_digit_once(level: str, answer: str, window: int) -> None:
    spans = segment(answer, level, window)
    borders = [border for span in spans for border in (span.start, span.end)]
    assert borders == sorted(borders)
    assert all(0 <= span.start < span.end <= len(answer) for span in spans)
    covered, total = word_coverage(answer, spans)
    assert covered == total


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(answer=ANSWERS)
def test_segments_have_no_blank_ends_and_unions_count_from_zero_in_steps_of_one(level: str, answer: str) -> None:
    spans = segment(answer, level, 2)
    assert all(not answer[span.start].isspace() and not answer[span.end - 1].isspace() for span in spans)
    unions = [span.union_index for span in spans]
    assert sorted(set(unions)) == list(range(len(set(unions))))
    assert unions == sorted(unions)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(["navy", "wool", "15.6", "inch", "for", "men", "under", "50", "usb-c"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_commas_between_words_belong_to_no_segment(words: list[str], data: st.DataObject) -> None:
    gaps = [data.draw(st.sampled_from([" ", ", "])) for _ in words]
    answer = "".join(word + gap for word, gap in zip(words, gaps, strict=True)).strip(" ,")
    for level in ("phrase", "word", "window"):
        assert not [text for text in texts(answer, level) if "," in text]


@settings(max_examples=40, deadline=None)
@given(answer=ANSWERS)
def test_every_word_lies_within_one_phrase(answer: str) -> None:
    phrases = segment(answer, "phrase")
    for word in segment(answer, "word"):
        assert sum(phrase.start <= word.start and word.end <= phrase.end for phrase in phrases) == 1


def test_a_hundred_thousand_characters_are_cut_in_reasonable_time() -> None:
    assert len(segment("navy wool coat, " * 6_000, "phrase")) == 6_000
    assert len(segment('"' * 50_000 + "a", "phrase")) == 1


@pytest.mark.parametrize(("level", "window", "message"), [("chunk", 3, "phrase, word, sentence, window"), ("window", 0, "is below 1")])
def test_unknown_levels_and_empty_windows_are_refused(level: str, window: int, message: str) -> None:
    with pytest.raises(CreditError, match=message):
        segment("coat", level, window)


def test_a_segment_that_loses_a_letter_is_seen_by_the_coverage() -> None:
    assert word_coverage("navy coat", [Span(0, 4, 0), Span(6, 9, 1)]) == (7, 8)

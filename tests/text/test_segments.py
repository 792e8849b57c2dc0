"""Segments: known phrases, the partition property, levels and unions."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ospo_cli.errors import CreditError
from ospo_cli.text.levels import LEVELS, UNIONS
from ospo_cli.text.segments import Span, given_segments, segment, segmentation, word_coverage
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
        ("laptop without hdmi not refurbished", ["laptop", "without hdmi", "not refurbished"]),
        ("no sugar biscuits excluding nuts", ["no sugar biscuits", "excluding nuts"]),
        ("chair under 50", ["chair", "under 50"]),
        ("chair under $50 in oak", ["chair", "under $50", "in oak"]),
        ("coat between 50 and 100 euros", ["coat", "between 50", "and 100 euros"]),
        ("lg v30 case", ["lg v30", "case"]),
        ("brother tn-2110 toner", ["brother tn-2110", "toner"]),
        ("iphone 15 pro max case", ["iphone 15 pro max", "case"]),
        ("usb-c cable 2m white", ["usb-c cable", "2m", "white"]),
        ("docking station usb 2.0", ["docking station", "usb 2.0"]),
        ("usb hub", ["usb hub"]),
        ("watch strap 21mm leather", ["watch strap", "21mm", "leather"]),
        ("4k tv", ["4k tv"]),
        ("sony 4k tv", ["sony 4k tv"]),
        ("sweater 100% wool", ["sweater", "100% wool"]),
        ("2x4 rug", ["2x4", "rug"]),
        ("2 x 4 x 6 rug", ["2 x 4 x 6", "rug"]),
        ("reading glasses women without frame", ["reading glasses", "women", "without frame"]),
        ("women's coat", ["women's coat"]),
        ("shoes for women size 8", ["shoes", "for women", "size 8"]),
        ("lamp for kids room", ["lamp", "for kids room"]),
        ("console limited edition", ["console", "limited edition"]),
        ("limited edition console", ["limited edition console"]),
        ("batman movie 2017", ["batman movie", "2017"]),
        ('say "red dress" coat', ["say", "red dress", "coat"]),
        ("«rouge et noir» robe", ["rouge et noir", "robe"]),
        ("15.6 zoll", ["15.6", "zoll"]),
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
        ("和風 ドレス、赤い", ["和風", "ドレス", "赤い"]),
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


ANSWER = "navy coat for men, red. Wool hat; usb-c hub!"


@pytest.mark.parametrize(
    ("level", "unions", "expected"),
    [
        ("phrase", "auto", [0, 0, 0, 1, 1]),
        ("phrase", "sentence", [0, 0, 0, 1, 1]),
        ("phrase", "clause", [0, 0, 1, 2, 3]),
        ("phrase", "none", [0, 1, 2, 3, 4]),
        ("word", "auto", [0, 0, 1, 1, 2, 3, 3, 4, 4]),
        ("word", "phrase", [0, 0, 1, 1, 2, 3, 3, 4, 4]),
        ("word", "clause", [0, 0, 0, 0, 1, 2, 2, 3, 3]),
        ("word", "sentence", [0, 0, 0, 0, 0, 1, 1, 1, 1]),
        ("word", "none", list(range(9))),
        ("window", "auto", [0, 1, 2, 3, 4]),
        ("window", "clause", [0, 0, 1, 2, 3]),
        ("window", "sentence", [0, 0, 0, 1, 1]),
        ("sentence", "auto", [0, 1]),
        ("sentence", "none", [0, 1]),
    ],
)
def test_unions_are_what_was_asked_for(level: str, unions: str, expected: list[int]) -> None:
    assert [span.union_index for span in segment(ANSWER, level, 2, unions)] == expected


@pytest.mark.parametrize(
    ("level", "unions"),
    [("phrase", "phrase"), ("sentence", "sentence"), ("sentence", "clause"), ("window", "phrase"), ("word", "word"), ("phrase", "Clause")],
)
def test_unions_that_do_not_hold_whole_segments_are_refused_with_what_exists(level: str, unions: str) -> None:
    with pytest.raises(CreditError, match=rf"segment.unions: no unions of level {level}: found {unions}, expected auto, "):
        segment("navy coat", level, 3, unions)


PAIRS = [(level, unions) for level in LEVELS for unions in UNIONS[level]]


@pytest.mark.parametrize(("level", "unions"), PAIRS)
@settings(max_examples=40)
@given(answer=ANSWERS)
def test_unions_are_runs_of_neighbours_counted_from_zero(level: str, unions: str, answer: str) -> None:
    indices = [span.union_index for span in segment(answer, level, 2, unions)]
    assert [-1, *indices][-1] == len(set(indices)) - 1
    assert all(later - earlier in (0, 1) for earlier, later in pairwise([0, *indices]))


@settings(max_examples=60)
@given(answer=ANSWERS)
def test_coarser_unions_hold_whole_finer_ones(answer: str) -> None:
    by_unions = [[span.union_index for span in segment(answer, "word", 2, unions)] for unions in ("none", "phrase", "clause", "sentence")]
    for finer, coarser in pairwise(by_unions):
        assert len(set(zip(finer, coarser, strict=True))) == len(set(finer))


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=80)
@given(answer=st.one_of(ANSWERS, st.text(max_size=80)), window=st.integers(1, 4))
def test_every_character_of_every_word_belongs_to_exactly_one_segment(level: str, answer: str, window: int) -> None:
    owners = [0] * len(answer)
    for span in segment(answer, level, window):
        owners[span.start : span.end] = [count + 1 for count in owners[span.start : span.end]]
    assert [count for count, character in zip(owners, answer, strict=True) if character.isalnum() and count != 1] == []
    assert max(owners, default=0) <= 1


GRAMMAR_WORDS = st.sampled_from(
    [
        "navy",
        "wool",
        "coat",
        "laptop",
        "15.6",
        "inch",
        "21mm",
        "usb-c",
        "usb",
        "2.0",
        "v30",
        "iphone",
        "15",
        "pro",
        "max",
        "for",
        "women",
        "men",
        "without",
        "and",
        "the",
        "under",
        "50",
        "$50",
        "up",
        "to",
        "size",
        "8",
        "2x4",
        "2",
        "x",
        "4",
        "100%",
        "limited",
        "edition",
        "2017",
        "slip",
        "on",
        "not",
        "of",
    ]
)


@settings(max_examples=300)
@given(st.lists(GRAMMAR_WORDS, min_size=1, max_size=14).map(" ".join))
def test_phrases_set_apart_by_commas_are_cut_as_before(answer: str) -> None:
    """What was cut by number of words alone has no such reason to stay as it is."""
    assume(not segmentation(answer, "phrase").fallbacks)
    phrases = texts(answer)
    assert texts(", ".join(phrases)) == phrases


@settings(max_examples=60)
@given(answer=ANSWERS)
def test_the_text_around_the_first_and_last_segment_changes_nothing(answer: str) -> None:
    assert texts(f" ,; {answer} ;, ") == texts(answer)


def test_unions_of_words_are_phrases() -> None:
    assert [span.union_index for span in segment("navy coat for men, red", "word")] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=80)
@given(answer=ANSWERS, window=st.integers(1, 4))
def test_segments_are_disjoint_ordered_and_hold_every_letter_and_digit_once(level: str, answer: str, window: int) -> None:
    spans = segment(answer, level, window)
    borders = [border for span in spans for border in (span.start, span.end)]
    assert borders == sorted(borders)
    assert all(0 <= span.start < span.end <= len(answer) for span in spans)
    covered, total = word_coverage(answer, spans)
    assert covered == total


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40)
@given(answer=ANSWERS)
def test_segments_have_no_blank_ends_and_unions_count_from_zero_in_steps_of_one(level: str, answer: str) -> None:
    spans = segment(answer, level, 2)
    assert all(not answer[span.start].isspace() and not answer[span.end - 1].isspace() for span in spans)
    unions = [span.union_index for span in spans]
    assert sorted(set(unions)) == list(range(len(set(unions))))
    assert unions == sorted(unions)


@settings(max_examples=60)
@given(
    words=st.lists(st.sampled_from(["navy", "wool", "15.6", "inch", "for", "men", "under", "50", "usb-c"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_commas_between_words_belong_to_no_segment(words: list[str], data: st.DataObject) -> None:
    gaps = [data.draw(st.sampled_from([" ", ", "])) for _ in words]
    answer = "".join(word + gap for word, gap in zip(words, gaps, strict=True)).strip(" ,")
    for level in ("phrase", "word", "window"):
        assert not [text for text in texts(answer, level) if "," in text]


@settings(max_examples=40)
@given(answer=ANSWERS)
def test_every_word_lies_within_one_phrase(answer: str) -> None:
    phrases = segment(answer, "phrase")
    for word in segment(answer, "word"):
        assert sum(phrase.start <= word.start and word.end <= phrase.end for phrase in phrases) == 1


def test_a_hundred_thousand_characters_are_cut_in_reasonable_time() -> None:
    assert len(segment("navy wool coat, " * 6_000, "phrase")) == 6_000
    assert len(segment('"' * 50_000 + "a", "phrase")) == 1


LONG = {
    "function words": "the ",
    "limits": "under ",
    "numbers crossed": "1 x ",
    "content words": "navy ",
    "quotation marks": '"a ',
    "guillemets": "«",
    "low quotes": "„a “",
    "digits": "1",
    "points": "1.",
    "audience": "women ",
    "glued": "slip on ",
    "model": "v30 pro ",
    "marks": "\u0301",
    "commas": ",",
    "blanks": " ",
    "zero width": "\u200b ",
    "prepositions": "for women ",
}


@pytest.mark.parametrize("name", LONG)
def test_the_time_for_a_text_eight_times_as_long_is_about_eight_times_as_long(name: str) -> None:
    def best_seconds(size: int) -> float:
        answer = (LONG[name] * size)[:size]
        seconds = []
        for _ in range(3):
            began = time.process_time()
            segment(answer, "phrase")
            seconds.append(time.process_time() - began)
        return min(seconds)

    # Quadratic time would be 64 times as long.
    assert best_seconds(80_000) < 25 * best_seconds(10_000) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_a_megabyte_takes_seconds(level: str) -> None:
    began = time.process_time()
    for unit in LONG.values():
        segment((unit * 1_000_000)[:1_000_000], level)
    assert time.process_time() - began < 10 * len(LONG)


@pytest.mark.parametrize(("level", "window", "message"), [("chunk", 3, "phrase, word, sentence, window"), ("window", 0, "is below 1")])
def test_unknown_levels_and_empty_windows_are_refused(level: str, window: int, message: str) -> None:
    with pytest.raises(CreditError, match=message):
        segment("coat", level, window)


def test_a_segment_that_loses_a_letter_is_seen_by_the_coverage() -> None:
    assert word_coverage("navy coat", [Span(0, 4, 0), Span(6, 9, 1)]) == (7, 8)


def test_a_run_of_four_content_words_is_one_phrase_and_of_five_is_cut_into_even_pieces() -> None:
    four, five = (segmentation(" ".join(["plush"] * count), "phrase") for count in (4, 5))
    assert ([span.end for span in four.spans], four.fallbacks) == ([23], 0)
    assert ([span.end for span in five.spans], five.fallbacks) == ([17, 29], 1)


@pytest.mark.parametrize(("start", "union"), [(3, 0), (4, 0), (7, 0), (8, 1), (9, 1), (10, 1), (16, 1)])
def test_a_given_segment_lies_in_the_union_of_the_first_word_that_ends_behind_its_start(start: int, union: int) -> None:
    """It may begin within a word or before one."""
    assert given_segments("red coat, for men", [(0, 2), (start, 17)])[-1].union_index == union


def test_given_segments_of_a_text_without_words_are_each_their_own_union() -> None:
    assert [span.union_index for span in given_segments("-- !!", [(0, 2), (3, 5)])] == [0, 1]
    assert given_segments("", []) == []

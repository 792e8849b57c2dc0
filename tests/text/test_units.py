"""Units: cuts in text without blanks, and which words the English grammar cannot read."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from ospo_cli.text.segments import segment, segmentation, word_coverage
from ospo_cli.text.units import is_foreign, unit_spans
from ospo_cli.text.words import words
from tests.text.test_languages import any_text, everything


def units(text: str) -> list[str]:
    return [text[start:end] for start, end in unit_spans(text, 0, len(text))]


def texts(answer: str, level: str) -> list[str]:
    return [answer[span.start : span.end] for span in segment(answer, level)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("女性用の長い防水スマホケース15台", "女性用の 長い 防水 スマホケース 15 台"),
        ("革の財布", "革の 財布"),
        ("らーめん鉢", "らーめん 鉢"),
        ("ガラスのコップ", "ガラスの コップ"),
        ("ｶﾞﾗｽのｺｯﾌﾟ", "ｶﾞﾗｽの ｺｯﾌﾟ"),
        ("东京", "东京"),
        ("东京都", "东京都"),
        ("无线蓝牙耳机iPhone15", "无线 蓝牙 耳机 iPhone15"),
        ("红色羊毛大衣女", "红色 羊毛 大衣女"),
        ("葛\U000e0100飾区亀有", "葛\U000e0100飾 区亀有"),
        ("รองเท้าวิ่งผู้ชาย", "รอง เท้าวิ่ง ผู้ชาย"),
        ("เสื้อผ้า", "เสื้อผ้า"),
        ("กขคง", "กข คง"),
        ("ស្បែកជើងរត់", "ស្បែកជើ ងរត់"),
        ("A4用紙", "A4 用紙"),
        ("블루투스이어폰", "블루투스이어폰"),
        ("usb-c", "usb-c"),
    ],
)
def test_known_units(text: str, expected: str) -> None:
    assert units(text) == expected.split()


@given(any_text)
def test_units_are_a_partition_of_the_text(text: str) -> None:
    spans = unit_spans(text, 0, len(text))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans) or not text


@given(everything)
def test_players_hold_every_letter_and_are_disjoint(text: str) -> None:
    spans = segment(text, "word")
    covered, letters = word_coverage(text, spans)
    assert covered == letters
    assert all(a.end <= b.start for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("красное шерстяное пальто", ["красное", "шерстяное", "пальто"]),
        ("방수 블루투스 이어폰", ["방수", "블루투스", "이어폰"]),
        ("معطف صوف أحمر", ["معطف", "صوف", "أحمر"]),
        ("लाल ऊनी कोट", ["लाल", "ऊनी", "कोट"]),
        ("防水スマホケース、navy wool coat", ["防水", "スマホケース", "navy wool coat"]),
        ("無線 bluetooth 耳机", ["無線", "bluetooth", "耳机"]),
        ("กระเป๋าหนัง 15.6 inch", ["กระเป๋า", "หนัง", "15.6", "inch"]),
        ("10 µm filter", ["10 µm filter"]),
        ("crème brûlée set", ["crème brûlée set"]),
        ("ｎａｖｙ coat ｆｏｒ men", ["ｎａｖｙ coat", "ｆｏｒ men"]),
        ("15.6″ laptop", ["15.6″", "laptop"]),
        ("rug ½ inch", ["rug", "½ inch"]),
    ],
)
def test_phrases_of_another_script_are_words_and_those_of_latin_follow_the_grammar(answer: str, expected: list[str]) -> None:
    assert texts(answer, "phrase") == expected


def test_clauses_that_the_grammar_cannot_read_are_counted_and_fallbacks_apart() -> None:
    assert segmentation("пальто красное, navy coat, 防水", "phrase").unread == 2
    assert segmentation("a b c d e f g", "phrase").unread == 0
    assert segmentation("пальто красное шерстяное тёплое зимнее новое", "phrase").fallbacks == 0
    assert segmentation("пальто красное", "sentence").unread == 0


def test_a_chunker_of_another_language_is_believed() -> None:
    found = segmentation("пальто красное тёплое", "phrase", chunks=[(0, 14)])
    assert [(span.start, span.end) for span in found.spans] == [(0, 14), (15, 21)]
    assert found.unread == 0


def test_neighbouring_units_together_have_the_words_of_the_text() -> None:
    answer = "无线蓝牙耳机"
    first, second, third = segment(answer, "word")
    assert words(answer[first.start : second.end]) == ["无线", "线蓝", "蓝牙"]
    assert words(answer[first.start : first.end] + " " + answer[third.start : third.end]) == ["无线", "耳机"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("coat", False), ("größe", False), ("kΩ", False), ("β", False), ("ab", False), ("пальто", True), ("防水", True), ("가방", True)],
)
def test_a_word_is_foreign_from_two_letters_of_another_script(word: str, expected: bool) -> None:
    assert is_foreign(word) == expected

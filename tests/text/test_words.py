"""Words as retrievers count them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.text.words import repeated_words, word_count, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Navy WOOL coat", ["navy", "wool", "coat"]),
        ("Crème brûlée ＡＢＣ straße", ["creme", "brulee", "abc", "strasse"]),
        ("15.6 inch, 1.5.2 10'6 v2.0", ["15.6", "inch", "1.5.2", "10'6", "v2.0"]),
        ("usb-c t-shirt snake_case don't", ["usb", "c", "t", "shirt", "snake", "case", "don", "t"]),
        ("हिन्दी 한국어 שלום \u200fمعطف", ["हिन्दी", "한국", "국어", "שלום", "معطف"]),
        ("🔥 ❤️ ...", []),
        ("ends. 5. starts .5", ["ends", "5", "starts", "5"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("", []),
    ],
)
def test_known_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_fast_way_for_plain_text_agrees_with_the_general_one(text: str) -> None:
    assert words(text) == words(text + " é")[:-1]


@given(st.text())
def test_words_of_words_are_the_same_words(text: str) -> None:
    found = words(text)
    assert words(" ".join(found)) == found


def test_words_that_a_folding_makes_alike_are_repeated():
    assert repeated_words("IŞIK ışık") == 0
    assert repeated_words("IŞIK ışık", "turkish") == 1


def test_repeated_words_count_every_occurrence_after_the_first() -> None:
    assert repeated_words("red Red coat, RED") == 2
    assert word_count("red Red coat, RED") == 4

"""Writing systems of letters."""

import pytest

from ospo_cli.text.writing_systems import writing_systems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", set()),
        ("42 - 17", set()),
        ("²½ 🔥", set()),
        ("red Café", {"LATIN"}),
        ("ＲＥＤ", {"LATIN"}),
        ("𝐫𝐞𝐝", {"LATIN"}),
        ("красные nike", {"CYRILLIC", "LATIN"}),
        ("赤いドレス", {"EAST ASIAN"}),
        ("红色连衣裙", {"EAST ASIAN"}),
        ("빨간 드레스", {"HANGUL"}),
        ("فستان أحمر", {"ARABIC"}),
        ("लाल कपड़ा", {"DEVANAGARI"}),
    ],
)
def test_the_writing_systems_of_a_text_are_those_of_its_letters(text, found):
    assert writing_systems(text) == found

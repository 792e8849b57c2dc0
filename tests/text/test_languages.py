"""Words of many languages: scripts without blanks, marks, widths, digits, and the two foldings of case."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import pytest
import regex  # knows Unicode's properties; a dependency of transformers
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.text import scripts
from ospo_cli.text.words import fold, runs, with_marks, words

# Letters with their marks; of each language's script enough to meet every rule.
LATIN = ["a", "e", "I", "i", "S", "x", "é", "É", "ü", "ß", "ç", "ñ", "ô", "œ", "ﬁ"]
TURKISH_LETTERS = ["ı", "I", "i", "İ", "ş", "Ş", "ğ", "Ğ", "ç", "ö", "Ü", "k"]
OTHER_LETTERS = ["ж", "Й", "ё", "ω", "Σ", "ς", "क", "कि", "क्‍ष", "ट्", "ا", "أ", "بِ", "تّ", "ש", "שׁ", "ა", "Ա", "ከ"]
JAPANESE = ["防", "水", "靴", "々", "〆", "の", "い", "が", "ア", "ガ", "パ", "ー", "ｶﾞ", "ｱ"]
CHINESE = ["无", "线", "蓝", "牙", "耳", "机", "〇", "\U00020000"]
KOREAN = ["가", "방", "옷", "각", "\u1112\u1161\u11ab"]
THAI = ["ร", "อ", "ง", "เ", "ท้", "า", "วิ่", "ผู้", "น้ำ", "ๆ"]
OTHERS_WITHOUT_BLANKS = ["ຂ", "ກີ່", "ក", "ក្", "មី", "က", "ကို", "မြ"]
WITHOUT_BLANKS = [*JAPANESE, *CHINESE, *KOREAN, *THAI, *OTHERS_WITHOUT_BLANKS]
BETWEEN = [
    " ",
    "-",
    "_",
    "'",
    ".",
    ",",
    "、",
    "・",
    "\n",
    "\u3000",
    "\u00ad",
    "\u200b",
    "\u200c",
    "\u200d",
    "\ufe0f",
    "\u0301",
    "\u3099",
    "\u0e34",
    "🔥",
]
NUMBERS = ["1", "15.6", "2'", "٣", "५", "๔", "１", "²", "①", "Ⅳ", "½"]

everything = st.lists(st.sampled_from([*LATIN, *TURKISH_LETTERS, *OTHER_LETTERS, *WITHOUT_BLANKS, *BETWEEN, *NUMBERS])).map("".join)
any_text = everything | st.text()
foldings = st.sampled_from(["standard", "turkish"])


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("English", "Women's Running Shoes, size 8.5", ["women", "s", "running", "shoes", "size", "8.5"]),
        ("German", "Größe: FUßBALLSCHUHE für Mädchen", ["grosse", "fussballschuhe", "fur", "madchen"]),
        ("French", "Crème brûlée à l'ÉTÉ, œuvre", ["creme", "brulee", "a", "l", "ete", "œuvre"]),
        (
            "Japanese",
            "防水スマホケース 赤 15.6インチ",
            ["防水", "水ス", "スマ", "マホ", "ホケ", "ケー", "ース", "赤", "15.6", "イン", "ンチ"],
        ),
        ("Japanese, half width", "ｶﾞﾗｽのｺｯﾌﾟ", ["ガラ", "ラス", "スの", "のコ", "コッ", "ップ"]),
        ("Chinese", "无线耳机iPhone15壳", ["无线", "线耳", "耳机", "iphone15", "壳"]),
        ("Chinese, one letter alone", "鞋 黑色", ["鞋", "黑色"]),
        ("Chinese, variation selector", "葛\U000e0100飾", ["葛飾"]),
        ("Korean", "방수 블루투스 이어폰", ["방수", "블루", "루투", "투스", "이어", "어폰"]),
        ("Thai", "กี่บาท ๑๕ ผ้า", ["กี่บ", "บา", "าท", "15", "ผ้า"]),
        ("Arabic", "كِتَابٌ جميـــل ٣", ["كتاب", "جميل", "3"]),
        ("Hebrew", "שָׁלוֹם", ["שלום"]),
        ("Hindi", "हिन्दी क्‍षमा क्‌ष २", ["हिन्दी", "क्षमा", "क्ष", "2"]),
        ("Persian", "می\u200cخواهم", ["می", "خواهم"]),
        ("Thai, am typed before its tone", "น\u0e4d\u0e49า", words("น\u0e49ำ")),
        ("Lao, the same", "ນ\u0ecd\u0ec9າ", words("ນ\u0ec9ຳ")),
        ("A trade mark", "Nike™ AIR℠ m²", ["nike", "air", "m2"]),
    ],
)
def test_known_words_of_a_language(language: str, text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "standard", "turkish"),
    [
        ("IŞIK", "isik", "ısık"),
        ("ışık", "ısık", "ısık"),
        ("İSTANBUL", "istanbul", "istanbul"),
        ("i\u0307stanbul", "istanbul", "istanbul"),
        ("I\u0307stanbul", "istanbul", "istanbul"),
        ("ＩＳＩ", "isi", "ısı"),
        ("WIFI", "wifi", "wıfı"),
        ("wifi", "wifi", "wifi"),
    ],
)
def test_turkish_folds_the_dotted_and_the_dotless_letter_apart(text: str, standard: str, turkish: str) -> None:
    assert (words(text), words(text, "turkish")) == ([standard], [turkish])


@given(st.text(alphabet=list("abcçdefgğhıijklmnoöprsştuüvyzqwx 0")))
def test_turkish_capitals_are_read_as_their_small_letters(text: str) -> None:
    capitals = text.replace("i", "İ").replace("ı", "I").upper()
    assert words(capitals, "turkish") == words(text, "turkish")


@given(st.text(alphabet=st.characters(exclude_characters="Iİ")))
def test_foldings_differ_only_where_there_is_a_capital_i(text: str) -> None:
    plain = "".join(letter for letter in text if not set("Iİ") & set(unicodedata.normalize("NFKC", letter)))
    assert words(plain, "turkish") == words(plain)


@given(any_text, foldings)
def test_words_of_words_are_the_same_words(text: str, folding: str) -> None:
    found = words(text, folding)
    assert words(" ".join(found), folding) == found
    assert words(" ".join(runs(text, folding)), folding) == found


@given(any_text, any_text, foldings)
def test_a_blank_between_two_texts_keeps_their_words(first: str, second: str, folding: str) -> None:
    assert words(f"{first} {second}", folding) == words(first, folding) + words(second, folding)


@given(everything, foldings, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_composed_and_decomposed_text_has_the_same_words(text: str, folding: str, form) -> None:  # type: ignore[no-untyped-def]
    assert words(unicodedata.normalize(form, text), folding) == words(text, folding)


@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E)), foldings)
def test_full_width_text_has_the_words_of_plain_text(text: str, folding: str) -> None:
    assert words("".join(chr(ord(letter) + 0xFEE0) for letter in text), folding) == words(text, folding)


@given(any_text, foldings)
def test_a_word_holds_letters_digits_and_their_marks_alone(text: str, folding: str) -> None:
    for word in words(text, folding):
        assert word
        assert all(letter.isalnum() or unicodedata.category(letter)[0] == "M" or letter in ".'" for letter in word)


def _as_before(text: str) -> list[str]:
    # What words were before scripts without blanks were cut, written otherwise: for the scripts that write blanks.
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    folded = unicodedata.normalize("NFKC", re.sub("[\u0300-\u036f\u00ad\u200b\u2060\ufe00-\ufe0f\ufeff]", "", folded))
    return regex.findall(r"[\p{L}\p{N}][\p{L}\p{N}\p{Mn}\p{Mc}]*(?:(?<=\p{Nd})[.'](?=\p{Nd})[\p{L}\p{N}\p{Mn}\p{Mc}]+)*", folded)


LATIN_GREEK_CYRILLIC = [
    *LATIN,
    *TURKISH_LETTERS,
    "ж",
    "Й",
    "ё",
    "ω",
    "Σ",
    "ς",
    "ა",
    "Ա",
    "1",
    "15.6",
    "2'",
    "1",
    "²",
    "Ⅳ",
    " ",
    "_",
    "-",
    ".",
    "\u0301",
]


@given(st.lists(st.sampled_from([*LATIN_GREEK_CYRILLIC, "\u00ad", "\u200b", "\n"])).map("".join))
def test_text_of_scripts_with_blanks_is_read_as_before(text: str) -> None:
    assert words(text) == _as_before(text)


@given(st.lists(st.sampled_from([*JAPANESE, *CHINESE, *KOREAN, *THAI, *OTHERS_WITHOUT_BLANKS]), min_size=1))
def test_a_run_of_a_script_without_blanks_is_its_pairs_of_neighbours(letters: list[str]) -> None:
    folded = fold("".join(letters))
    # Letters as another package finds them, each with its marks.
    found = regex.findall(r"\P{M}\p{M}*", folded)
    assert words("".join(letters)) == ([*map("".join, pairwise(found))] or found)


@given(st.lists(st.sampled_from([*CHINESE, *THAI, *JAPANESE[:11]]), min_size=2), st.data())
def test_a_part_of_two_or_more_letters_shares_all_its_words_with_the_whole(letters: list[str], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(letters) - 2))
    last = data.draw(st.integers(first + 2, len(letters)))
    assert set(words("".join(letters[first:last]))) <= set(words("".join(letters)))


@given(st.lists(st.sampled_from(WITHOUT_BLANKS), max_size=6).map("".join), st.sampled_from(["15", "iphone", "usb3"]))
def test_letters_and_digits_among_others_stay_words(text: str, word: str) -> None:
    assert words(f"{text}{word}{text}") == [*words(text), word, *words(text)]


@given(everything)
def test_letters_with_their_marks_spell_the_text(text: str) -> None:
    assert "".join(with_marks(text)) == text


SCRIPTS = {
    "HAN": r"\p{Script=Han}\u3006\u303c",
    "HIRAGANA": r"\p{Script=Hiragana}\u3031-\u3035",
    "KATAKANA": r"\p{Script=Katakana}\u30fc\uff70\uff9e\uff9f",
    "HANGUL": r"\p{Script=Hangul}",
    "SOUTH_EAST_ASIAN": r"\p{Line_Break=SA}",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_holds_the_letters_that_unicode_gives_it(name: str) -> None:
    ours, theirs = re.compile(f"[{getattr(scripts, name)}]"), regex.compile(f"[{SCRIPTS[name]}]")
    # Of the characters that this Python knows: the other package may know a later Unicode.
    known = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl")]
    assert [letter for letter in known if ours.match(letter)] == [letter for letter in known if theirs.match(letter)]
    assert not any(ours.match(chr(code)) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Nd", "Mn", "Mc", "Zs", "Po"))

"""Units: where a text without blanks is cut into players, and which words the English grammar cannot read.

No dictionary: a unit is a guess at a word from the script of its letters (docs/languages.md). It is not what an index holds: the pairs of
an index overlap, players may not.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import accumulate, pairwise

from ospo_cli.text.scripts import HAN, HIRAGANA, KATAKANA, SOUTH_EAST_ASIAN, marks

# Letters of a run of Han that are one unit; a longer run is cut into pairs.
LONGEST_HAN = 3
# Syllables of a script of South East Asia that are one unit.
SYLLABLES = 3
_HAS_NO_BLANKS = re.compile(f"[{HAN}{HIRAGANA}{KATAKANA}{SOUTH_EAST_ASIAN}]")
# Vowels of Thai and Lao that are written before and behind their consonant; signs that join the letter behind them (Khmer, Myanmar).
_BEFORE, _BEHIND, _JOINING = "\u0e40-\u0e44\u0ec0-\u0ec4", "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3", "\u1039\u17d2"


def unit_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the spans of the units of text[start:end], a run without white space, in order; they are a partition of it.

    Cut are: where the script changes (Hiragana stays with what is before it: `長い`, `革の`); Han of more than 3 letters, into pairs (a
    last one of 3 where the number is odd); a script of South East Asia into even pieces of at most 3 syllables. Text of other scripts is
    one unit.

    >>> text = "女性用の長い防水スマホケース15台"
    >>> [text[first:last] for first, last in unit_spans(text, 0, len(text))]
    ['女性用の', '長い', '防水', 'スマホケース', '15', '台']
    """
    if _HAS_NO_BLANKS.search(text, start, end) is None:
        return [(start, end)]
    borders = [start]
    for found in _runs().finditer(text, start, end):
        borders.append(found.start())
        if found["han"]:
            letters = [letter.start() for letter in _han().finditer(text, *found.span("han"))]
            borders += letters[2:-1:2] if len(letters) > LONGEST_HAN else []
        elif found["sa"]:
            syllables = [syllable.start() for syllable in _syllable().finditer(text, *found.span())]
            count = -(-len(syllables) // SYLLABLES)
            size, larger = divmod(len(syllables), count)
            borders += [syllables[at] for at in accumulate(size + (index < larger) for index in range(count - 1))]
    return list(pairwise([*dict.fromkeys(borders), end]))


def has_no_blanks(text: str) -> bool:
    """Tell whether a text holds a letter of a script that is written without blanks."""
    return _HAS_NO_BLANKS.search(text) is not None


def is_foreign(word: str) -> bool:
    """Tell whether a word holds two letters or more of scripts other than Latin (a single one is a sign: `kΩ`, `µm`, `β`).

    >>> is_foreign("coat"), is_foreign("größe"), is_foreign("kΩ"), is_foreign("пальто")
    (False, False, False, True)
    """
    return not word.isascii() and sum(letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN") for letter in word) > 1


@cache
def _runs() -> re.Pattern[str]:
    any_of = f"{HAN}{HIRAGANA}{KATAKANA}{SOUTH_EAST_ASIAN}"
    mark = marks()
    # A lengthening stroke behind Hiragana belongs to it.
    tail = f"[{HIRAGANA}][{HIRAGANA}{mark}ー]*"
    return re.compile(
        f"(?P<han>[{HAN}][{HAN}{mark}]*)(?:{tail})?|[{KATAKANA}][{KATAKANA}{mark}]*(?:{tail})?|{tail}"
        f"|(?P<sa>[{SOUTH_EAST_ASIAN}][{SOUTH_EAST_ASIAN}{mark}]*)|[^{any_of}]+"
    )


@cache
def _han() -> re.Pattern[str]:
    return re.compile(f"[{HAN}][{marks()}]*")


@cache
def _syllable() -> re.Pattern[str]:
    mark, letter = marks(), f"[{SOUTH_EAST_ASIAN}]"
    return re.compile(f"[{_BEFORE}]?{letter}(?:(?<=[{_JOINING}]){letter}|[{mark}])*[{_BEHIND}]*")

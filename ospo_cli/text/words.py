"""Words: the one way in which text is read by indexes, queries, rewards and measures (docs/languages.md).

    text → normalise (NFKD) → fold case → fold marks and digits → compose (NFKC) → split → bigrams

Change `VERSION` with anything that gives some text other words: what is kept of a catalogue is kept under it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise

from ospo_cli.text.scripts import EAST_ASIAN, SOUTH_EAST_ASIAN, marks

VERSION = "words-3"
STANDARD, TURKISH = "standard", "turkish"
Reader = Callable[[str], list[str]]

_ASCII_WORD = re.compile(r"[a-z0-9]+(?:(?<=[0-9])[.'](?=[0-9])[a-z0-9]+)*")
# Accents, the points of Hebrew and Arabic and the Arabic lengthening stroke: what may be left out in writing.
_ACCENTS = "\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670"
_INVISIBLE = "\u00ad\u200b\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
_DROPPED = re.compile(f"[{_ACCENTS}{_INVISIBLE}]")
_LETTER = f"[{EAST_ASIAN}{SOUTH_EAST_ASIAN}]"
# All of these letters lie above: a single range is found missing ten times as fast.
_MAY_HAVE_NO_BLANKS = re.compile("[\u0e01-\U0010ffff]")
_HAS_NO_BLANKS = re.compile(_LETTER)
_DIGIT = re.compile(r"[^\D0-9]")
# The sign of Thai or Lao am typed before the tone and after it: no canonical order tells these two, which look alike.
_AM_BEFORE_TONE = re.compile("([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb])")


def words(text: str, folding: str = STANDARD) -> list[str]:
    """Return the words of a text in order: compatibility forms and case folded, accents dropped, maximal runs of letters and digits.

    A point or apostrophe between two digits stays inside its word (`15.6`); a hyphen splits; there is no stop list. Accents are the
    combining marks U+0300 to U+036F (é is e), and the points of Hebrew and Arabic; vowel signs of other scripts belong to their words.
    Soft hyphens, zero-width spaces and joiners and variation selectors are dropped. Decimal digits are those of ASCII.

    Letters of Han, Hiragana, Katakana, Hangul and of the scripts of South East Asia that are written without blanks become overlapping
    pairs of neighbours (a letter with its marks alone where it has no neighbour); other letters and digits in the same run are words.

    Args:
        text: any text.
        folding: standard (Unicode's full case folding), or turkish (its mappings T: I is ı, İ is i).

    >>> words("Crème-colored 15.6 inch")
    ['creme', 'colored', '15.6', 'inch']
    >>> words("防水スマホ15台")
    ['防水', '水ス', 'スマ', 'マホ', '15', '台']
    """
    found = runs(text, folding)
    if text.isascii():
        return found
    return [word for run in found for word in (_bigrams(run) if _MAY_HAVE_NO_BLANKS.search(run) else (run,))]


def runs(text: str, folding: str = STANDARD) -> list[str]:
    """Return the maximal runs of letters and digits of which `words` are made: a run of a script without blanks is not cut.

    >>> runs("防水スマホ 15台")
    ['防水スマホ', '15台']
    """
    folded = fold(text, folding)
    if folded.isascii():
        return _ASCII_WORD.findall(folded)
    # An underscore ends a word, but is in \w: without it, a run is a single class of characters.
    return _unicode_run().findall(folded.replace("_", " "))


def fold(text: str, folding: str = STANDARD) -> str:
    """Return the text as it is compared: compatibility forms and case folded, accents and invisible characters dropped.

    >>> fold("Ｃｒème"), fold("IŞIK", "turkish")
    ('creme', 'ısık')
    """
    if not text.isascii():
        text = text.replace("™", " ").replace("℠", " ")  # whose compatibility forms are letters: Nike™ is no word niketm
    if folding == TURKISH and ("I" in text or not text.isascii()):
        # Composed first: İ may be I and a dot, and Ｉ is I.
        text = unicodedata.normalize("NFKC", text).replace("İ", "i").replace("I", "ı")
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    if "\u200c" in folded:
        folded = _viramas().sub("", folded)
    folded = unicodedata.normalize("NFKC", _AM_BEFORE_TONE.sub(r"\2\1", _DROPPED.sub("", folded)))
    return folded if folded.isascii() else _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), folded)


def reader(folding: str) -> Reader:
    """Return `words` under this folding."""
    return partial(words, folding=folding)


def reading(folding: str) -> str:
    """Return the name of this way of reading, which fingerprints of indexes hold."""
    return f"{VERSION} {folding}"


def word_count(text: str) -> int:
    """Return the number of words, repeated ones included."""
    return len(words(text))


def repeated_words(text: str, folding: str = STANDARD) -> int:
    """Return how many words occurred before in the text: words minus distinct words."""
    found = words(text, folding)
    return len(found) - len(set(found))


def _bigrams(run: str) -> list[str]:
    if not _HAS_NO_BLANKS.search(run):
        return [run]
    found = []
    # A capturing group: what it matches stands at the odd places.
    for place, part in enumerate(_stretches().split(run)):
        if place % 2 == 0:
            found += [part] if part else []
            continue
        letters = part if _mark_set().isdisjoint(part) else with_marks(part)
        found += [first + second for first, second in pairwise(letters)] if len(letters) > 1 else letters
    return found


def with_marks(text: str) -> list[str]:
    """Return the letters of a text, each with the combining marks behind it.

    >>> with_marks("กี่บาท")
    ['กี่', 'บ', 'า', 'ท']
    """
    found: list[str] = []
    for letter in text:
        if found and letter in _mark_set():
            found[-1] += letter
        else:
            found.append(letter)
    return found


@cache
def _mark_set() -> frozenset[str]:
    return frozenset(marks())


@cache
def _unicode_run() -> re.Pattern[str]:
    # Python's \w holds no combining marks, so that Indic words would fall apart at every vowel sign.
    inside = rf"[\w{marks()}]"
    return re.compile(rf"\w{inside}*(?:(?<=\d)[.'](?=\d){inside}+)*")


@cache
def _stretches() -> re.Pattern[str]:
    return re.compile(f"({_LETTER}[{EAST_ASIAN}{SOUTH_EAST_ASIAN}{marks()}]*)")


@cache
def _viramas() -> re.Pattern[str]:
    # A non-joiner behind a virama chooses the shape of a letter (Indic scripts); elsewhere (Persian) it ends a word.
    viramas = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.combining(chr(code)) == 9)
    return re.compile(f"(?<=[{viramas}])\u200c")

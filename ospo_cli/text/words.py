"""Words as lexical retrievers and the reward's length and repetition parts count them."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_ASCII_WORD = re.compile(r"[a-z0-9]+(?:(?<=[0-9])[.'](?=[0-9])[a-z0-9]+)*")
_FOLDED = re.compile("[\u0300-\u036f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufe00-\ufe0f\ufeff]")


def words(text: str) -> list[str]:
    """Return the words of a text in order: compatibility forms and case folded, accents dropped, maximal runs of letters and digits.

    A point or apostrophe between two digits stays inside its word (`15.6`); a hyphen splits; there is no stop list. Accents are the
    combining marks U+0300 to U+036F (é is e); vowel signs of other scripts belong to their words. Soft hyphens, zero-width spaces and
    variation selectors are dropped.

    >>> words("Crème-colored 15.6 inch")
    ['creme', 'colored', '15.6', 'inch']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    folded = unicodedata.normalize("NFKC", _FOLDED.sub("", _INVISIBLE.sub("", folded)))
    return _unicode_word().findall(folded)


def word_count(text: str) -> int:
    """Return the number of words, repeated ones included."""
    return len(words(text))


def repeated_words(text: str) -> int:
    """Return how many words occurred before in the text: words minus distinct words."""
    found = words(text)
    return len(found) - len(set(found))


@cache
def _unicode_word() -> re.Pattern[str]:
    # Python's \w holds no combining marks, so that Indic words would fall apart at every vowel sign.
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    inside = rf"(?:[^\W_]|[{marks}])"
    return re.compile(rf"[^\W_]{inside}*(?:(?<=\d)[.'](?=\d){inside}+)*")

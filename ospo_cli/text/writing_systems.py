"""Writing systems of a text's letters."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

# One language writes in several of these.
_TOGETHER = {"CJK": "EAST ASIAN", "HIRAGANA": "EAST ASIAN", "KATAKANA": "EAST ASIAN", "BOPOMOFO": "EAST ASIAN"}


def writing_systems(text: str) -> set[str]:
    """Return the writing systems of the letters, by the first word of their Unicode names, compatibility forms folded.

    Digits and signs belong to none.

    >>> sorted(writing_systems("Nike туфли 42"))
    ['CYRILLIC', 'LATIN']
    """
    if text.isascii():
        return {"LATIN"} if any(map(str.isalpha, text)) else set()
    return {_script(letter) for letter in set(unicodedata.normalize("NFKC", text)) if letter.isalpha()}


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "UNKNOWN").split()[0].partition("-")[0]
    return _TOGETHER.get(first, first)

"""Text that may be hostile (catalogues, users, models) is shown: control, bidirectional and other invisible characters spelled out."""

from __future__ import annotations

import unicodedata

# Invisible, but part of ordinary emoji and of words in several scripts.
_JOINERS = {"\u200c", "\u200d"}
_SHORT = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}


def visible(text: str, limit: int = 2000) -> str:
    """Return the text with control, bidirectional and other invisible characters spelled out, cut to `limit` characters with a mark.

    >>> visible("wool\\u202ecoat")
    'wool⟨U+202E⟩coat'
    """
    shown = text[:limit]
    cut = f" … [cut: {len(text):,} characters in all]" if len(text) > limit else ""
    if shown.isascii() and shown.isprintable():
        return shown + cut
    return "".join(_shown(letter, shown[index - 1] if index else "") for index, letter in enumerate(shown)) + cut


def _shown(letter: str, before: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    category = unicodedata.category(letter)
    is_hidden = category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    if is_hidden and not (letter in _JOINERS and before and unicodedata.category(before) in ("So", "Sk", "Mn", "Mc", "Lo")):
        return f"⟨U+{ord(letter):04X}⟩"
    return letter

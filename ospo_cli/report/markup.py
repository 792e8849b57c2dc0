"""Text that may be hostile (catalogues, users, models) becomes HTML or JSON that shows it and does nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import unicodedata
from collections.abc import Mapping

# Invisible, but part of ordinary emoji and of words in several scripts.
_JOINERS = {"\u200c", "\u200d"}
_ATTRIBUTE = 1_000_000  # points of a curve are long, and never hostile
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


def escape(text: object, limit: int = 2000) -> str:
    """Return HTML that shows the text, fit for content and for quoted attributes."""
    return html.escape(visible(str(text), limit), quote=True)


def isolated(text: object, limit: int = 2000) -> str:
    """Return escaped text in an element of its own direction, so that right-to-left text does not reorder what stands around it."""
    return f"<bdi>{escape(text, limit)}</bdi>"


def tag(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; content is HTML already, attribute values are escaped. `class_` and `data_x` become class and data-x."""
    return f"<{name}{_attributes(attributes)}>{content}</{name}>"


def _attributes(attributes: Mapping[str, object]) -> str:
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None and value is not False}
    return "".join(f" {name}" if value is True else f' {name}="{escape(value, _ATTRIBUTE)}"' for name, value in named.items())


def json_script(identity: str, content: object) -> str:
    """Return a data block: JSON in which no character can end the script element or be read as markup."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{escape(identity)}">{text}</script>'


def source_hash(text: str) -> str:
    """Return the name by which a page's policy (CSP) allows one style or script: its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

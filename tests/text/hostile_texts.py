"""Answers that users, catalogues and models may write."""

from __future__ import annotations

from hypothesis import strategies as st

PIECES = st.sampled_from(
    ["navy", "Wool", "coat", "15.6", "inch", '15.6"', "usb-c", "under", "$50", "without", "and", "for", "the", "men's", "of", "'a'", "100%", "é", "e\u0301", "🔥", "👨‍👩‍👧", "漢字",
     "שלום", "\u200f", "हिन्दी", ",", ";", ".", "...", '"', "“", "”", "-", "–", "/", "(", ")", "\n", "\t", " ", "\x00", "\x1b[31m", "1,000", "a.b", "10 x 12"]
)  # fmt: skip
ANSWERS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=16).map(" ".join), st.lists(PIECES, max_size=12).map("".join))

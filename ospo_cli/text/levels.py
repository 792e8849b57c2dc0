"""The levels of segments, and what may group the segments of each."""

from __future__ import annotations

LEVELS = ("phrase", "word", "sentence", "window")
# Only blocks that hold whole segments of the level.
UNIONS = {
    "phrase": ("auto", "sentence", "clause", "none"),
    "word": ("auto", "sentence", "clause", "phrase", "none"),
    "sentence": ("auto", "none"),
    "window": ("auto", "sentence", "clause", "none"),
}
# Levels that rest on phrases, so that another chunker may find them.
LEVELS_WITH_PHRASES = ("phrase", "word")

"""The text of a coalition of segments."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ospo_cli.text.words import words

Runs = Sequence[tuple[int, int]]
_PRESENT = re.compile("1+")


def coalition_text(text: str, spans: Sequence[tuple[int, int]], present: Sequence[bool] | np.ndarray) -> str:
    """Return the raw slices of the maximal runs of present segments, separators inside a run included, joined by one space.

    A word of no segment between two segments (where these are no partition) ends a run: it is in no coalition's text.

    Args:
        text: the text that the spans refer to (answer or completion).
        spans: [n, 2] start and end of each segment, characters, in order.
        present: [n] whether each segment belongs to the coalition.

    The grand coalition's text is the answer but for what stands before its first and after its last segment; the empty one's is "".

    >>> coalition_text("navy, wool coat", [(0, 4), (6, 10), (11, 15)], [True, False, True])
    'navy coat'
    >>> coalition_text("wool coat warm for men", [(0, 9), (15, 22)], [True, True])
    'wool coat for men'
    """
    if len(spans) != len(present):
        raise ValueError(f"{len(spans)} spans, {len(present)} marks")
    return coalition_texts(text, spans, [runs_of("".join("01"[bool(is_present)] for is_present in present))])[0]


def runs_of(mask: str) -> Runs:
    """Return the first segment and the one behind the last of each maximal run of present segments.

    >>> runs_of("1101")
    [(0, 2), (3, 4)]
    """
    return [found.span() for found in _PRESENT.finditer(mask)]


def coalition_texts(text: str, spans: Sequence[tuple[int, int]], coalitions: Sequence[Runs]) -> list[str]:
    """Return `coalition_text` of many coalitions of the same segments, each given by its runs.

    >>> coalition_texts("navy, wool coat", [(0, 4), (6, 10), (11, 15)], [runs_of("101"), runs_of("011"), runs_of("000")])
    ['navy coat', 'wool coat', '']
    """
    if not spans:
        return [""] * len(coalitions)
    starts, ends = zip(*spans, strict=True)
    # Behind these segments stands a word of no segment.
    breaks = [after for after in range(1, len(spans)) if any(map(str.isalnum, text[ends[after - 1] : starts[after]]))]
    if breaks:
        coalitions = [_cut(runs, breaks) for runs in coalitions]
    return [
        text[starts[runs[0][0]] : ends[runs[0][1] - 1]] if len(runs) == 1 else " ".join([text[starts[a] : ends[b - 1]] for a, b in runs])
        for runs in coalitions
    ]


def segment_words(text: str, spans: Sequence[tuple[int, int]]) -> list[str] | None:
    """Return the segments' words, one segment after the other, or None where a coalition's words may not be those of its segments.

    They are where the text is ASCII and no word reaches from one segment into the next: a run of segments then falls apart into words at
    the same places, whichever run it is.

    >>> segment_words("navy, wool coat", [(0, 4), (6, 15)])
    ['navy', 'wool', 'coat']
    >>> segment_words("15.6 inch", [(0, 2), (3, 4), (5, 9)]) is None
    True
    """
    if not text.isascii():
        return None
    whole = coalition_texts(text, spans, [[(0, len(spans))]])[0] if spans else ""
    apart = words_of_parts([text[start:end] for start, end in spans])
    return apart if words(whole) == apart else None


def words_of_parts(parts: Sequence[str]) -> list[str]:
    """Return the words of the parts, one part after the other.

    >>> words_of_parts(["navy blue", "coat"])
    ['navy', 'blue', 'coat']
    """
    # A line break ends a word: one call for all.
    return words("\n".join(parts))


def _cut(runs: Runs, breaks: Sequence[int]) -> Runs:
    pieces = []
    for first, last in runs:
        inside = [place for place in breaks if first < place < last]
        pieces += list(zip([first, *inside], [*inside, last], strict=True))
    return pieces

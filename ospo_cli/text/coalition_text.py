"""The text of a coalition of segments."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

Runs = Sequence[tuple[int, int]]
_PRESENT = re.compile("1+")


def coalition_text(text: str, spans: Sequence[tuple[int, int]] | np.ndarray, present: Sequence[bool] | np.ndarray) -> str:
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
    slices: list[str] = []
    run_start = run_end = -1
    for (start, end), is_present in zip(spans, present, strict=True):
        if is_present:
            if run_start >= 0 and not text[run_end:start].isspace() and any(map(str.isalnum, text[run_end:start])):
                slices.append(text[run_start:run_end])
                run_start = -1
            run_start = start if run_start < 0 else run_start
            run_end = end
        elif run_start >= 0:
            slices.append(text[run_start:run_end])
            run_start = -1
    if run_start >= 0:
        slices.append(text[run_start:run_end])
    return " ".join(slices)


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


def _cut(runs: Runs, breaks: Sequence[int]) -> Runs:
    pieces = []
    for first, last in runs:
        inside = [place for place in breaks if first < place < last]
        pieces += list(zip([first, *inside], [*inside, last], strict=True))
    return pieces

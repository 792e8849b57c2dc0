"""The released code's players (`segment.own_segmenter: ospo_cli.released.segmenter:phrases`)."""

from __future__ import annotations

from bisect import bisect_left

from ospo_cli.text.segments import segment


def phrases(answer: str) -> list[tuple[int, int]]:
    """Return the spans of the phrases of several words; a word that stands alone belongs to none.

    >>> phrases("navy wool coat, waterproof, for men")
    [(0, 14), (28, 35)]
    """
    starts = [word.start for word in segment(answer, "word")]
    found = [(phrase.start, phrase.end) for phrase in segment(answer, "phrase")]
    return [(start, end) for start, end in found if bisect_left(starts, end) - bisect_left(starts, start) > 1]

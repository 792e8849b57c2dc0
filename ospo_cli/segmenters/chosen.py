"""The segmenter that section `segment` names: answer -> segments with their unions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ospo_cli.own_code import segmenters as own_segmenters
from ospo_cli.params.segment import Segment
from ospo_cli.text.segments import Segmentation, given_segments, segmentation

Spans = Sequence[tuple[int, int]]
Cutter = Callable[[str], Segmentation]


def chosen(settings: Segment, root: Path) -> tuple[Cutter, str]:
    """Return the segmenter, and its name with versions, which metrics record; files of a user lie relative to `root`.

    Raises:
        CreditError: a model or a user's function cannot be loaded.
    """
    if settings.own_segmenter:
        return by_function(settings, own_segmenters.load(settings.own_segmenter, root)), settings.own_segmenter
    if settings.segmenter == "spacy":
        from ospo_cli.segmenters.spacy_chunks import load

        chunks, name = load(settings.spacy_model)
        return by_rules(settings, chunks), name
    return by_rules(settings), "rules"


def by_rules(settings: Segment, chunks: Callable[[str], Spans] | None = None) -> Cutter:
    """Return the segmenter of `segment.level`; `chunks` (answer -> noun chunks) find phrases in place of the rules."""

    def cut(answer: str) -> Segmentation:
        return segmentation(answer, settings.level, settings.window, settings.unions, None if chunks is None else chunks(answer))

    return cut


def by_function(settings: Segment, spans: Callable[[str], Spans]) -> Cutter:
    """Return the segmenter that takes what a function finds, in the unions of `segment.unions`."""
    return lambda answer: Segmentation(given_segments(answer, spans(answer), settings.unions), 0)

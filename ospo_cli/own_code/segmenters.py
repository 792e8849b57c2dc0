"""A segmenter that a user wrote: a Python function of their own, named in segment.own_segmenter and run as it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ospo_cli.errors import CreditError
from ospo_cli.own_code import rewards

Spans = list[tuple[int, int]]

_REMEDY = "docs/segments.md has an example"
_EXPECTED = "(first character, character after the last) of each segment, within the answer, disjoint, in order, with visible text"


def load(name: str, root: Path) -> Callable[[str], Spans]:
    """Return the function FILE.py:FUNCTION (relative to `root`) or MODULE:FUNCTION; what it finds is checked whenever it is called.

    Raises:
        CreditError: there is no such file, module or function, or it cannot be run.
    """
    found = rewards.load(name, (), root)
    return _guarded(name, found.source, found.function)


def _guarded(name: str, source: Path, function: Callable[[str], Any]) -> Callable[[str], Spans]:
    def segmenter(answer: str) -> Spans:
        where = f"own_segmenter {name}, answer {answer[:60]!r}"
        try:
            spans = [(int(start), int(end)) for start, end in function(answer)]
        except Exception as error:
            raise CreditError(
                f"{rewards._place(source, error)}, {where}", "fails", found=f"{type(error).__name__}: {error}", remedy=_REMEDY
            ) from None
        before = 0
        for start, end in spans:
            if not before <= start < end <= len(answer) or not answer[start:end].strip():
                raise CreditError(where, "is cut in a wrong place", found=f"{start}..{end}", expected=_EXPECTED, remedy=_REMEDY)
            before = end
        return spans

    return segmenter

"""A segmenter that a user wrote: a Python function from an answer to the spans of its segments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.errors import CreditError
from ospo_cli.own_code.loading import REMEDY, SEGMENTER, OwnCode, load_function


@dataclass(frozen=True)
class OwnSegmenter:
    """The function; call it with an answer."""

    code: OwnCode

    def __call__(self, answer: str) -> list[tuple[int, int]]:
        """Return (first character, character after the last) of each segment, checked.

        Raises:
            CreditError: the function fails, or a span is blank, leaves the answer, or begins before the one before it has ended.
        """
        where = f"own_segmenter {self.code.name}, answer {answer[:60]!r}"
        spans = self.code.run(where, lambda: [_pair(span) for span in self.code.value(answer)])
        end_before = 0
        for start, end in spans:
            if not end_before <= start < end <= len(answer) or not answer[start:end].strip():
                expected = f"start < end within {end_before}..{len(answer)}, in order, disjoint, with visible text"
                raise CreditError(where, "gives a span that cannot be", found=f"({start}, {end})", expected=expected, remedy=REMEDY)
            end_before = end
        return spans


def load(name: str, root: Path) -> OwnSegmenter:
    """Return the function of that name; `root` is the folder that files are relative to.

    Raises:
        CreditError: there is no such file, module, entry point or function, or it cannot be run.
    """
    return OwnSegmenter(load_function(SEGMENTER, name, root))


def _pair(span: Iterable[int]) -> tuple[int, int]:
    start, end = span
    if type(start) is not int or type(end) is not int:
        raise TypeError(f"a span is no pair of whole numbers: {span!r}")
    return start, end

"""One query explained: its products, what each of its segments earned, what segments earn together. Data, and data as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "ospo-explanation", 1
# Values are sums of a few numbers of order 1: a smaller dividend is rounding.
NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Product:
    """A retrieved product: rank from 1, score of the retriever, gain where it is judged (None: it is not)."""

    rank: int
    doc_id: str
    title: str
    score: float
    gain: float | None


@dataclass(frozen=True)
class Target:
    """The product whose rank is followed; rank None: not retrieved."""

    doc_id: str
    title: str
    gain: float | None
    rank: int | None


@dataclass(frozen=True)
class Part:
    """A segment of the query, in order.

    Attributes:
        start, end: characters within the query.
        text: what stands there.
        share: φ, in units of the value.
        standard_error: of the share where coalitions were sampled, else None.
        n_contributions: marginals (or windows) that the share rests on.
        alone: v of the segment by itself.
        without: v of the query without it.
        rank_alone, rank_without: rank of the target then; None: not retrieved.
        unknown_words: its words that retrieve no product at all by themselves.
    """

    start: int
    end: int
    text: str
    share: float
    standard_error: float | None
    n_contributions: int
    alone: float
    without: float
    rank_alone: int | None
    rank_without: int | None
    unknown_words: list[str]


@dataclass(frozen=True)
class Interaction:
    """Harsanyi dividend of the window from one segment to another (indices from 0), with the text of both ends."""

    first: int
    last: int
    first_text: str
    last_text: str
    dividend: float


@dataclass(frozen=True)
class Explanation:
    """Everything that is shown of one query.

    Attributes:
        query: the text that is explained, as it was given.
        prompt_id: prompt whose judgments or pool are used; None where there is none.
        value_kind: judgments, relevant or score.
        value: what is shared out, in words.
        unit: unit of all values, in words.
        level: what the segments are.
        estimator, estimator_meaning, is_efficient: who shares out.
        special_case: "" or the estimator's named case.
        retriever: name.
        candidates: products that are ranked; is_pool: they are the prompt's pool and not the whole catalogue.
        retrieved: products with a score above 0.
        empty, grand: v(∅) and v(N).
        share_sum, efficiency_gap: Σφ and |Σφ - (v(N) - v(∅))|.
        coalitions: distinct coalitions that were evaluated.
        products: the first of the ranking.
        target: the product whose rank is followed.
        parts: the segments.
        interactions: windows with a dividend, strongest first.
        notes: what a reader should know besides.
    """

    query: str
    prompt_id: str | None
    value_kind: str
    value: str
    unit: str
    level: str
    estimator: str
    estimator_meaning: str
    is_efficient: bool
    special_case: str
    retriever: str
    candidates: int
    is_pool: bool
    retrieved: int
    empty: float
    grand: float
    share_sum: float
    efficiency_gap: float
    coalitions: int
    products: list[Product]
    target: Target
    parts: list[Part]
    interactions: list[Interaction]
    notes: list[str]

    def to_json(self) -> str:
        """Return one JSON object, ASCII, with `format` and `version` first; keys are the names of the fields."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def scale(self) -> float:
        """Return the largest |share|."""
        return max((abs(part.share) for part in self.parts), default=0.0)

    def pieces(self) -> list[list[Any]]:
        """Return the query cut into [text] outside of segments and [text, share] for each segment, raw."""
        found: list[list[Any]] = []
        position = 0
        for part in self.parts:
            if part.start > position:
                found.append([self.query[position : part.start]])
            found.append([part.text, part.share])
            position = part.end
        if position < len(self.query):
            found.append([self.query[position:]])
        return found


def interactions(dividends: NDArray[np.float64], texts: Sequence[str]) -> list[Interaction]:
    """Return the windows of two segments or more that have a dividend, strongest first, then narrow first, then from left to right.

    >>> interactions(np.array([[0.2, -0.1], [0.0, 0.5]]), ["navy", "coat"])
    [Interaction(first=0, last=1, first_text='navy', last_text='coat', dividend=-0.1)]
    """
    first, last = (found.tolist() for found in np.nonzero(np.abs(np.triu(dividends, 1)) > NEGLIGIBLE))
    found = [Interaction(a, b, texts[a], texts[b], float(dividends[a, b])) for a, b in zip(first, last, strict=True)]
    return sorted(found, key=lambda each: (-round(abs(each.dividend), 9), each.last - each.first, each.first))


def window_name(first: int, last: int, first_text: str, last_text: str) -> str:
    """Return how a window is named: both ends, and how many segments stand between them.

    >>> window_name(0, 1, "navy", "coat"), window_name(0, 3, "navy", "men")
    ('navy + coat', 'navy + 2 between + men')
    """
    between = last - first - 1
    return f"{first_text} + {f'{between} between + ' if between else ''}{last_text}"


def dividend_in_words(dividend: float, size: int, number: str) -> str:
    """Return what a window's dividend says; `number` is its size as people read it, `size` the number of its segments.

    >>> dividend_in_words(0.2, 2, "0.20"), dividend_in_words(-0.2, 3, "0.20")
    ('earn 0.20 more together than apart', 'earn 0.20 less together than its smaller windows tell')
    """
    than = "apart" if size == 2 else "its smaller windows tell"
    return f"earn {number} {'more' if dividend > 0 else 'less'} together than {than}"


def optional(value: float) -> float | None:
    """Return the number, or None for NaN."""
    return None if math.isnan(value) else float(value)

"""Greedy search for a better query by single-word edits: the oracle that trained policies are measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EDITS = ("add", "drop", "swap")
_LEAST_GAIN = 1e-12  # an edit must help by more than rounding


@dataclass(frozen=True)
class EditedQuery:
    """Words after the edits, their value, and how many edits were kept."""

    words: tuple[str, ...]
    value: float
    edits: int


def greedy_edits(
    starts: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]],
    score: Callable[[list[int], list[tuple[str, ...]]], NDArray[np.float64]],
    edits: int,
    swaps: bool = False,
) -> list[EditedQuery]:
    """Return, for each start, the words after up to `edits` edits, each of which is the one that helps most.

    An edit appends one of the candidate words that is not there yet, or drops one word, or with `swaps` puts a candidate in a word's
    place; the search stops where no edit helps.
    Invariant: the value never falls below the start's. It is a lower bound of what the best query reaches, not the best query.

    Args:
        starts: words of each query to begin with; may be empty.
        candidates: words that may be added, per query; ties go to the earlier one.
        score: (indices of the queries, their words) -> value of each; called once per round with all queries' edits.
        edits: most edits per query, ≥ 0.
        swaps: whether a word may be swapped in one edit.

    >>> wanted = {"wool", "coat"}
    >>> greedy_edits([["warm"]], [["coat", "wool"]], lambda _, texts: np.array([len(wanted & {*t}) - .1 * len(t) for t in texts]), 8)
    [EditedQuery(words=('coat', 'wool'), value=1.8, edits=3)]
    """
    current = [tuple(start) for start in starts]
    values = np.array(score(list(range(len(current))), current), dtype=np.float64) if current else np.zeros(0)
    kept = [0] * len(current)
    active = list(range(len(current)))
    for _ in range(edits):
        kinds = EDITS if swaps else ("add", "drop")
        tried = [(index, words) for index in active for kind in kinds for words in single_edits(kind, current[index], candidates[index])]
        if not tried:
            break
        scores = score([index for index, _ in tried], [words for _, words in tried])
        best: dict[int, tuple[float, tuple[str, ...]]] = {}
        for (index, words), value in zip(tried, scores, strict=True):
            if value > best.get(index, (float(values[index]) + _LEAST_GAIN,))[0]:
                best[index] = (float(value), words)
        for index, (value, words) in best.items():
            current[index], values[index] = words, value
            kept[index] += 1
        active = sorted(best)
    return [EditedQuery(words, float(value), count) for words, value, count in zip(current, values, kept, strict=True)]


def single_edits(kind: str, words: Sequence[str], candidates: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the words after each edit of a kind: add (a candidate that is not there, at the end), drop, or swap (one for a candidate).

    >>> single_edits("swap", ["wool", "coat"], ["coat", "red"])
    [('red', 'coat'), ('wool', 'red')]
    """
    words, present = tuple(words), set(words)
    if kind == "drop":
        return [words[:place] + words[place + 1 :] for place in range(len(words))]
    new = [word for word in candidates if word not in present]
    if kind == "add":
        return [(*words, word) for word in new]
    return [(*words[:place], word, *words[place + 1 :]) for place in range(len(words)) for word in new]

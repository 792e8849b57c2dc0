"""Values of texts from the store where they are there, from the retriever where not: what is kept, and what was counted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import DamagedStoreError
from ospo_cli.retrievers.base import Retriever
from ospo_cli.rewards.store.book import Book
from ospo_cli.rewards.store.keys import Keys, joined, keys
from ospo_cli.tables.sealed import say_damaged
from ospo_cli.text.words import words

# Values are written as they are computed: the first batch is small, the next ones grow to about so many seconds.
FIRST_BATCH = 64
BATCH_SECONDS = 1.0

_T = TypeVar("_T")
Compute = Callable[[list[str], list[str]], tuple[NDArray[np.float64], NDArray[np.int64]]]


@dataclass
class Tally:
    """What was asked of a reward so far.

    Attributes:
        asked: (prompt, text) pairs.
        distinct: different ones among those of a call.
        found: distinct ones that the store held.
        computed: ones that the retriever ranked; distinct ones, but for a retriever that ranks all coalitions of an answer at once.
        reused: asked ones whose tables an earlier run of the stage left finished.
        look_up_seconds: time spent on keys, looking up and writing.
        compute_seconds: time spent on ranking and measuring.
    """

    asked: int = 0
    distinct: int = 0
    found: int = 0
    computed: int = 0
    reused: int = 0
    look_up_seconds: float = 0.0
    compute_seconds: float = 0.0

    def __iadd__(self, other: Tally) -> Tally:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def metrics(self) -> dict[str, Any]:
        """Return the numbers as a stage's metrics hold them; durations and what was found differ from run to run."""
        return {
            "asked_values": self.asked,
            "distinct_values": self.distinct,
            "found_values": self.found,
            "computed_values": self.computed,
            "reused_values": self.reused,
            "look_up_seconds": self.look_up_seconds,
            "compute_seconds": self.compute_seconds,
        }

    def line(self) -> str:
        """Return the numbers in words."""
        seconds = self.look_up_seconds + self.compute_seconds
        reused = f"{self.reused:,} in finished shards, " if self.reused else ""
        counts = f"{self.asked:,} asked, {reused}{self.distinct:,} distinct, {self.found:,} found, {self.computed:,} computed"
        return f"values: {counts}, {seconds:.1f} s"

    def report(self, command: str) -> None:
        """Print the numbers on stderr."""
        sys.stderr.write(f"{command}: {self.line()}\n")


def is_kept(retriever: Retriever, candidates: float, setting: str) -> bool:
    """Tell whether values are kept: `store.values`, and for auto whether there are as many candidates as the retriever declares.

    `kept_from` of a retriever is the number of candidates from which computing a value takes at least twice as long as finding and
    writing it (benchmarks/store.py measures that). One that declares nothing, such as an engine elsewhere, is thought dear: 0.
    """
    if setting != "auto":
        return setting == "always"
    return candidates >= getattr(retriever, "kept_from", 0)


def normalised(retriever: Retriever, texts: Sequence[str]) -> list[str]:
    """Return texts such that equal ones have equal values: the words in ascending order where the retriever declares
    `reads_words_alone`, else the text as it is."""
    if getattr(retriever, "reads_words_alone", False):
        split = getattr(retriever, "words", words)
        return [" ".join(sorted(split(text))) for text in texts]
    return list(texts)


class Memory:
    """A book with the reward that fills it.

    Args:
        book: where values are kept.
        retriever: the engine, which tells what a text may be reduced to.
        scope_of: scope of a prompt: everything that its values depend on besides the text and what the book's description says.
        tally: counts, added to.
    """

    def __init__(self, book: Book, retriever: Retriever, scope_of: Callable[[str], bytes], tally: Tally) -> None:
        self.book, self.retriever, self.scope_of, self.tally = book, retriever, scope_of, tally

    def values(self, positions_of: dict[str, list[int]], queries: Sequence[str], compute: Compute) -> NDArray[np.float64]:
        """Return the parts of each query's value, float64[queries, parts]; what is not there is computed in batches and written.

        Args:
            positions_of: the positions in `queries` of each prompt.
            queries: what the retriever is given.
            compute: (prompt_ids, queries) -> float64[queries, parts] and int64[queries, ranks].
        """
        began = time.monotonic()
        rows, row_of, wanted = self._keyed(positions_of, queries)
        found = self._mending(lambda: self.book.look_up(wanted))
        self.tally.look_up_seconds += time.monotonic() - began
        self.tally.asked += len(queries)
        self.tally.distinct += len(rows)
        self.tally.found += int(found.is_found.sum())
        missing = np.flatnonzero(~found.is_found)
        start, size = 0, FIRST_BATCH
        while start < len(missing):
            part = missing[start : start + size]
            began = time.monotonic()
            parts, products = compute([rows[row][0] for row in part.tolist()], [rows[row][1] for row in part.tolist()])
            computed = time.monotonic()
            found.parts[part] = parts
            # Before the next batch: what an engine that fails, or a kill, would lose is this batch alone.
            self._mending(partial(self.book.write, wanted[part], parts, products))
            self.tally.computed += len(part)
            self.tally.compute_seconds += computed - began
            self.tally.look_up_seconds += time.monotonic() - computed
            start += len(part)
            size = size * 2 if computed - began < BATCH_SECONDS else max(1, size // 2) if computed - began > 2 * BATCH_SECONDS else size
        return found.parts[row_of]

    def remembered(self, positions_of: dict[str, list[int]], queries: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which queries' values are there, and these, without computing any."""
        _, row_of, wanted = self._keyed(positions_of, queries)
        found = self._mending(lambda: self.book.look_up(wanted))
        return found.is_found[row_of], found.parts[row_of]

    def _mending(self, work: Callable[[], _T]) -> _T:
        # What is damaged is computed again: a value is never worth an end.
        try:
            return work()
        except DamagedStoreError as error:
            try:
                done = self.book.mend()
            except OSError:
                raise error from None
            say_damaged(self.book.path, done)
            return work()

    def _keyed(self, positions_of: dict[str, list[int]], queries: Sequence[str]) -> tuple[list[tuple[str, str]], NDArray[np.int64], Keys]:
        row_of = np.zeros(len(queries), dtype=np.int64)
        rows: list[tuple[str, str]] = []  # prompt and the first query of each key
        own: list[Keys] = []
        for prompt_id, positions in positions_of.items():
            texts = normalised(self.retriever, [queries[position] for position in positions])
            distinct: dict[str, int] = {}
            for position, text in zip(positions, texts, strict=True):
                row = distinct.setdefault(text, len(rows))
                if row == len(rows):
                    rows.append((prompt_id, queries[position]))
                row_of[position] = row
            own.append(keys(self.scope_of(prompt_id), distinct))
        return rows, row_of, joined(own)

"""What texts are made of: the terms of each document, counted."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ospo_cli.retrievers.base import require_words

# Documents that are counted at a time; bounds memory.
CHUNK_DOCUMENTS = 1 << 15


@dataclass(frozen=True)
class Postings:
    """What weights are made of, one entry per (term, document) pair.

    terms, documents: int64[entries]; frequencies: float64[entries], occurrences of the term in the document, weighted by field;
    document_counts: float64[terms], documents that hold the term; lengths: float64[documents], terms with repetitions, weighted by field.
    """

    terms: NDArray[np.int64]
    documents: NDArray[np.int64]
    frequencies: NDArray[np.float64]
    document_counts: NDArray[np.float64]
    lengths: NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """The bags of terms of one text field, a bag per document in catalogue order, and what an occurrence in it counts."""

    bags: Iterable[Sequence[str]]
    weight: float = 1.0


def count_terms(fields: Sequence[Field], split: Callable[[str], Sequence[str]] | None = None) -> tuple[Postings, dict[str, int]]:
    """Return the postings by document, then by term, and the index of each term.

    Raises:
        RetrievalError: no document holds a term.
    """
    vocabulary: dict[str, int] = {}
    grams = _Grams(split) if split is not None else None
    terms, sizes, frequencies, lengths = [], [], [], []
    for chunk in _chunks([field.bags for field in fields]):
        keys, counts, totals = _count_chunk(chunk, [field.weight for field in fields], vocabulary)
        if grams is not None:
            keys, counts, totals = grams.expand(keys, counts, len(totals), vocabulary)
        rows, found = np.divmod(keys, 1 << 32)
        terms.append(found.astype(np.int32))
        sizes.append(np.bincount(rows, minlength=len(totals)))
        frequencies.append(counts)
        lengths.append(totals)
    words = vocabulary if grams is None else grams.vocabulary
    require_words(len(words))
    term = np.concatenate(terms)
    document = np.repeat(np.arange(sum(map(len, sizes)), dtype=np.int32), np.concatenate(sizes))
    counts_of_documents = np.bincount(term, minlength=len(words)).astype(np.float64)
    return Postings(term, document, np.concatenate(frequencies), counts_of_documents, np.concatenate(lengths)), words  # type: ignore[arg-type]


def _chunks(bags: Sequence[Iterable[Sequence[str]]]) -> Iterator[list[list[Sequence[str]]]]:
    iterators = [iter(each) for each in bags]
    while True:
        chunk = [list(islice(each, CHUNK_DOCUMENTS)) for each in iterators]
        if not chunk or not chunk[0]:
            return
        yield chunk


def _count_chunk(
    chunk: list[list[Sequence[str]]], weights: Sequence[float], vocabulary: dict[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    # Keys document · 2^32 + term, ascending, each once; weighted occurrences; weighted lengths of the documents.
    keys, amounts, totals = [], [], np.zeros(len(chunk[0]))
    for bags, weight in zip(chunk, weights, strict=True):
        flat = array("i")
        sizes = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
        for bag in bags:
            flat.extend([vocabulary.setdefault(term, len(vocabulary)) for term in bag])
        terms = np.frombuffer(flat, dtype=np.int32).astype(np.int64) if len(flat) else np.zeros(0, dtype=np.int64)
        found, counts = np.unique((np.repeat(np.arange(len(bags), dtype=np.int64), sizes) << 32) | terms, return_counts=True)
        if weight > 0:
            keys.append(found)
            amounts.append(counts * weight)
            totals += sizes * weight
    if len(keys) == 1:
        return keys[0], amounts[0].astype(np.float64), totals
    return *_summed(np.concatenate(keys), np.concatenate(amounts)), totals


def _summed(keys: NDArray[np.int64], amounts: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    distinct, inverse = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(inverse, weights=amounts, minlength=len(distinct)).astype(np.float64)


class _Grams:
    """Parts of words, each word split once."""

    def __init__(self, split: Callable[[str], Sequence[str]]) -> None:
        self.split = split
        self.vocabulary: dict[str, int] = {}
        self._flat = array("i")
        self._starts = array("q", [0])

    def expand(
        self, keys: NDArray[np.int64], counts: NDArray[np.float64], documents: int, words: dict[str, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        for word in islice(words, len(self._starts) - 1, None):
            self._flat.extend([self.vocabulary.setdefault(part, len(self.vocabulary)) for part in self.split(word)])
            self._starts.append(len(self._flat))
        starts = np.frombuffer(self._starts, dtype=np.int64).copy()
        rows, terms = np.divmod(keys, 1 << 32)
        sizes = (starts[1:] - starts[:-1])[terms]
        ends = np.cumsum(sizes)
        chosen = np.arange(int(sizes.sum())) + np.repeat(starts[terms] - (ends - sizes), sizes)
        parts = np.frombuffer(self._flat, dtype=np.int32).copy()[chosen].astype(np.int64)
        totals = np.bincount(rows, weights=counts * sizes, minlength=documents).astype(np.float64)
        return *_summed((np.repeat(rows, sizes) << 32) | parts, np.repeat(counts, sizes)), totals

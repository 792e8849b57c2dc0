"""An inverted index of flat arrays; many bags of terms over one pool are one exact matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.retrievers.base import Ranking, candidates, require_words

# Every weight is rounded to a multiple of 2**-30, so that sums (below 2**22) are exact in float64 in any order: a score does not depend
# on the order of the query's words, on batching or on the number of threads, and documents that are equally good tie exactly.
UNIT = 2.0**-30
LARGEST_SCORE = 2.0**22
# Score cells of one block; 2 MiB stays in the cache.
BLOCK_CELLS = 1 << 18
# Most cells of the table terms × documents that a batch of queries shares (16 MiB).
DENSE_CELLS = 1 << 21


@dataclass(frozen=True)
class Postings:
    """What weights are made of, one entry per (term, document) pair, by term, then by document.

    terms, documents: int64[entries]; frequencies: float64[entries], occurrences of the term in the document;
    document_counts: float64[terms], documents that hold the term; lengths: float64[documents], terms with repetitions.
    """

    terms: NDArray[np.int64]
    documents: NDArray[np.int64]
    frequencies: NDArray[np.float64]
    document_counts: NDArray[np.float64]
    lengths: NDArray[np.float64]


class InvertedIndex:
    """Documents as weighted bags of terms; the score of a query is the sum of the weights of its terms, with repetitions.

    Args:
        bags: terms of each document, in catalogue order.
        weigh: postings -> float64[entries], ≥ 0; a weight of 0 never retrieves.
    """

    def __init__(self, bags: Iterable[Sequence[str]], weigh: Callable[[Postings], NDArray[np.float64]]) -> None:
        self.vocabulary: dict[str, int] = {}
        postings = _count(bags, self.vocabulary)
        self.count = len(postings.lengths)
        weights = np.rint(weigh(postings) / UNIT) * UNIT
        if not np.isfinite(weights).all():
            raise RetrievalError(
                "retriever", "the weight of a term is not a number", expected="finite weights", remedy="check the retrieval section"
            )
        self.largest_weight = float(weights.max())
        self.starts = np.searchsorted(postings.terms, np.arange(len(self.vocabulary) + 1))
        self.documents, self.weights = postings.documents, weights
        by_document = np.argsort(postings.documents, kind="stable")
        self.forward_starts = np.searchsorted(postings.documents[by_document], np.arange(self.count + 1))
        self.forward_terms, self.forward_weights = postings.terms[by_document], weights[by_document]
        self._row_of_term = np.full(len(self.vocabulary), -1, dtype=np.int64)
        self._cell_of_document = np.full(self.count, -1, dtype=np.int64)

    def bag(self, terms: Iterable[str], distinct: bool) -> tuple[int, ...]:
        """Return the indices of the known terms, ascending; each once (distinct), or as often as it occurs."""
        vocabulary = self.vocabulary
        found = [vocabulary[term] for term in terms if term in vocabulary]
        return tuple(sorted(set(found) if distinct else found))

    def rank(self, bags: Sequence[tuple[int, ...]], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each bag within its pool; k = 0 is all."""
        results: dict[int, Ranking] = {}
        by_pool: dict[int, list[int]] = {}
        for position, pool in enumerate(pools):
            by_pool.setdefault(id(pool), []).append(position)
        for positions in by_pool.values():
            documents, scores = self.rank_together([bags[position] for position in positions], pools[positions[0]], k)
            for position, row, row_scores in zip(positions, documents, scores, strict=True):
                count = int(np.count_nonzero(row >= 0))
                results[position] = Ranking(row[:count].copy(), row_scores[:count].copy())
        return [results[position] for position in range(len(bags))]

    def rank_together(
        self, bags: Sequence[tuple[int, ...]], pool: NDArray[np.int64] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[bags, ranks] (−1 where nothing more is retrieved) and scores float64[bags, ranks] (0 there)."""
        row_of: dict[tuple[int, ...], int] = {}
        rows = np.fromiter((row_of.setdefault(bag, len(row_of)) for bag in bags), dtype=np.int64, count=len(bags))
        longest = max(map(len, row_of), default=0)
        if longest * self.largest_weight >= LARGEST_SCORE:
            raise RetrievalError("query", "too many words", found=longest, expected=f"at most {int(LARGEST_SCORE / self.largest_weight)}")
        documents, scores = self._rank_distinct(list(row_of), None if pool is None else candidates(pool, self.count), k)
        return documents[rows], scores[rows]

    def _rank_distinct(
        self, bags: list[tuple[int, ...]], pool: NDArray[np.int64] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        lengths = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
        flat = np.fromiter((term for bag in bags for term in bag), dtype=np.int64, count=int(lengths.sum()))
        terms, columns = np.unique(flat, return_inverse=True)
        found, rows, cells, weights = self._entries(terms, pool)
        if len(bags) > 1 and len(found) * max(len(terms), 0 if k else len(bags)) > DENSE_CELLS:
            # Queries with little in common: a table of all their terms and documents would be mostly zeros.
            half = len(bags) // 2
            return _stacked([self._rank_distinct(part, pool, k) for part in (bags[:half], bags[half:])])
        width = min(k, len(found)) if k else len(found)
        documents = np.full((len(bags), width), -1, dtype=np.int64)
        scores = np.zeros((len(bags), width))
        if width == 0:
            return documents, scores
        counts = np.bincount(np.repeat(np.arange(len(bags)), lengths) * len(terms) + columns, minlength=len(bags) * len(terms))
        counts = counts.reshape(len(bags), len(terms)).astype(np.float64)
        table = None
        if len(bags) > 1:
            table = np.zeros((len(terms), len(found)))
            table[rows, cells] = weights
        step = max(1, BLOCK_CELLS // len(found))
        for start in range(0, len(bags), step):
            block = slice(start, start + step)
            if table is None:
                cell_scores = np.bincount(cells, weights=weights * counts[0, rows], minlength=len(found))[None, :]
            else:
                cell_scores = counts[block] @ table
            best, scores[block] = best_columns(cell_scores, width)
            documents[block] = np.where(scores[block] > 0, found[best], -1)
        return documents, scores

    def _entries(
        self, terms: NDArray[np.int64], pool: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        # Documents (ascending) that hold any of the terms; then row (of terms), cell (of documents) and weight of each entry.
        if pool is None:
            entries, lengths = _slices(self.starts, terms)
            rows = np.repeat(np.arange(len(terms)), lengths)
            documents, weights = self.documents[entries], self.weights[entries]
        else:
            self._row_of_term[terms] = np.arange(len(terms))
            entries, lengths = _slices(self.forward_starts, pool)
            rows = self._row_of_term[self.forward_terms[entries]]
            self._row_of_term[terms] = -1
            is_wanted = rows >= 0
            rows, weights = rows[is_wanted], self.forward_weights[entries[is_wanted]]
            documents = np.repeat(pool, lengths)[is_wanted]
        self._cell_of_document[documents] = 0
        found = np.flatnonzero(self._cell_of_document == 0)
        self._cell_of_document[found] = np.arange(len(found))
        cells = self._cell_of_document[documents]
        self._cell_of_document[found] = -1
        return found, rows, cells, weights


def best_columns(scores: NDArray[np.float64], width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the columns of the `width` largest scores of each row and these scores: score descending, then column ascending.

    Args:
        scores: float64[rows, columns], multiples of `UNIT`, ≥ 0.
        width: 1 to columns.
    """
    # Score and column make one integer, so that equal scores cannot be ordered by chance.
    count = scores.shape[1]
    bits = int(count - 1).bit_length()
    if float(scores.max(initial=0.0)) / UNIT * 2.0**bits < 2.0**62:
        keys = (scores * (2.0**bits / UNIT)).astype(np.int64)
        keys += np.arange(count - 1, -1, -1, dtype=np.int64)
        if width < count:
            keys = np.partition(keys, count - width, axis=1)[:, count - width :]
        keys.sort(axis=1)
        keys = keys[:, ::-1]
        return (count - 1) - (keys & ((1 << bits) - 1)), (keys >> bits).astype(np.float64) * UNIT
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return order, np.take_along_axis(scores, order, axis=1)


def _count(bags: Iterable[Sequence[str]], vocabulary: dict[str, int]) -> Postings:
    flat: list[int] = []
    sizes: list[int] = []
    for bag in bags:
        flat.extend([vocabulary.setdefault(term, len(vocabulary)) for term in bag])
        sizes.append(len(bag))
    require_words(len(vocabulary))
    lengths = np.array(sizes, dtype=np.int64)
    owners = np.repeat(np.arange(len(sizes), dtype=np.int64), lengths)
    keys, frequencies = np.unique(np.array(flat, dtype=np.int64) * len(sizes) + owners, return_counts=True)
    terms, documents = np.divmod(keys, len(sizes))
    document_counts = np.bincount(terms, minlength=len(vocabulary)).astype(np.float64)
    return Postings(terms, documents, frequencies.astype(np.float64), document_counts, lengths.astype(np.float64))


def _slices(starts: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Indices of the entries of the chosen rows of a CSR array, row after row, and how many each row has.
    lengths = starts[chosen + 1] - starts[chosen]
    ends = np.cumsum(lengths)
    shift = np.repeat(starts[chosen] - ends + lengths, lengths)
    return np.arange(len(shift), dtype=np.int64) + shift, lengths


def _stacked(parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    width = max(documents.shape[1] for documents, _ in parts)
    documents = [np.pad(found, ((0, 0), (0, width - found.shape[1])), constant_values=-1) for found, _ in parts]
    scores = [np.pad(found, ((0, 0), (0, width - found.shape[1]))) for _, found in parts]
    return np.concatenate(documents), np.concatenate(scores)

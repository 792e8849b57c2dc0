"""An inverted index of flat arrays; many bags of terms over one pool are one exact matrix product."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.retrievers.base import Ranking, candidates, require_words

# Every weight is rounded to a multiple of 2**-30, so that sums (below 2**22) are exact in float64 in any order: a score does not depend
# on the order of the query's words, on batching or on the number of threads, and documents that are equally good tie exactly.
UNIT = 2.0**-30
LARGEST_SCORE = 2.0**22
# Most cells of a table that a batch of queries shares (16 MiB).
DENSE_CELLS = 1 << 21
# Beyond so many candidates scores are kept for the whole catalogue.
LARGEST_SMALL_POOL = 1000
# A term of more than one in so many documents is added as a dense row.
DENSE_SHARE = 12


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
        split: the parts of a term, which then are the terms (each distinct term of the bags is split once).
    """

    def __init__(
        self,
        bags: Iterable[Sequence[str]],
        weigh: Callable[[Postings], NDArray[np.float64]],
        split: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        words: dict[str, int] = {}
        postings = _count(bags, words)
        self.vocabulary = words
        if split is not None:
            self.vocabulary = {}
            postings = _split(
                postings, [[self.vocabulary.setdefault(part, len(self.vocabulary)) for part in split(word)] for word in words]
            )
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
        self._starts: list[int] = self.starts.tolist()
        # Work of adding a term: its postings, or a pass over all documents where these are many.
        self._costs: list[int] = np.minimum(np.diff(self.starts), self.count // DENSE_SHARE).tolist()
        self._dense_rows: dict[int, NDArray[np.float64]] = {}
        self._kth_weights: dict[tuple[int, int], float] = {}

    def bag(self, terms: Iterable[str], distinct: bool) -> list[int]:
        """Return the indices of the known terms in the order of the text; each once (distinct), or as often as it occurs."""
        vocabulary = self.vocabulary
        found = [vocabulary[term] for term in terms if term in vocabulary]
        return list(dict.fromkeys(found)) if distinct else found

    def rank(self, bags: Sequence[Sequence[int]], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
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
        self, bags: Sequence[Sequence[int]], pool: NDArray[np.int64] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[bags, ranks] (−1 where nothing more is retrieved) and scores float64[bags, ranks] (0 there)."""
        longest = max(map(len, bags), default=0)
        if longest * self.largest_weight >= LARGEST_SCORE:
            raise RetrievalError("query", "too many words", found=longest, expected=f"at most {int(LARGEST_SCORE / self.largest_weight)}")
        if pool is None:
            return self._walk(bags, None, k)
        pool = candidates(pool, self.count)
        return self._walk(bags, pool, k) if len(pool) > LARGEST_SMALL_POOL else self._multiply(bags, pool, k)

    def _multiply(self, bags: Sequence[Sequence[int]], pool: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        # A pool is small: occurrences[bags, terms] @ weights[terms, documents].
        lengths = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
        flat = np.fromiter(chain.from_iterable(bags), dtype=np.int64, count=int(lengths.sum()))
        terms, columns = np.unique(flat, return_inverse=True)
        if len(bags) > 1 and len(pool) * max(len(terms), len(bags)) > DENSE_CELLS:
            half = len(bags) // 2
            return _stacked([self._multiply(part, pool, k) for part in (bags[:half], bags[half:])])
        self._row_of_term[terms] = np.arange(len(terms))
        entries, sizes = _slices(self.forward_starts, pool)
        rows = self._row_of_term[self.forward_terms[entries]]
        self._row_of_term[terms] = -1
        is_wanted = rows >= 0
        rows, weights, cells = rows[is_wanted], self.forward_weights[entries[is_wanted]], np.repeat(np.arange(len(pool)), sizes)[is_wanted]
        bag_cells = np.repeat(np.arange(len(bags)), lengths) * len(terms) + columns
        counts = np.bincount(bag_cells, minlength=len(bags) * len(terms)).reshape(len(bags), len(terms)).astype(np.float64)
        if len(bags) == 1:  # a table of all terms of one very long query would be mostly zeros
            scores = np.bincount(cells, weights=weights * counts[0, rows], minlength=len(pool)).astype(np.float64)[None, :]
        else:
            table = np.zeros((len(terms), len(pool)))
            table[rows, cells] = weights
            scores = counts @ table
        width = min(k or len(pool), len(pool))
        if width == 0:
            return np.full((len(bags), 0), -1, dtype=np.int64), np.zeros((len(bags), 0))
        best, best_scores = best_columns(scores, width)
        return np.where(best_scores > 0, pool[best], -1), best_scores

    def _walk(self, bags: Sequence[Sequence[int]], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        # One array of scores; from bag to bag only the terms that differ are taken off and put on, which is exact. Bags in the order
        # of their terms share prefixes: windows of one answer that start at the same segment follow each other. A bag's k-th score
        # is at least that of any part of it, so that few documents have to be looked at.
        rankings: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = [(np.zeros(0, dtype=np.int64), np.zeros(0))] * len(bags)
        is_candidate = np.ones(self.count, dtype=bool)
        if pool is not None:
            is_candidate[:] = False
            is_candidate[pool] = True
        scores = np.zeros(self.count)
        path: list[int] = []
        floors = [0.0]
        for position in sorted(range(len(bags)), key=lambda position: tuple(bags[position])):
            bag = bags[position]
            shared = 0
            for ours, theirs in zip(path, bag, strict=False):
                if ours != theirs:
                    break
                shared += 1
            # What left is taken off, unless it is less work to begin again.
            if sum(self._costs[term] for term in path[:shared]) < sum(self._costs[term] for term in path[shared:]):
                scores.fill(0.0)
                for term in path[:shared]:
                    self._add(scores, term)
            else:
                for term in path[shared:]:
                    self._take_off(scores, term)
            del path[shared:], floors[shared + 1 :]
            for term in bag[shared:]:
                self._add(scores, term)
                path.append(term)
                floors.append(max(floors[-1], self._kth_weight(term, k) if pool is None else 0.0))
            found = (scores >= floors[-1] if floors[-1] > 0 else scores).nonzero()[0]
            if pool is not None:
                found = found[is_candidate[found]]
            values = scores[found]
            if k and len(found) > 8 * k:
                is_high = values >= np.partition(values, len(values) - k)[len(values) - k]
                found, values = found[is_high], values[is_high]
            order = np.argsort(-values, kind="stable")[: k or None]
            rankings[position] = found[order], values[order]
            if k and len(order) == k:
                floors[-1] = float(values[order[-1]])
        width = max((len(found) for found, _ in rankings), default=0)
        documents, best = np.full((len(bags), width), -1, dtype=np.int64), np.zeros((len(bags), width))
        for row, (found, values) in enumerate(rankings):
            documents[row, : len(found)], best[row, : len(found)] = found, values
        return documents, best

    def _add(self, scores: NDArray[np.float64], term: int) -> None:
        row = self._dense_row(term)
        if row is None:
            entries = slice(self._starts[term], self._starts[term + 1])
            scores[self.documents[entries]] += self.weights[entries]
        else:
            scores += row

    def _take_off(self, scores: NDArray[np.float64], term: int) -> None:
        row = self._dense_row(term)
        if row is None:
            entries = slice(self._starts[term], self._starts[term + 1])
            scores[self.documents[entries]] -= self.weights[entries]
        else:
            scores -= row

    def _dense_row(self, term: int) -> NDArray[np.float64] | None:
        # Weights of a frequent term for all documents: added faster than its postings are scattered.
        if self._costs[term] < self.count // DENSE_SHARE:
            return None
        row = self._dense_rows.get(term)
        if row is None and (len(self._dense_rows) + 1) * self.count <= DENSE_CELLS * 4:
            entries = slice(self._starts[term], self._starts[term + 1])
            row = self._dense_rows[term] = np.zeros(self.count)
            row[self.documents[entries]] = self.weights[entries]
        return row

    def _kth_weight(self, term: int, k: int) -> float:
        first, last = self._starts[term], self._starts[term + 1]
        if not 0 < k <= last - first:
            return 0.0
        known = self._kth_weights.get((term, k))
        if known is None:
            known = float(np.partition(self.weights[first:last], last - first - k)[last - first - k])
            if len(self._kth_weights) < 1 << 20:
                self._kth_weights[term, k] = known
        return known


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


def _split(postings: Postings, parts: list[list[int]]) -> Postings:
    # Every posting becomes one per part of its term; those of the same part and document are added up.
    count = len(postings.lengths)
    starts = np.concatenate(([0], np.cumsum([len(found) for found in parts]))).astype(np.int64)
    chosen, sizes = _slices(starts, postings.terms)
    keys = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=int(starts[-1]))[chosen] * count + np.repeat(
        postings.documents, sizes
    )
    frequencies = np.repeat(postings.frequencies, sizes)
    order = np.argsort(keys, kind="stable")
    keys, frequencies = keys[order], frequencies[order]
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    terms, documents = np.divmod(keys[firsts], count)
    lengths = np.bincount(postings.documents, weights=postings.frequencies * sizes, minlength=count).astype(np.float64)
    return Postings(terms, documents, np.add.reduceat(frequencies, firsts), np.bincount(terms).astype(np.float64), lengths)


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

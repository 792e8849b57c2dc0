"""BM25 over an inverted index of flat arrays; many queries over one pool are one exact matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.params import Retrieval
from ospo_cli.retrievers.base import Catalogue, Ranking, candidates, require_words
from ospo_cli.text.words import words

# Every contribution is rounded to a multiple of 2**-30, so that sums (below 2**22) are exact in float64 in any order: a score does not
# depend on the order of the query's words, on batching or on the number of threads, and documents with equal words tie exactly.
UNIT = 2.0**-30
VERSION = "bm25-1"
# Score cells of one block; 2 MiB stays in the cache.
BLOCK_CELLS = 1 << 18
# Most cells of the table terms × documents that a batch of queries shares (16 MiB).
DENSE_CELLS = 1 << 21


class BM25:
    """Okapi BM25, Σ_t idf_t · tf/(tf + k1·(1 − b + b·words/mean words)), without the constant factor k1 + 1.

    Statistics are those of the whole catalogue, in pools too. idf is ln(1 + (N − n + .5)/(n + .5)) (lucene),
    ln((N − n + .5)/(n + .5)) where that is above 0, else 0 (robertson), or ln(N/n) (atire).
    `query_terms`: distinct counts a repeated query word once, counted as often as it occurs.
    A query may hold up to 100,000 words.

    Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); variants as in
    Kamphuis et al., "Which BM25 Do You Mean?" (2020).
    """

    name = "bm25"

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path) -> None:
        self.settings = settings
        self.documents = len(catalogue.doc_ids)
        self.fingerprint = catalogue.fingerprint(VERSION, settings.k1, settings.b, settings.idf, settings.query_terms)
        self.vocabulary: dict[str, int] = {}
        self.posting_starts, self.posting_documents, self.posting_weights = self._invert(catalogue.texts)
        terms = np.repeat(np.arange(len(self.vocabulary), dtype=np.int64), np.diff(self.posting_starts))
        by_document = np.argsort(self.posting_documents, kind="stable")
        self.forward_terms, self.forward_weights = terms[by_document], self.posting_weights[by_document]
        self.forward_starts = np.searchsorted(self.posting_documents[by_document], np.arange(self.documents + 1))
        self._row_of_term = np.full(len(self.vocabulary), -1, dtype=np.int64)
        self._cell_of_document = np.full(self.documents, -1, dtype=np.int64)
        self._bags: dict[str, tuple[int, ...]] = {}

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        results: list[Ranking | None] = [None] * len(queries)
        by_pool: dict[int, list[int]] = {}
        for position, pool in enumerate(pools):
            by_pool.setdefault(id(pool), []).append(position)
        for positions in by_pool.values():
            documents, scores = self.rank_coalitions([queries[position] for position in positions], pools[positions[0]], k)
            for position, row, row_scores in zip(positions, documents, scores, strict=True):
                count = int(np.count_nonzero(row >= 0))
                results[position] = Ranking(row[:count].copy(), row_scores[:count].copy())
        return [result for result in results if result is not None]

    def rank_coalitions(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        row_of_bag: dict[tuple[int, ...], int] = {}
        row_of_query = np.fromiter((row_of_bag.setdefault(self.bag(query), len(row_of_bag)) for query in queries), dtype=np.int64, count=len(queries))
        bags = list(row_of_bag)
        documents, scores = self._rank_bags(bags, pool, k)
        return documents[row_of_query], scores[row_of_query]

    def _rank_bags(self, bags: list[tuple[int, ...]], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        lengths = np.fromiter(map(len, bags), dtype=np.int64, count=len(bags))
        flat = np.fromiter((term for bag in bags for term in bag), dtype=np.int64, count=int(lengths.sum()))
        terms, columns = np.unique(flat, return_inverse=True)
        found, rows, cells, weights = self._postings(terms, pool)
        width = min(k, len(found)) if k else len(found)
        if len(bags) > 1 and len(found) * max(len(terms), len(bags) if not k else 0) > DENSE_CELLS:
            # Queries with little in common: a table of all their terms and documents would be mostly zeros.
            return _stacked([self._rank_bags(half, pool, k) for half in (bags[: len(bags) // 2], bags[len(bags) // 2 :])])
        counts = np.zeros((len(bags), len(terms)))
        np.add.at(counts, (np.repeat(np.arange(len(bags)), lengths), columns), 1.0)
        documents = np.full((len(bags), width), -1, dtype=np.int64)
        scores = np.zeros((len(bags), width))
        if width == 0:
            return documents, scores
        if len(bags) > 1:
            contributions = np.zeros((len(terms), len(found)))
            contributions[rows, cells] = weights
        block_rows = max(1, BLOCK_CELLS // len(found))
        for start in range(0, len(bags), block_rows):
            block = slice(start, start + block_rows)
            if len(bags) > 1:
                table = counts[block] @ contributions
            else:
                table = np.bincount(cells, weights=weights * counts[0, rows], minlength=len(found))[None, :]
            columns_best, scores[block] = _best_columns(table, width)
            documents[block] = np.where(scores[block] > 0, found[columns_best], -1)
        return documents, scores

    def bag(self, query: str) -> tuple[int, ...]:
        """Return the indices of the query's known terms, ascending; each once, or as often as it occurs (query_terms: counted)."""
        known = self._bags.get(query)
        if known is None:
            found = [self.vocabulary[word] for word in words(query) if word in self.vocabulary]
            known = tuple(sorted(set(found) if self.settings.query_terms == "distinct" else found))
            if len(self._bags) >= 1 << 18:
                self._bags.clear()
            self._bags[query] = known
        return known

    def _postings(
        self, terms: NDArray[np.int64], pool: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        # Documents (ascending) that hold any of the terms; then row (of terms), cell (of documents) and weight of each contribution.
        if pool is None:
            entries, lengths = _slices(self.posting_starts, terms)
            rows = np.repeat(np.arange(len(terms)), lengths)
            documents, weights = self.posting_documents[entries], self.posting_weights[entries]
        else:
            members = candidates(pool, self.documents)
            self._row_of_term[terms] = np.arange(len(terms))
            entries, lengths = _slices(self.forward_starts, members)
            rows = self._row_of_term[self.forward_terms[entries]]
            self._row_of_term[terms] = -1
            is_wanted = rows >= 0
            rows, weights = rows[is_wanted], self.forward_weights[entries[is_wanted]]
            documents = np.repeat(members, lengths)[is_wanted]
        self._cell_of_document[documents] = 0
        found = np.flatnonzero(self._cell_of_document == 0)
        self._cell_of_document[found] = np.arange(len(found))
        cells = self._cell_of_document[documents]
        self._cell_of_document[found] = -1
        return found, rows, cells, weights

    def _invert(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        vocabulary, flat, lengths = self.vocabulary, [], []
        for text in texts:
            found = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
            flat.extend(found)
            lengths.append(len(found))
        require_words(len(vocabulary))
        word_counts = np.array(lengths, dtype=np.int64)
        owner = np.repeat(np.arange(len(texts), dtype=np.int64), word_counts)
        keys, frequencies = np.unique(np.array(flat, dtype=np.int64) * len(texts) + owner, return_counts=True)
        terms, documents = np.divmod(keys, len(texts))
        weights = self._idf(np.bincount(terms, minlength=len(vocabulary)))[terms] * _saturation(
            frequencies.astype(np.float64), word_counts[documents] / word_counts.mean(), self.settings.k1, self.settings.b
        )
        starts = np.searchsorted(terms, np.arange(len(vocabulary) + 1))
        return starts, documents, np.rint(weights / UNIT) * UNIT

    def _idf(self, document_counts: NDArray[np.int64]) -> NDArray[np.float64]:
        total, counts = float(self.documents), document_counts.astype(np.float64)
        if self.settings.idf == "lucene":
            return np.asarray(np.log1p((total - counts + 0.5) / (counts + 0.5)))
        if self.settings.idf == "atire":
            return np.asarray(np.log(total / counts))
        return np.asarray(np.maximum(np.log((total - counts + 0.5) / (counts + 0.5)), 0.0))


def _saturation(frequencies: NDArray[np.float64], relative_lengths: NDArray[np.float64], k1: float, b: float) -> NDArray[np.float64]:
    return frequencies / (frequencies + k1 * (1.0 - b + b * relative_lengths))


def _slices(starts: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Indices of the entries of the chosen rows of a CSR array, row after row, and how many each row has.
    lengths = starts[chosen + 1] - starts[chosen]
    shift = np.repeat(starts[chosen] - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
    return np.arange(int(lengths.sum()), dtype=np.int64) + shift, lengths


def _stacked(parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    width = max(documents.shape[1] for documents, _ in parts)
    padded = [
        (np.pad(documents, ((0, 0), (0, width - documents.shape[1])), constant_values=-1), np.pad(scores, ((0, 0), (0, width - scores.shape[1]))))
        for documents, scores in parts
    ]
    return np.concatenate([documents for documents, _ in padded]), np.concatenate([scores for _, scores in padded])


def _best_columns(scores: NDArray[np.float64], width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # Score descending, then column ascending. Score and column make one integer, so that equal scores cannot be ordered by chance.
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

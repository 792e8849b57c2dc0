"""Latent semantic analysis: dense vectors without a download, searched with faiss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Ranking, best_first, candidates
from ospo_cli.retrievers.term_counts import Field, Postings, count_terms
from ospo_cli.text.words import reader, reading

DIMENSIONS = 96
OVERSAMPLING = 16
POWER_ITERATIONS = 3
SEED = 0
WEIGHT_UNIT = 2.0**-30
# Entries of unit vectors are rounded to multiples of 2**-11: an inner product is then a sum of multiples of 2**-22 below 2, exact in
# float32, so that faiss, BLAS and NumPy agree to the last bit whatever the batch, and equal documents tie exactly.
UNIT = 2.0**-11


class LatentSemantic:
    """Cosine of TF-IDF vectors projected on the catalogue's first 96 right singular vectors (randomised SVD, fixed seed).

    tf is 1 + ln(count), idf is ln(N/n) + 1. Each distinct query word counts once unless `query_terms` is counted.

    Source: Deerwester et al., "Indexing by latent semantic analysis" (1990); Halko, Martinsson & Tropp, "Finding structure with
    randomness" (2011), algorithm 4.4.
    """

    name = "lsa"
    kept_from = 0
    reads_words_alone = True

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        self.settings = settings
        self.words = reader(settings.folding)
        used = (DIMENSIONS, OVERSAMPLING, POWER_ITERATIONS, SEED, settings.query_terms, reading(settings.folding))
        self.fingerprint = catalogue.fingerprint("lsa-2", *used)
        postings, self.vocabulary = count_terms([Field(map(self.words, catalogue.texts))])
        self.count = len(postings.lengths)
        self.term_vectors, projected = _project(_TermDocuments.of(postings, self._weigh(postings), len(self.vocabulary)))
        self.document_vectors = _rounded(projected)
        self._faiss: Any = None

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        vectors = (
            np.stack([self._vector(query) for query in queries]) if queries else np.zeros((0, self.document_vectors.shape[1]), np.float32)
        )
        whole = [position for position, pool in enumerate(pools) if pool is None and 0 < k < self.count]
        results = dict(zip(whole, self._search(vectors[whole], k), strict=True)) if whole else {}
        for position, pool in enumerate(pools):
            if position not in results:
                members = candidates(pool, self.count)
                scores = (self.document_vectors[members] @ vectors[position]).astype(np.float64)
                results[position] = best_first(members, scores, k)
        return [results[position] for position in range(len(queries))]

    def _search(self, vectors: NDArray[np.float32], k: int) -> list[Ranking]:
        if self._faiss is None:
            import faiss

            self._faiss = faiss.IndexFlatIP(self.document_vectors.shape[1])
            self._faiss.add(self.document_vectors)
        scores, documents = self._faiss.search(np.ascontiguousarray(vectors), min(2 * k + 8, self.count))
        rankings = []
        for row, (row_scores, row_documents) in enumerate(zip(scores, documents, strict=True)):
            if row_scores[k - 1] == row_scores[-1] and row_scores[-1] > 0 and len(row_scores) < self.count:
                # The last place may tie with documents that faiss left out.
                row_documents = np.arange(self.count)
                row_scores = self.document_vectors @ vectors[row]
            rankings.append(best_first(row_documents.astype(np.int64), row_scores.astype(np.float64), k))
        return rankings

    def _vector(self, query: str) -> NDArray[np.float32]:
        found = [self.vocabulary[word] for word in self.words(query) if word in self.vocabulary]
        bag = list(dict.fromkeys(found)) if self.settings.query_terms == "distinct" else found
        terms, counts = np.unique(np.array(bag, dtype=np.int64), return_counts=True)
        weights = (1.0 + np.log(counts)) * self.idf[terms]
        # Row after row, so that the sum has one order whatever the query's words stood like.
        total = np.add.reduce(weights[:, None] * self.term_vectors[terms], axis=0)
        return np.asarray(_rounded(total[None, :])[0])

    def _weigh(self, postings: Postings) -> NDArray[np.float64]:
        self.idf = np.log(len(postings.lengths) / postings.document_counts) + 1.0
        weights = (1.0 + np.log(postings.frequencies)) * self.idf[postings.terms]
        norms = np.sqrt(np.bincount(postings.documents, weights=weights**2, minlength=len(postings.lengths)))
        return np.asarray(weights / norms[postings.documents])


@dataclass(frozen=True)
class _TermDocuments:
    """The matrix of weights, by term and by document, in the order of the other."""

    starts: NDArray[np.int64]
    documents: NDArray[np.int64]
    weights: NDArray[np.float64]
    forward_starts: NDArray[np.int64]
    forward_terms: NDArray[np.int64]
    forward_weights: NDArray[np.float64]

    @classmethod
    def of(cls, postings: Postings, weights: NDArray[np.float64], terms: int) -> _TermDocuments:
        weights = np.rint(weights / WEIGHT_UNIT) * WEIGHT_UNIT
        by_term = np.argsort(postings.terms, kind="stable")
        return cls(
            np.concatenate(([0], np.cumsum(np.bincount(postings.terms, minlength=terms)))),
            postings.documents[by_term],
            weights[by_term],
            np.concatenate(([0], np.cumsum(np.bincount(postings.documents, minlength=len(postings.lengths))))),
            postings.terms,
            weights,
        )


def _project(index: _TermDocuments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Right singular vectors float64[terms, dimensions] of the documents × terms matrix A, and A times them.
    terms, documents = len(index.starts) - 1, len(index.forward_starts) - 1
    rank = min(DIMENSIONS + OVERSAMPLING, terms, documents)
    basis = np.random.Generator(np.random.PCG64(SEED)).standard_normal((terms, rank))
    basis, _ = np.linalg.qr(_times(index.forward_starts, index.forward_terms, index.forward_weights, basis))
    for _ in range(POWER_ITERATIONS):
        basis, _ = np.linalg.qr(_times(index.starts, index.documents, index.weights, basis))
        basis, _ = np.linalg.qr(_times(index.forward_starts, index.forward_terms, index.forward_weights, basis))
    small = _times(index.starts, index.documents, index.weights, basis)
    right, _, _ = np.linalg.svd(small, full_matrices=False)
    right = right[:, : min(DIMENSIONS, rank)]
    # The sign of a singular vector is free: its largest entry is made positive.
    right = right * np.sign(right[np.abs(right).argmax(axis=0), np.arange(right.shape[1])])
    return right, _times(index.forward_starts, index.forward_terms, index.forward_weights, right)


def _times(
    starts: NDArray[np.int64], columns: NDArray[np.int64], weights: NDArray[np.float64], dense: NDArray[np.float64]
) -> NDArray[np.float64]:
    # A CSR matrix times a dense one, some rows at a time: the products of all entries at once would not fit in memory.
    product = np.zeros((len(starts) - 1, dense.shape[1]))
    row = 0
    while row < len(product):
        last = max(row + 1, int(np.searchsorted(starts, starts[row] + (1 << 16), side="right")) - 1)
        entries = slice(starts[row], starts[last])
        is_filled = np.diff(starts[row : last + 1]) > 0
        if is_filled.any():
            parts = weights[entries, None] * dense[columns[entries]]
            product[row:last][is_filled] = np.add.reduceat(parts, (starts[row:last] - starts[row])[is_filled], axis=0)
        row = last
    return product


def _rounded(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    # Unit length, then rounded; a vector of zeros (no known word) stays one and retrieves nothing.
    norms = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-12)
    return np.ascontiguousarray((np.rint(unit / UNIT) * UNIT).astype(np.float32))

"""TF-IDF over character n-grams: a retriever that forgives spelling, and that a policy trained on BM25 never saw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Ranking
from ospo_cli.retrievers.lexical.inverted_index import InvertedIndex, index_folder
from ospo_cli.retrievers.term_counts import Field, Postings
from ospo_cli.text.words import reader, reading

SIZES = (3, 4)


class CharacterTfidf:
    """Cosine of TF-IDF vectors over the 3- and 4-grams of each word with a space at both ends, but for the query's norm.

    tf is 1 + ln(count) in documents; idf is ln(N/n) + 1. A query's n-grams count as often as they occur in its distinct words
    (`query_terms: distinct`) or in all of them; k1, b and idf of the parameters are BM25's and do nothing here.

    Source: Salton & Buckley, "Term-weighting approaches in automatic text retrieval" (1988).
    """

    name = "tfidf-char"
    kept_from = 1000
    reads_words_alone = True

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        self.is_distinct = settings.query_terms == "distinct"
        self.words = reader(settings.folding)
        self.fingerprint = catalogue.fingerprint("tfidf-char-3", SIZES, settings.query_terms, reading(settings.folding))
        # A query's n-grams count as often as they occur; what `distinct` leaves out are words.
        self.index = InvertedIndex(
            lambda: [Field(map(self.words, catalogue.texts))],
            _weigh,
            split=_grams,
            is_distinct=False,
            folder=index_folder(cache, self.fingerprint),
            fingerprint=self.fingerprint,
        )

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        return self.index.rank([self._bag(query) for query in queries], pools, k)

    def rank_queries(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        return self.index.rank_bags([self._bag(query) for query in queries], pool, k)

    def _bag(self, query: str) -> NDArray[np.int32]:
        found = self.words(query)
        chosen = dict.fromkeys(found) if self.is_distinct else found
        return self.index.bag(gram for word in chosen for gram in _grams(word))


@lru_cache(maxsize=1 << 16)
def _grams(word: str) -> tuple[str, ...]:
    padded = f" {word} "
    return tuple(padded[start : start + size] for size in SIZES for start in range(len(padded) - size + 1))


def _weigh(postings: Postings) -> NDArray[np.float64]:
    # The query's side of the product (count · idf) is folded in, so that a score is a plain sum over the query's n-grams. The scale
    # 1 / idf(once) keeps weights below 1 and changes no order.
    idf = (np.log(len(postings.lengths) / postings.document_counts) + 1.0) / (np.log(len(postings.lengths)) + 1.0)
    weights = (1.0 + np.log(postings.frequencies)) * idf[postings.terms]
    norms = np.sqrt(np.bincount(postings.documents, weights=weights**2, minlength=len(postings.lengths)))
    return np.asarray(weights * idf[postings.terms] / norms[postings.documents])

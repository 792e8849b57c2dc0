"""The package bm25s behind the protocol: sparse float32 scores, for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError, of_extra
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import NOTHING, Catalogue, Ranking, best_first, candidates, require_words
from ospo_cli.text.words import reader, reading


class BM25S:
    """`bm25s.BM25` with k1, b and idf (as its `method`) of the parameters; float32 scores."""

    name = "bm25s"
    kept_from = 0
    reads_words_alone = True

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        try:
            import bm25s
        except ModuleNotFoundError:
            raise RetrievalError(
                "retriever bm25s",
                "its package is not installed",
                remedy=f"{of_extra('bm25s')}, or take bm25, which scores alike",
            ) from None
        self.settings = settings
        self.words = reader(settings.folding)
        used = (settings.k1, settings.b, settings.idf, settings.query_terms, reading(settings.folding))
        self.fingerprint = catalogue.fingerprint("bm25s-1", *used)
        self.count = len(catalogue.doc_ids)
        corpus = [self.words(text) for text in catalogue.texts]
        self.known = {word for text in corpus for word in text}
        require_words(len(self.known))
        self.engine = bm25s.BM25(method=settings.idf, k1=settings.k1, b=settings.b)
        self.engine.index(corpus, show_progress=False)

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        return [self._rank(query, pool, k) for query, pool in zip(queries, pools, strict=True)]

    def _rank(self, query: str, pool: NDArray[np.int64] | None, k: int) -> Ranking:
        # Known words only (it fails on a query without any), sorted: its sums of floats would depend on the order of the words.
        found = sorted(word for word in self.words(query) if word in self.known)
        terms = sorted(set(found)) if self.settings.query_terms == "distinct" else found
        members = candidates(pool, self.count)
        if not terms or not len(members):
            return NOTHING
        return best_first(members, np.asarray(self.engine.get_scores(terms), dtype=np.float64)[members], k)

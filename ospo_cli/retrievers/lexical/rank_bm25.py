"""The package rank-bm25 behind the protocol: slow, well known, for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import NOTHING, Catalogue, Ranking, best_first, candidates, require_words
from ospo_cli.text.words import reader, reading


class RankBM25:
    """`rank_bm25.BM25Okapi` with k1 and b of the parameters.

    Its idf is its own (robertson, where a word in more than half of the documents gets a quarter of the mean idf): `retrieval.idf`
    does nothing here.
    """

    name = "rank-bm25"
    kept_from = 0
    reads_words_alone = True

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        from rank_bm25 import BM25Okapi

        if settings.k1 == 0:
            raise ParameterError(
                "retrieval.k1", "rank-bm25 divides by zero", found=settings.k1, expected="above 0", remedy="take the retriever bm25"
            )
        self.settings = settings
        self.words = reader(settings.folding)
        self.fingerprint = catalogue.fingerprint("rank-bm25-1", settings.k1, settings.b, settings.query_terms, reading(settings.folding))
        self.count = len(catalogue.doc_ids)
        corpus = [self.words(text) for text in catalogue.texts]
        require_words(sum(map(len, corpus)))  # it divides by the mean length
        self.engine = BM25Okapi(corpus, k1=settings.k1, b=settings.b)

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        return [self._rank(query, pool, k) for query, pool in zip(queries, pools, strict=True)]

    def _rank(self, query: str, pool: NDArray[np.int64] | None, k: int) -> Ranking:
        # Sorted: its sums of floats would depend on the order of the words.
        found = sorted(self.words(query))
        terms = sorted(set(found)) if self.settings.query_terms == "distinct" else found
        members = candidates(pool, self.count)
        if not terms or not len(members):
            return NOTHING
        scores = self.engine.get_scores(terms) if pool is None else np.array(self.engine.get_batch_scores(terms, members.tolist()))
        return best_first(members, np.asarray(scores, dtype=np.float64), k)

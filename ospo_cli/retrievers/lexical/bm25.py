"""BM25: the lexical search engine of most shops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue, Coalitions, Ranking
from ospo_cli.retrievers.lexical.inverted_index import InvertedIndex, index_folder
from ospo_cli.retrievers.term_counts import Field, Postings
from ospo_cli.text.words import reader, reading


class BM25:
    """Okapi BM25, Σ_t idf_t · tf/(tf + k1·(1 − b + b·words/mean words)), without the constant factor k1 + 1.

    Statistics are those of the whole catalogue, in pools too. idf is ln(1 + (N − n + .5)/(n + .5)) (lucene),
    ln((N − n + .5)/(n + .5)) where that is above 0, else 0 (robertson), or ln(N/n) (atire).
    Weighted fields (`title^2`): tf and words are sums over fields, each occurrence as often as its field's weight says (BM25F as of 2004).
    `query_terms`: distinct counts a repeated query word once, counted as often as it occurs.

    Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); variants as in
    Kamphuis et al., "Which BM25 Do You Mean?" (2020); fields as in Robertson, Zaragoza & Taylor, "Simple BM25 extension to multiple
    weighted fields" (2004).
    """

    name = "bm25"
    weighs_fields = True
    kept_from = 100_000
    reads_words_alone = True

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        self.settings = settings
        self.words = reader(settings.folding)
        used = (settings.k1, settings.b, settings.idf, settings.query_terms, reading(settings.folding))
        self.fingerprint = catalogue.fingerprint("bm25-3", *used)
        self.index = InvertedIndex(
            lambda: [Field(map(self.words, texts), weight) for weight, texts in catalogue.weighted or ((1.0, catalogue.texts),)],
            self._weigh,
            is_distinct=settings.query_terms == "distinct",
            folder=index_folder(cache, self.fingerprint),
            fingerprint=self.fingerprint,
        )

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        return self.index.rank([self._bag(query) for query in queries], pools, k)

    def rank_queries(self, queries: Sequence[str], pool: NDArray[np.int64] | None, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents int64[queries, ranks] (−1 where nothing more is retrieved) and scores float64[queries, ranks] (0 there)."""
        return self.index.rank_bags([self._bag(query) for query in queries], pool, k)

    def rank_coalitions(self, answers: Sequence[Coalitions], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return documents and scores as `rank_queries` does, the coalitions of all answers one below the other."""
        return self.index.rank_coalitions(answers, self._bag, k)

    def _bag(self, query: str) -> NDArray[np.int32]:
        return self.index.bag(self.words(query))

    def _weigh(self, postings: Postings) -> NDArray[np.float64]:
        total, counts = len(postings.lengths), postings.document_counts
        if self.settings.idf == "lucene":
            idf = np.log1p((total - counts + 0.5) / (counts + 0.5))
        elif self.settings.idf == "atire":
            idf = np.log(total / counts)
        else:
            idf = np.maximum(np.log((total - counts + 0.5) / (counts + 0.5)), 0.0)
        k1, b, frequencies = self.settings.k1, self.settings.b, postings.frequencies
        relative_lengths = postings.lengths[postings.documents] / postings.lengths.mean()
        return np.asarray(idf[postings.terms] * frequencies / (frequencies + k1 * (1.0 - b + b * relative_lengths)))

"""Several retrievers, one ranking: reciprocal rank fusion, or weighted sums of scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import PreparingRetriever, Ranking, Retriever, best_first


class Hybrid:
    """Fuses the rankings of two or more named retrievers; a document is retrieved if one of them retrieves it.

    rrf: Σ_i w_i / (rrf_k + rank_i), rank from 1, 0 where retriever i does not retrieve the document.
    weighted: Σ_i w_i · n_i, where n_i is the score brought to 0 to 1 within this query's ranking of retriever i:
    (score − lowest)/(highest − lowest), 1 where all are equal. The lowest document retrieved would be worth 0 and not retrieved:
    n_i is that, times .999, plus .001; a document that i does not retrieve has n_i = 0.

    Sums run over the retrievers in their declared order, so that equal ranks and scores tie exactly. Each ranking is read to `depth`.

    Args:
        others: what may be fused: how each retriever is opened, by its name.
        settings: section retrieval.

    Source: Cormack, Clarke & Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods" (2009).
    """

    name = "hybrid"
    # Ranks and spans of scores are those within the candidates: a product has another score in another pool.
    scores_hang_on_pool = True

    fuses = True

    def __init__(self, others: Mapping[str, Callable[[], Retriever]], settings: Retrieval) -> None:
        self.settings = settings.hybrid
        names, weights = self.settings.retrievers, self.settings.weights
        where = "retrieval.hybrid.retrievers"
        unknown = [name for name in names if name not in others]
        if unknown:
            raise ParameterError(where, "cannot be fused", found=unknown[0], expected=", ".join(others))
        if len(names) < 2 or len(set(names)) < len(names):
            raise ParameterError(where, "needs two or more, none twice", found=", ".join(names) or "none")
        if weights and len(weights) != len(names):
            raise ParameterError("retrieval.hybrid.weights", "one per retriever", found=len(weights), expected=len(names))
        if weights and not any(weights):
            raise ParameterError("retrieval.hybrid.weights", "nothing weighs anything", found=weights, expected="one above 0")
        self.weights = weights or [1.0] * len(names)
        self.parts: list[Retriever] = [others[name]() for name in names]
        used = (self.settings.fusion, self.weights, self.settings.rrf_k if self.settings.fusion == "rrf" else None, self.settings.depth)
        prints = [part.fingerprint for part in self.parts]
        self.fingerprint = hashlib.sha256(repr(("hybrid-1", names, prints, used)).encode()).hexdigest()

    def prepare(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> None:
        """Let the parts work ahead."""
        for part in self.parts:
            if isinstance(part, PreparingRetriever):
                part.prepare(queries, pools, self.settings.depth)

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all."""
        found = [part.rank(queries, pools, self.settings.depth) for part in self.parts]
        return [self._fused([rankings[place] for rankings in found], k) for place in range(len(queries))]

    def _fused(self, rankings: list[Ranking], k: int) -> Ranking:
        documents = np.unique(np.concatenate([ranking.documents for ranking in rankings]))
        scores = np.zeros(len(documents))
        for weight, ranking in zip(self.weights, rankings, strict=True):
            places = np.searchsorted(documents, ranking.documents)
            scores[places] += weight * self._contribution(ranking)
        return best_first(documents, scores, k)

    def _contribution(self, ranking: Ranking) -> NDArray[np.float64]:
        if self.settings.fusion == "rrf":
            return 1.0 / (self.settings.rrf_k + np.arange(1, len(ranking.documents) + 1, dtype=np.float64))
        if not len(ranking.scores):
            return np.zeros(0)
        lowest, highest = ranking.scores.min(), ranking.scores.max()
        if highest == lowest:
            return np.ones(len(ranking.scores))
        return np.asarray(0.001 + 0.999 * (ranking.scores - lowest) / (highest - lowest))

"""What a search engine gains without training: RM3 and Bo1 feedback over BM25."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.query_feedback import bose_einstein, relevance_model
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import NOTHING, Catalogue, Ranking, best_first
from ospo_cli.rewards.judged_reward import JudgedReward

TERMS = 10
RM3_DOCUMENTS, BO1_DOCUMENTS = 10, 3
RM3_ORIGINAL = 0.5  # weight of the query beside the relevance model


class Expanded(NamedTuple):
    """A weighted query (word -> weight, above 0) and its ranking."""

    words: dict[str, float]
    ranking: Ranking

    @property
    def text(self) -> str:
        """The query as Lucene writes it."""
        return " ".join(f"{word}^{weight:.3g}" for word, weight in self.words.items())


class Feedback:
    """Expands queries by words of what they retrieve among their prompt's candidates; statistics are the whole catalogue's.

    RM3: .5 · the query's words (each 1/n) + .5 · the relevance model of the first 10 documents, 10 terms. Bo1: each word of the query 1,
    plus the weight of 10 terms of the first 3 documents. A document's score is the sum over the words, weight times its score for the
    word alone, which is what BM25 is. A query that retrieves nothing stays as it is.

    Source: Abdul-Jaleel et al., "UMass at TREC 2004: novelty and HARD" (RM3); Amati (2003; Bo1). The numbers are the usual defaults of
    Anserini and Terrier.

    Args:
        reward: of retriever bm25.
        documents: table documents.
        settings: section retrieval.
    """

    def __init__(self, reward: JudgedReward, documents: pl.DataFrame, settings: Retrieval) -> None:
        self.reward = reward
        fields = [field.partition("^")[0] for field in settings.fields]
        self._bags = [Counter(reward.words(text)) for text in Catalogue.from_documents(documents, fields).texts]
        self._frequencies: Counter[str] = Counter()
        for bag in self._bags:
            self._frequencies.update(bag)

    def expanded(self, prompt_ids: Sequence[str], queries: Sequence[str]) -> dict[str, list[Expanded]]:
        """Return each query with RM3 and with Bo1."""
        first = self.reward.rankings(prompt_ids, queries, RM3_DOCUMENTS)
        words = [dict.fromkeys(self.reward.words(query)) for query in queries]
        found = zip(prompt_ids, words, first, strict=True)
        pairs = [(self._rm3(own, ranking), self._bo1(own, ranking), prompt_id) for prompt_id, own, ranking in found]
        return {
            "RM3 feedback": [self._ranked(prompt_id, weights) for weights, _, prompt_id in pairs],
            "Bo1 feedback": [self._ranked(prompt_id, weights) for _, weights, prompt_id in pairs],
        }

    def _rm3(self, query: dict[str, None], ranking: Ranking) -> dict[str, float]:
        if not len(ranking.documents):
            return dict.fromkeys(query, 1.0)
        vocabulary, counts = self._counts(ranking.documents)
        lengths = np.array([self._bags[index].total() for index in ranking.documents.tolist()])
        model = relevance_model(counts, lengths, ranking.scores, TERMS)
        return _sum(dict.fromkeys(query, RM3_ORIGINAL / len(query)), vocabulary, (1 - RM3_ORIGINAL) * model)

    def _bo1(self, query: dict[str, None], ranking: Ranking) -> dict[str, float]:
        if not len(ranking.documents):
            return dict.fromkeys(query, 1.0)
        vocabulary, counts = self._counts(ranking.documents[:BO1_DOCUMENTS])
        frequencies = np.array([self._frequencies[word] for word in vocabulary])
        return _sum(dict.fromkeys(query, 1.0), vocabulary, bose_einstein(counts, frequencies, len(self._bags), TERMS))

    def _counts(self, documents: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
        bags = [self._bags[index] for index in documents.tolist()]
        vocabulary = sorted(set().union(*bags))
        return vocabulary, np.array([[bag[word] for word in vocabulary] for bag in bags])

    def _ranked(self, prompt_id: str, weights: dict[str, float]) -> Expanded:
        alone = self.reward.rankings([prompt_id] * len(weights), list(weights), 0)
        scores: dict[int, float] = {}
        for ranking, weight in zip(alone, weights.values(), strict=True):
            for document, score in zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True):
                scores[document] = scores.get(document, 0.0) + weight * score
        if not scores:
            return Expanded(weights, NOTHING)
        return Expanded(weights, best_first(np.array(list(scores)), np.array(list(scores.values())), 0))


def _sum(query: dict[str, float], vocabulary: Sequence[str], added: NDArray[np.float64]) -> dict[str, float]:
    total = dict(query)
    for place in np.flatnonzero(added > 0).tolist():
        total[vocabulary[place]] = total.get(vocabulary[place], 0.0) + float(added[place])
    return total

"""The oracle: greedy single-word edits of the raw query, made with the judgments in hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.retrievers.base import Catalogue, TellingRetriever
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.text.composition import compose
from ospo_cli.text.word_edits import greedy_edits

if TYPE_CHECKING:
    from ospo_cli.params.evaluate import Evaluate
    from ospo_cli.params.retrieval import Retrieval


class Sections(Protocol):
    """What the oracle reads of the parameters."""

    @property
    def evaluate(self) -> Evaluate: ...
    @property
    def retrieval(self) -> Retrieval: ...


class OracleSearch:
    """Adds words of relevant products or drops words, as long as the reward's metric rises; a lower bound of the best query.

    Under `composition: replace` it starts from the raw query's words, under `append` from nothing behind the raw query. Where the
    retriever can tell what a text has to say, that text counts if it is worth more.

    Args:
        reward: scores the queries.
        documents: table documents.
        params: sections evaluate (oracle_edits, oracle_words) and retrieval (fields).
    """

    def __init__(self, reward: JudgedReward, documents: pl.DataFrame, params: Sections) -> None:
        self.reward, self.documents, self.params = reward, documents, params

    def queries(self, prompts: pl.DataFrame) -> list[str]:
        """Return the oracle's query for each row of prompts (prompt_id, query)."""
        ids, raw = prompts["prompt_id"].to_list(), prompts["query"].to_list()
        composition = self.reward.composition
        starts = [query.split() if composition == "replace" else [] for query in raw]

        def composed(index: int, chosen: Iterable[str]) -> str:
            return compose(raw[index], " ".join(chosen), composition)

        def score(indices: list[int], texts: list[tuple[str, ...]]) -> NDArray[np.float64]:
            return self.reward.values([ids[index] for index in indices], [composed(*pair) for pair in zip(indices, texts, strict=True)])

        found = greedy_edits(starts, [self.candidates(prompt_id) for prompt_id in ids], score, self.params.evaluate.oracle_edits)
        if not isinstance(self.reward.retriever, TellingRetriever):
            return [composed(index, best.words) for index, best in enumerate(found)]
        told: list[tuple[str, ...]] = [(self.reward.retriever.tell(self.reward.judged(prompt_id)[0]),) for prompt_id in ids]
        values = score(list(range(len(ids))), told)
        pairs = zip(found, told, values, strict=True)
        return [composed(index, text if value > best.value else best.words) for index, (best, text, value) in enumerate(pairs)]

    def candidates(self, prompt_id: str) -> list[str]:
        """Return words of the relevant products, first those that many of them hold and few others; at most evaluate.oracle_words."""
        weights: Counter[str] = Counter()
        for index, gain in zip(*self.reward.judged(prompt_id), strict=True):
            for word in self._document_words[index]:
                weights[word] += gain
        total = len(self._document_words)
        ranked = sorted(weights, key=lambda word: (-weights[word] * math.log(1 + total / self._document_counts[word]), word))
        return ranked[: self.params.evaluate.oracle_words]

    @property
    def knows_words(self) -> bool:
        """Whether the catalogue's words have been read."""
        return "_document_counts" in vars(self)

    def read_words(self) -> None:
        """Read the words of the whole catalogue, which the first candidates need."""
        self._document_counts  # noqa: B018

    @cached_property
    def _document_words(self) -> list[set[str]]:
        return [set(self.reward.words(text)) for text in Catalogue.from_documents(self.documents, self.params.retrieval.fields).texts]

    @cached_property
    def _document_counts(self) -> Counter[str]:
        return Counter(word for found in self._document_words for word in found)

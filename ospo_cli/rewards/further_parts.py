"""Parts of the reward besides the metric: further metrics of the same ranking, and a user's own function."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.maths.ranking import parse_metric
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.rewards.judged_reward import JudgedReward

OWN = "own."
_ENDS = re.compile(r"^[\W_]+|[\W_]+$")


class FurtherParts:
    """Measures texts by the parts that score_coalitions names besides metric, length and repetition; each distinct text once.

    A query without a word earns 0 in every part, as it does in the metric.

    Args:
        reward: ranks the queries; holds the user's function, where there is one.
        settings: section score_coalitions.
    """

    def __init__(self, reward: JudgedReward, settings: ScoreCoalitions) -> None:
        self.reward, self.settings, self.own = reward, settings, reward.own_reward
        if settings.own_reward and self.own is None:
            raise ParameterError("score_coalitions.own_reward", "was not loaded", found=settings.own_reward)
        metrics = {parse_metric(name).name: weight for name, weight in settings.further_metrics.items()}
        if len(metrics) < len(settings.further_metrics) or reward.metric.name in metrics:
            raise ParameterError(
                "score_coalitions.further_metrics",
                "names a metric twice, or the metric itself",
                found=", ".join(settings.further_metrics),
                expected=f"each once, and not {reward.metric.name}",
            )
        self.metrics = tuple(metrics)
        self.weights = metrics | {f"{OWN}{name}": settings.own_weights[name] for name in (self.own.parts if self.own else ())}
        self._known: dict[tuple[str, str, str], tuple[float, ...]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts, which are columns of tables rewards and coalition_values."""
        return tuple(self.weights)

    def measure(self, prompt_ids: Sequence[str], queries: Sequence[str], texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return each part of each text, unweighted; `queries` is what the retriever is given for it."""
        if not self.weights:
            return {}
        # Separators at an answer's ends belong to no segment: a function that sees them would find v(N) and the reward to differ.
        named = zip(prompt_ids, queries, texts, strict=True)
        triples = [(prompt_id, query, _ENDS.sub("", text)) for prompt_id, query, text in named]
        new = [triple for triple in dict.fromkeys(triples) if triple not in self._known]
        if new:
            self._known.update(zip(new, self._measured(new), strict=True))
        values = np.array([self._known[triple] for triple in triples], dtype=np.float64).reshape(len(triples), len(self.weights))
        return {name: values[:, column] for column, name in enumerate(self.weights)}

    def weighted(self, parts: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | float:
        """Return the weighted sum of the parts; 0 where there are none."""
        total: NDArray[np.float64] | float = 0.0
        for name, values in parts.items():
            total = total + self.weights[name] * values
        return total

    def _measured(self, triples: list[tuple[str, str, str]]) -> list[tuple[float, ...]]:
        prompt_ids, queries = [prompt_id for prompt_id, _, _ in triples], [query for _, query, _ in triples]
        found = self.reward.measures(prompt_ids, queries, self.metrics) if self.metrics else {}
        of_metrics = np.stack([found[name] for name in self.metrics], axis=1).tolist() if found else [[]] * len(triples)
        if self.own is None:
            return [tuple(row) for row in of_metrics]
        rankings = self._rankings(prompt_ids, queries)
        if not self._known:
            self._check_repeats(triples, rankings)
        nothing = (0.0,) * len(self.own.parts)
        return [
            (*row, *(self.own.measure(text, prompt_id, ranking) if self.reward.words(query) else nothing))
            for row, (prompt_id, query, text), ranking in zip(of_metrics, triples, rankings, strict=True)
        ]

    def _rankings(self, prompt_ids: list[str], queries: list[str]) -> list[list[tuple[str, float]]]:
        if not self.settings.own_ranks:
            return [[] for _ in queries]
        doc_ids = self.reward.doc_ids
        return [
            [(doc_ids[document], score) for document, score in zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True)]
            for ranking in self.reward.rankings(prompt_ids, queries, self.settings.own_ranks)
        ]

    def _check_repeats(self, triples: list[tuple[str, str, str]], rankings: list[list[tuple[str, float]]]) -> None:
        """Call the function twice with the first text: a reward that draws lots cannot be shared out."""
        own = self.own
        for (prompt_id, query, text), ranking in zip(triples, rankings, strict=True):
            if self.reward.words(query) and own is not None:
                first, second = (own.measure(text, prompt_id, ranking) for _ in range(2))
                if first != second:
                    raise CreditError(
                        f"own_reward {own.name}, prompt {prompt_id}, text {text[:60]!r}",
                        "gives another value for the same text",
                        found=f"{first} and {second}",
                        expected="a function of text, prompt and ranking alone",
                    )
                return

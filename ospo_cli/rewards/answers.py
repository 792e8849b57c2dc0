"""Rewards of whole answers, and of any text: the weighted sum of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths.advantages import DEGENERATE_STD
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.rewards.further_parts import FurtherParts
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables.score_coalitions import REWARDS


@dataclass(frozen=True)
class Parts:
    """Reward parts that a text can earn or lose, float64[texts] each, unweighted; `value` is their weighted sum."""

    retrieval: NDArray[np.float64]
    length: NDArray[np.float64]
    repetition: NDArray[np.float64]
    value: NDArray[np.float64]
    further: dict[str, NDArray[np.float64]]


class TextScorer:
    """Scores texts, each distinct (prompt, query) and each distinct text once, whole answers and coalitions together.

    Under `calls: one-by-one` each text is a call of its own, and nothing is kept: a cost, not another result.
    """

    def __init__(self, reward: JudgedReward, settings: ScoreCoalitions) -> None:
        self.reward, self.settings = reward, settings
        self.further = FurtherParts(reward, settings)
        self._known: dict[tuple[str, str], float] = {}
        self._calls = 0
        self._word_parts: dict[str, tuple[float, float]] = {"": (0.0, 0.0)}

    @property
    def ranked(self) -> int:
        """Number of (prompt, query) pairs ranked so far: the distinct ones, or under `calls: one-by-one` all."""
        return len(self._known) + self._calls

    def parts(
        self,
        prompt_ids: Sequence[str],
        queries: Sequence[str],
        texts: Sequence[str],
        known: NDArray[np.float64] | None = None,
        is_plain: NDArray[np.bool_] | None = None,
    ) -> Parts:
        """Return the parts of each text.

        Args:
            prompt_ids: of the texts.
            queries: what the retriever is given for each.
            texts: their own words.
            known: the metric where it is no NaN; the others are ranked.
            is_plain: texts that are known to have no word too many and none twice.
        """
        retrieval = np.full(len(texts), np.nan) if known is None else known
        if rows := np.flatnonzero(np.isnan(retrieval)).tolist():
            retrieval[rows] = self._retrieval([(prompt_ids[row], queries[row]) for row in rows])
        by_words = np.zeros((len(texts), 2))
        for row in range(len(texts)) if is_plain is None else np.flatnonzero(~is_plain).tolist():
            by_words[row] = self._of_words(texts[row])
        length, repetition = by_words[:, 0], by_words[:, 1]
        settings = self.settings
        value = settings.retrieval_weight * retrieval + settings.length_weight * length + settings.repetition_weight * repetition
        further = self.further.measure(prompt_ids, queries, texts)
        return Parts(retrieval, length, repetition, value + self.further.weighted(further), further)

    def _retrieval(self, pairs: list[tuple[str, str]]) -> NDArray[np.float64]:
        if self.settings.calls == "one-by-one":
            self._calls += len(pairs)
            return np.array([self.reward.values([prompt_id], [query])[0] for prompt_id, query in pairs], dtype=np.float64)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            found = self.reward.values([prompt_id for prompt_id, _ in new], [query for _, query in new])
            self._known.update(zip(new, found.tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.float64)

    def _of_words(self, text: str) -> tuple[float, float]:
        known = self._word_parts.get(text)
        if known is None:
            found = self.reward.words(text)
            limit = self.settings.length_limit
            # 0.0 - x: an answer within the limit, or without repetition, earns 0 and not minus zero.
            known = (0.0 - max(0, len(found) - limit) / limit, 0.0 - (len(found) - len(set(found))))
            self._word_parts[text] = known
        return known


def score_answers(rollouts: pl.DataFrame, reward: JudgedReward, settings: ScoreCoalitions) -> pl.DataFrame:
    """Return table rewards of whole rollout groups."""
    return answer_rewards(rollouts.sort("rollout_id"), TextScorer(reward, settings))[0]


def answer_rewards(rollouts: pl.DataFrame, scorer: TextScorer) -> tuple[pl.DataFrame, NDArray[np.float64]]:
    """Return table rewards of whole rollout groups, in their order, and the rewards without their format part, float64[rollouts]."""
    prompt_ids = rollouts["prompt_id"].to_list()
    places = rollouts.select("completion", "answer_start", "answer_end").iter_rows()
    answers = [completion[start:end] for completion, start, end in places]
    queries = [scorer.reward.compose(prompt_id, answer) for prompt_id, answer in zip(prompt_ids, answers, strict=True)]
    parts = scorer.parts(prompt_ids, queries, answers)
    missing = (~rollouts["has_answer_tags"]).cast(pl.Float64) + (rollouts["finish_reason"] != "stop").cast(pl.Float64)
    rewards = pl.DataFrame(
        {
            "rollout_id": rollouts["rollout_id"],
            "prompt_id": rollouts["prompt_id"],
            "reward": parts.value + scorer.settings.format_weight * (missing * -0.5).to_numpy(),
            "retrieval": parts.retrieval,
            "format": missing * -0.5 + 0.0,  # + 0: no minus zero
            "length": parts.length,
            "repetition": parts.repetition,
            **parts.further,
        }
    ).with_columns(is_degenerate_group=(pl.col("reward").std(ddof=1).fill_null(0.0) < DEGENERATE_STD).over("prompt_id"))
    return rewards.select(*REWARDS.schema, *parts.further), parts.value

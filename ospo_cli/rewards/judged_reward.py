"""The retrieval reward: (prompt, query) -> metric of the query's ranking against the prompt's judged products."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.maths.ranking import Metric, metric_blocks, parse_metric
from ospo_cli.own_code.rewards import OwnReward
from ospo_cli.retrievers.base import BatchRetriever, CoalitionRetriever, Coalitions, PreparingRetriever, Ranking, padded
from ospo_cli.retrievers.opening import build
from ospo_cli.rewards.judgments import Judgments, Prepared
from ospo_cli.rewards.remembered import Memory, Tally, is_kept
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.store.keys import scope
from ospo_cli.text.composition import compose
from ospo_cli.text.words import reader

if TYPE_CHECKING:
    from ospo_cli.params.retrieval import Retrieval
    from ospo_cli.params.score_coalitions import ScoreCoalitions
    from ospo_cli.params.store import Store as StoreSettings

# Cells (queries × ranks) of one batch of rankings; bounds memory when every rank of a large catalogue counts.
BATCH_CELLS = 1 << 22
# Changes when a metric is defined otherwise, so that no value in a store is taken for one of today's.
DEFINITIONS = "judged-1"


class Sections(Protocol):
    """What a reward reads of the parameters."""

    @property
    def score_coalitions(self) -> ScoreCoalitions: ...
    @property
    def retrieval(self) -> Retrieval: ...
    @property
    def store(self) -> StoreSettings: ...


class JudgedReward(Judgments):
    """Scores texts: rankings of a retriever, compared with the judgments.

    A text that retrieves nothing is worth 0 by definition; anything that goes wrong raises.

    Args:
        tables: the prepared ones.
        params: `score_coalitions.retriever` and `.metric` are used unless named here.
        retriever: name of another retriever (evaluation).
        metric: name of another metric.
        cache: folder for what a retriever may keep and rebuild at any time; None keeps it in memory.
        own_reward: a user's function for further parts; `values` and `measures` do not read it.
        store: values that were computed before; None computes all. `params.store` tells which are kept.
    """

    def __init__(
        self,
        tables: Prepared,
        params: Sections,
        *,
        retriever: str | None = None,
        metric: str | None = None,
        cache: Path | None = None,
        own_reward: OwnReward | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__(tables)
        self.own_reward = own_reward
        settings, (documents, _, _, pools) = params.score_coalitions, tables
        self.metric: Metric = parse_metric(metric or settings.metric)
        self.composition = settings.composition
        self.words = reader(params.retrieval.folding)
        # Weights of fields are the training retriever's: a further one that knows none ranks all the same.
        is_further = retriever is not None and retriever != settings.retriever
        self.retriever = build(retriever or settings.retriever, documents, params.retrieval, cache, may_ignore_weights=is_further)
        self.tally = Tally()
        candidates = pools.height / max(1, pools["prompt_id"].n_unique()) if pools.height else len(self.doc_ids)
        self.store = store if store is not None and is_kept(self.retriever, candidates, params.store.values) else None
        self._products = params.store.products
        self._memories: dict[tuple[str, ...], Memory] = {}

    def afresh(self) -> JudgedReward:
        """Return the same reward over the same tables and index, of which nothing has been asked."""
        found = copy.copy(self)
        found.tally, found._memories = Tally(), {}
        return found

    def compose(self, prompt_id: str, text: str) -> str:
        """Return what the retriever is given for a text of this prompt, under `score_coalitions.composition`."""
        return compose(self.raw_query(prompt_id), text, self.composition)

    def values(self, prompt_ids: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the metric of each (prompt, query) pair, 0 to 1; equal pairs are ranked once."""
        return self.measures(prompt_ids, queries, [self.metric.name])[self.metric.name]

    def measures(self, prompt_ids: Sequence[str], queries: Sequence[str], metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return several metrics of each (prompt, query) pair from one ranking, by their names as `parse_metric` spells them."""
        parsed = [parse_metric(name) for name in metrics]
        names = tuple(metric.name for metric in parsed)
        positions_of = _grouped(prompt_ids)
        if self.store is None:
            start_seconds = time.monotonic()
            values, _, distinct = self._measured(positions_of, queries, parsed, 0)
            self.tally += Tally(asked=len(queries), distinct=distinct, computed=distinct, compute_seconds=time.monotonic() - start_seconds)
        else:
            values = self._memory(names).values(
                positions_of, queries, lambda own, texts: self._measured(_grouped(own), texts, parsed, self._products)[:2]
            )
        return dict(zip(names, values.T.copy(), strict=True))

    @property
    def takes_parts(self) -> bool:
        """Whether `coalition_values` can be asked: the retriever knows coalitions, and values are computed rather than looked up."""
        return isinstance(self.retriever, CoalitionRetriever) and self.store is None

    def coalition_values(
        self,
        prompt_ids: Sequence[str],
        parts: Sequence[Sequence[str]],
        present: Sequence[NDArray[np.bool_]],
        *,
        is_raw_if_empty: bool = False,
    ) -> NDArray[np.float64]:
        """Return the metric of every coalition of every answer, one below the other: `values` of their texts, bit for bit.

        Args:
            prompt_ids: of each answer; answers of a prompt that follow each other share their work.
            parts: texts of each answer's segments; no word may reach from one into the next.
            present: bool[coalitions, parts] of each answer.
            is_raw_if_empty: an empty coalition is scored as the raw query.
        """
        if not isinstance(self.retriever, CoalitionRetriever):
            raise TypeError(f"{self.retriever.name} ranks texts alone")
        start_seconds = time.monotonic()
        answers = []
        for prompt_id, texts, members in zip(prompt_ids, parts, present, strict=True):
            if self.composition == "append" or is_raw_if_empty:
                has_raw = np.ones((len(members), 1), dtype=bool) if self.composition == "append" else ~members.any(axis=1, keepdims=True)
                texts, members = [self.raw_query(prompt_id), *texts], np.concatenate((has_raw, members), axis=1)
            answers.append(Coalitions(texts, members, self.pool(prompt_id)))
        documents, _ = self.retriever.rank_coalitions(answers, self.metric.cutoff)
        lanes = [(prompt_id, sum(len(members) for _, members in own)) for prompt_id, own in
                 groupby(zip(prompt_ids, present, strict=True), key=itemgetter(0))]  # fmt: skip
        values = self._measure(lanes, documents, [self.metric])[:, 0]
        row = len(values)
        self.tally += Tally(asked=row, distinct=row, computed=row, compute_seconds=time.monotonic() - start_seconds)
        return values

    def computed(self, prompt_ids: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
        """Return `values` from the retriever, whatever the store holds, and keep nothing."""
        return self._measured(_grouped(prompt_ids), queries, [self.metric], 0)[0][:, 0]

    def remembered(self, prompt_ids: Sequence[str], queries: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return for which pairs the store holds `values`, and these; nothing is computed."""
        if self.store is None:
            return np.zeros(len(queries), dtype=bool), np.zeros(len(queries))
        is_found, parts = self._memory((self.metric.name,)).remembered(_grouped(prompt_ids), queries)
        return is_found, parts[:, 0]

    def fingerprint(self, prompt_id: str) -> bytes:
        """Return a hash of what a prompt's values depend on besides retriever, metric and text: its judged candidates and its pool."""
        documents, gains = self.judged(prompt_id)
        pool = self.pool(prompt_id)
        return scope(documents.tobytes(), gains.tobytes(), b"whole catalogue" if pool is None else pool.tobytes())

    def about(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Return what describes the values of all prompts under these metrics: a book of the store."""
        return {
            "definitions": DEFINITIONS,
            "retriever": self.retriever.name,
            "retriever_fingerprint": self.retriever.fingerprint,
            "documents": len(self.doc_ids),
            "parts": list(metrics),
            "ranks": self._products,
        }

    def _memory(self, names: tuple[str, ...]) -> Memory:
        if names not in self._memories:
            assert self.store is not None
            book = self.store.book(self.about(names))
            self._memories[names] = Memory(book, self.retriever, self.fingerprint, self.tally)
        return self._memories[names]

    def _measured(
        self, positions_of: dict[str, list[int]], queries: Sequence[str], parsed: list[Metric], ranks: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
        # Metrics float64[queries, metrics], first products int64[queries, ranks], number of distinct pairs: each of these is ranked once.
        results, products = np.full((len(queries), len(parsed)), np.nan), np.full((len(queries), ranks), -1, dtype=np.int64)
        cutoff = 0 if any(metric.cutoff == 0 for metric in parsed) else max((ranks, *(metric.cutoff for metric in parsed)), default=1)
        count = 0
        if isinstance(self.retriever, PreparingRetriever):
            rows_of = [(prompt_id, position) for prompt_id, positions in positions_of.items() for position in positions]
            pools = [self.pool(prompt_id) for prompt_id, _ in rows_of]
            self.retriever.prepare([queries[position] for _, position in rows_of], pools, cutoff)
        distinct_of = {
            prompt_id: list(dict.fromkeys(queries[position] for position in positions)) for prompt_id, positions in positions_of.items()
        }
        documents = self._ranked_together(distinct_of, cutoff)
        together = None
        if documents is not None:
            together = self._measured_rows([(prompt_id, len(texts)) for prompt_id, texts in distinct_of.items()], documents, parsed, ranks)
        for prompt_id, positions in positions_of.items():
            texts = distinct_of[prompt_id]
            found, first = together or self._gain_rows(prompt_id, texts, cutoff, parsed, ranks)
            place = dict(zip(texts, range(count if together else 0, sys.maxsize), strict=False))
            rows = [place[queries[position]] for position in positions]
            results[positions], products[positions] = found[rows], first[rows]
            count += len(texts)
        is_wrong = np.isnan(results)
        if is_wrong.any():
            row, column = np.argwhere(is_wrong)[0].tolist()
            prompt_id = next(name for name, positions in positions_of.items() if row in positions)
            raise RetrievalError(f"prompt {prompt_id}", f"{parsed[column].name} is not a number", expected="0 to 1")
        return results, products, count

    def rankings(self, prompt_ids: Sequence[str], queries: Sequence[str], k: int) -> list[Ranking]:
        """Return the first k documents of each query among its prompt's candidates; k = 0 is all."""
        return self.retriever.rank(queries, [self.pool(prompt_id) for prompt_id in prompt_ids], k)

    def ranking_values(self, prompt_ids: Sequence[str], rankings: Sequence[Ranking]) -> NDArray[np.float64]:
        """Return the metric of rankings that were found otherwise than by a text, one per prompt id."""
        documents, _ = padded(
            [Ranking(each.documents[: self.metric.cutoff or None], each.scores[: self.metric.cutoff or None]) for each in rankings]
        )
        return self._measure([(prompt_id, 1) for prompt_id in prompt_ids], documents, [self.metric])[:, 0]

    def _gain_rows(
        self, prompt_id: str, queries: list[str], cutoff: int, metrics: list[Metric], ranks: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        pool = self.pool(prompt_id)
        candidate_count = len(self.doc_ids) if pool is None else len(pool)
        batch = max(1, BATCH_CELLS // max(1, min(cutoff or candidate_count, candidate_count)))
        parts = [
            self._measured_rows([(prompt_id, len(own))], self._ranked(own, pool, cutoff), metrics, ranks)
            for own in (queries[start : start + batch] for start in range(0, len(queries), batch))
        ]
        values, products = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(products)

    def _ranked_together(self, queries_of: dict[str, list[str]], cutoff: int) -> NDArray[np.int64] | None:
        # The rankings of all prompts' queries one below the other, in one call; None where that cannot be or would not fit.
        if not isinstance(self.retriever, CoalitionRetriever) or self.is_whole_catalogue or len(queries_of) < 2:
            return None
        whole = np.ones((1, 1), dtype=bool)
        pools = [self.pool(prompt_id) for prompt_id in queries_of]
        longest = max(len(pool) for pool in pools if pool is not None)
        if sum(map(len, queries_of.values())) * min(cutoff or longest, longest) > BATCH_CELLS:
            return None
        asked = [Coalitions([query], whole, pool) for pool, queries in zip(pools, queries_of.values(), strict=True) for query in queries]
        return self.retriever.rank_coalitions(asked, cutoff)[0]

    def _measured_rows(
        self, lanes: Sequence[tuple[str, int]], documents: NDArray[np.int64], metrics: list[Metric], ranks: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        products = np.full((len(documents), ranks), -1, dtype=np.int64)
        width = min(ranks, documents.shape[1])
        products[:, :width] = documents[:, :width]
        return self._measure(lanes, documents, metrics), products

    def _measure(self, lanes: Sequence[tuple[str, int]], documents: NDArray[np.int64], metrics: list[Metric]) -> NDArray[np.float64]:
        # Metrics float64[rankings, metrics] of documents int64[rankings, ranks] (−1 where nothing is retrieved), of each prompt so many.
        rows = np.zeros(documents.shape)
        gain_of = np.zeros(len(self.doc_ids) + 1)  # −1 is the last, which is nobody's
        start = 0
        ideals, counts = [], []
        for prompt_id, count in lanes:
            judged, gains = self.judged(prompt_id)
            gain_of[judged] = gains
            rows[start : start + count] = gain_of[documents[start : start + count]]
            gain_of[judged] = 0.0
            ideals.append(gains)
            counts.append(count)
            start += count
        retrieved = np.count_nonzero(documents >= 0, axis=1)
        return np.stack([metric_blocks(metric, rows, ideals, counts, retrieved) for metric in metrics], axis=1)

    def _ranked(self, queries: list[str], pool: NDArray[np.int64] | None, cutoff: int) -> NDArray[np.int64]:
        if isinstance(self.retriever, BatchRetriever):
            return self.retriever.rank_queries(queries, pool, cutoff)[0]
        return padded(self.retriever.rank(queries, [pool] * len(queries), cutoff))[0]


def _grouped(prompt_ids: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, prompt_id in enumerate(prompt_ids):
        positions.setdefault(prompt_id, []).append(position)
    return positions

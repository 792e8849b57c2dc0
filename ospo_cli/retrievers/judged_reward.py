"""The retrieval reward: (prompt, query) -> metric of the query's ranking against the prompt's judged products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import RetrievalError
from ospo_cli.maths.ranking import Metric, metric_rows, parse_metric
from ospo_cli.params import Params
from ospo_cli.retrievers import build
from ospo_cli.retrievers.base import BatchRetriever, Ranking

# Cells (queries × ranks) of one batch of rankings; bounds memory when every rank of a large catalogue counts.
BATCH_CELLS = 1 << 22


def compose(raw_query: str, text: str, composition: str) -> str:
    """Return what the retriever is given: the text (replace), or raw query, one space, text (append; the raw query alone for no text).

    >>> compose("shoe", "red leather", "append")
    'shoe red leather'
    """
    if composition == "replace":
        return text
    return f"{raw_query} {text}" if text else raw_query


class JudgedReward:
    """Scores texts: rankings of a retriever, compared with the judgments.

    The same targets everywhere: a prompt's candidates are its pool (the whole catalogue where table pools has no rows at all), its
    ideal ranking holds the judged candidates. A text that retrieves nothing is worth 0 by definition; anything that goes wrong raises.

    Args:
        documents, prompts, qrels, pools: the prepared tables.
        params: all parameters; `score_coalitions.retriever` and `.metric` unless named here.
        retriever: name of another retriever (evaluation).
        metric: name of another metric.
        cache: folder for what a retriever may keep and rebuild at any time.
    """

    def __init__(
        self,
        documents: pl.DataFrame,
        prompts: pl.DataFrame,
        qrels: pl.DataFrame,
        pools: pl.DataFrame,
        params: Params,
        *,
        retriever: str | None = None,
        metric: str | None = None,
        cache: Path = Path("data/cache"),
    ) -> None:
        self.metric: Metric = parse_metric(metric or params.score_coalitions.metric)
        self.composition = params.score_coalitions.composition
        self.retriever = build(retriever or params.score_coalitions.retriever, documents, params.retrieval, cache)
        self.doc_ids: list[str] = documents["doc_id"].sort().to_list()
        self.raw_queries: dict[str, str] = dict(zip(prompts["prompt_id"].to_list(), prompts["query"].to_list(), strict=True))
        self._index_of = {doc_id: index for index, doc_id in enumerate(self.doc_ids)}
        self._judged = {key[0]: frame for key, frame in qrels.sort("prompt_id", "doc_id").group_by("prompt_id", maintain_order=True)}
        self._pooled = {key[0]: frame for key, frame in pools.sort("prompt_id", "doc_id").group_by("prompt_id", maintain_order=True)}
        self._whole_catalogue = pools.height == 0
        self._pools: dict[str, NDArray[np.int64] | None] = {}
        self._gains: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def compose(self, prompt_id: str, text: str) -> str:
        """Return what the retriever is given for a text of this prompt, under `score_coalitions.composition`."""
        return compose(self.raw_query(prompt_id), text, self.composition)

    def raw_query(self, prompt_id: str) -> str:
        """Return what the user typed."""
        if prompt_id not in self.raw_queries:
            raise RetrievalError(
                f"prompt {prompt_id}", "no such prompt in table prompts", remedy="run `ospo prepare-data`, then what follows it, again"
            )
        return self.raw_queries[prompt_id]

    def values(self, prompt_ids: Sequence[str], queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the metric of each (prompt, query) pair, 0 to 1; equal pairs are ranked once."""
        return self.measures(prompt_ids, queries, [self.metric.name])[self.metric.name]

    def measures(self, prompt_ids: Sequence[str], queries: Sequence[str], metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return several metrics of each (prompt, query) pair from one ranking."""
        parsed = [parse_metric(name) for name in metrics]
        results = {metric.name: np.full(len(queries), np.nan) for metric in parsed}
        cutoff = 0 if any(metric.cutoff == 0 for metric in parsed) else max((metric.cutoff for metric in parsed), default=1)
        for prompt_id, positions in _grouped(prompt_ids).items():
            distinct: dict[str, int] = {}
            rows = np.array([distinct.setdefault(queries[position], len(distinct)) for position in positions])
            gains = self._gain_rows(prompt_id, list(distinct), cutoff, parsed)
            for metric in parsed:
                results[metric.name][positions] = gains[metric.name][rows]
        for name, found in results.items():
            if np.isnan(found).any():
                raise RetrievalError(f"prompt {prompt_ids[int(np.isnan(found).argmax())]}", f"{name} is not a number", expected="0 to 1")
        return results

    def rankings(self, prompt_ids: Sequence[str], queries: Sequence[str], k: int) -> list[Ranking]:
        """Return the first k documents of each query among its prompt's candidates; k = 0 is all."""
        return self.retriever.rank(queries, [self.pool(prompt_id) for prompt_id in prompt_ids], k)

    def pool(self, prompt_id: str) -> NDArray[np.int64] | None:
        """Return the candidates as ascending indices into `doc_ids`; None is the whole catalogue."""
        if self._whole_catalogue:
            return None
        if prompt_id not in self._pools:
            if prompt_id not in self._pooled:
                raise RetrievalError(
                    f"prompt {prompt_id}",
                    "has no pool",
                    expected="rows in table pools for every prompt or for none",
                    remedy="run `ospo prepare-data` again",
                )
            self._pools[prompt_id] = np.sort(self._indices(prompt_id, "pools", self._pooled[prompt_id]))
        return self._pools[prompt_id]

    def judged(self, prompt_id: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the judged candidates with a gain above 0: indices into `doc_ids`, ascending, and gains.

        Raises:
            RetrievalError: there is none, so that no metric is defined.
        """
        if prompt_id not in self._gains:
            self.raw_query(prompt_id)
            frame = self._judged.get(prompt_id)
            relevant = None if frame is None else frame.filter(pl.col("relevance") > 0)
            if relevant is None or relevant.height == 0:
                raise RetrievalError(
                    f"prompt {prompt_id}",
                    "has no relevant product",
                    found="no row of table qrels with a relevance above 0",
                    expected="at least one",
                    remedy="judge a product for it or leave the query out of the source, then run `ospo prepare-data` again",
                )
            indices, gains = self._indices(prompt_id, "qrels", relevant), relevant["relevance"].to_numpy()
            pool = self.pool(prompt_id)
            if pool is not None:
                is_candidate = np.isin(indices, pool)
                indices, gains = indices[is_candidate], gains[is_candidate]
                if not len(indices):
                    raise RetrievalError(
                        f"prompt {prompt_id}",
                        "no relevant product is in its pool",
                        found=relevant["doc_id"][0],
                        expected="every target in table pools",
                        remedy="run `ospo prepare-data` again",
                    )
            if not np.isfinite(gains).all():
                raise RetrievalError(
                    f"prompt {prompt_id}", "a relevance is not a finite number", expected="gains ≥ 0", remedy="mend the judgments"
                )
            order = np.argsort(indices)
            self._gains[prompt_id] = indices[order], gains[order].astype(np.float64)
        return self._gains[prompt_id]

    def known_gains(self, prompt_id: str) -> dict[int, float]:
        """Return the gain of every judged candidate, 0 among them, by index into `doc_ids`; empty where nothing is judged."""
        frame = self._judged.get(prompt_id)
        if frame is None:
            return {}
        return dict(zip(self._indices(prompt_id, "qrels", frame).tolist(), frame["relevance"].to_list(), strict=True))

    def _gain_rows(self, prompt_id: str, queries: list[str], cutoff: int, metrics: list[Metric]) -> dict[str, NDArray[np.float64]]:
        judged, gains = self.judged(prompt_id)
        pool = self.pool(prompt_id)
        candidate_count = len(self.doc_ids) if pool is None else len(pool)
        batch = max(1, BATCH_CELLS // max(1, min(cutoff or candidate_count, candidate_count)))
        parts: dict[str, list[NDArray[np.float64]]] = {metric.name: [] for metric in metrics}
        for start in range(0, len(queries), batch):
            documents = self._ranked(queries[start : start + batch], pool, cutoff)
            # −1 (nothing retrieved at this rank) is searched too and never equals a judged document.
            places = np.minimum(np.searchsorted(judged, documents), len(judged) - 1)
            rows = np.where(judged[places] == documents, gains[places], 0.0)
            retrieved = np.count_nonzero(documents >= 0, axis=1)
            for metric in metrics:
                parts[metric.name].append(metric_rows(metric, rows, gains, retrieved))
        return {name: np.concatenate(found) if found else np.zeros(0) for name, found in parts.items()}

    def _ranked(self, queries: list[str], pool: NDArray[np.int64] | None, cutoff: int) -> NDArray[np.int64]:
        if isinstance(self.retriever, BatchRetriever):
            return self.retriever.rank_queries(queries, pool, cutoff)[0]
        rankings = self.retriever.rank(queries, [pool] * len(queries), cutoff)
        documents = np.full((len(queries), max((len(ranking.documents) for ranking in rankings), default=0)), -1, dtype=np.int64)
        for row, ranking in zip(documents, rankings, strict=True):
            row[: len(ranking.documents)] = ranking.documents
        return documents

    def _indices(self, prompt_id: str, table: str, frame: pl.DataFrame) -> NDArray[np.int64]:
        try:
            return np.array([self._index_of[doc_id] for doc_id in frame["doc_id"].to_list()], dtype=np.int64)
        except KeyError as error:
            raise RetrievalError(
                f"table {table}, prompt {prompt_id}",
                "names a product that is not in the catalogue",
                found=error.args[0],
                expected="a doc_id of table documents",
                remedy="run `ospo prepare-data` again",
            ) from None


def _grouped(prompt_ids: Sequence[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, prompt_id in enumerate(prompt_ids):
        positions.setdefault(prompt_id, []).append(position)
    return positions

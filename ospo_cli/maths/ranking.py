"""Ranking metrics: gains in rank order -> nDCG, reciprocal rank, recall. The only place that defines them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError

METRICS = "ndcg@K (such as ndcg@10), ndcg@pool, ndcg@retrieved, mrr, recall@K (such as recall@10)"


@dataclass(frozen=True)
class Metric:
    """A metric and its cut-off: `kind` is ndcg, mrr, recall or ndcg-retrieved; `cutoff` ≥ 1, or 0 for every rank (the pool's size).

    ndcg-retrieved cuts each ranking off where it ends, at the number of candidates that the query retrieved: another cut-off for every
    query, so that one relevant product found and nothing else is worth 1. For comparison with the code released with the paper alone.
    """

    name: str
    kind: str
    cutoff: int


def parse_metric(name: str) -> Metric:
    """Return the metric of that name; raise ParameterError with the list of those that exist.

    >>> parse_metric("ndcg@10")
    Metric(name='ndcg@10', kind='ndcg', cutoff=10)
    """
    if name == "mrr":
        return Metric(name, "mrr", 0)
    if name == "ndcg@pool":
        return Metric(name, "ndcg", 0)
    if name == "ndcg@retrieved":
        return Metric(name, "ndcg-retrieved", 0)
    found = re.fullmatch(r"(ndcg|recall)@([1-9][0-9]{0,6})", name)
    if found is None:
        raise ParameterError("metric", "unknown metric", found=name, expected=METRICS)
    return Metric(name, found[1], int(found[2]))


def discounts(count: int) -> NDArray[np.float64]:
    """Return 1/log2(rank + 1) for ranks 1..count."""
    return np.asarray(1.0 / np.log2(np.arange(2, count + 2, dtype=np.float64)))


def ndcg(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> float:
    """Return the normalised discounted cumulative gain of one ranking.

    Σ_{r=1..k} gains_r / log2(r + 1), divided by the same sum over the `ideal` gains in descending order. Gains are linear.

    Args:
        gains: gain of the document at each rank, best rank first; ranks beyond its length gained nothing.
        ideal: gains of all judged candidates, in any order; at least one above 0.
        k: cut-off, ≥ 1.

    Returns:
        0 to 1; 1 if and only if the first k gains are as large as they can be.

    Source: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002).

    >>> round(ndcg(np.array([0.0, 1.0]), np.array([1.0]), 10), 6)
    0.63093
    """
    return float(ndcg_rows(np.asarray(gains, dtype=np.float64)[None, :], ideal, k)[0])


def ndcg_rows(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return `ndcg` of each row; a row's value depends on its own gains alone, to the last bit."""
    best = np.sort(np.asarray(ideal, dtype=np.float64))[::-1][:k]
    scale = _discounted(best[None, :])[0]
    if not scale > 0:
        raise ValueError("nDCG needs a judged document with a gain above 0")
    return np.asarray(np.minimum(_discounted(gains[:, :k]) / scale, 1.0))


def mrr(gains: NDArray[np.float64]) -> float:
    """Return 1 / rank of the first document with a gain above 0, else 0 (reciprocal rank).

    >>> mrr(np.array([0.0, 0.0, 1.0, 1.0]))
    0.3333333333333333
    """
    return float(mrr_rows(np.asarray(gains, dtype=np.float64)[None, :])[0])


def mrr_rows(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `mrr` of each row."""
    if gains.shape[1] == 0:
        return np.zeros(gains.shape[0])
    is_relevant = gains > 0
    return np.where(is_relevant.any(axis=1), 1.0 / (is_relevant.argmax(axis=1) + 1.0), 0.0)


def recall(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> float:
    """Return the share of the judged candidates with a gain above 0 that stand in the first k ranks.

    >>> recall(np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]), 2)
    0.3333333333333333
    """
    return float(recall_rows(np.asarray(gains, dtype=np.float64)[None, :], ideal, k)[0])


def recall_rows(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return `recall` of each row."""
    relevant = int(np.count_nonzero(np.asarray(ideal) > 0))
    if relevant == 0:
        raise ValueError("recall needs a judged document with a gain above 0")
    return np.asarray(np.count_nonzero(gains[:, :k] > 0, axis=1) / relevant)


def metric_rows(
    metric: Metric, gains: NDArray[np.float64], ideal: NDArray[np.float64], retrieved: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the metric of each row of gains (rows in rank order, padded with 0 to the right).

    Args:
        metric: from `parse_metric`.
        gains: float64[rows, ranks].
        ideal: float64[m], gains of all judged candidates of the prompt, pool-restricted where there is a pool.
        retrieved: [rows] documents of each ranking; needed by ndcg-retrieved alone.
    """
    if metric.kind == "ndcg-retrieved":
        if retrieved is None:
            raise ValueError(f"{metric.name} needs the number of retrieved documents")
        values = np.zeros(len(gains))
        for k in np.unique(retrieved[retrieved > 0]).tolist():
            values[retrieved == k] = ndcg_rows(gains[retrieved == k], ideal, k)
        return values
    cutoff = metric.cutoff or max(gains.shape[1], len(ideal), 1)
    if metric.kind == "ndcg":
        return ndcg_rows(gains, ideal, cutoff)
    if metric.kind == "recall":
        return recall_rows(gains, ideal, cutoff)
    return mrr_rows(gains)


def _discounted(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rank by rank, so that a row's sum has one order of additions whatever the number of rows or of padded ranks.
    total = np.zeros(gains.shape[0])
    for column, discount in zip(range(gains.shape[1]), discounts(gains.shape[1]), strict=True):
        total += gains[:, column] * discount
    return total

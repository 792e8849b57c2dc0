"""Ranking metrics: gains in rank order -> nDCG, reciprocal rank, average precision, recall, precision. The only place that defines them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError, RetrievalError

METRICS = (
    "ndcg@K (such as ndcg@10), ndcg@pool, ndcg@retrieved, mrr, recall@K (such as recall@10), mrr@K, ap, ap@K, precision@K, ndcg-exp@K, "
    "ndcg-exp@pool; or as ir_measures has them: nDCG@K, nDCG(dcg='exp-log2')@K, RR, RR@K, AP, AP@K, R@K, P@K"
)
# 2^1024 is no float64; the sums have to stay below too.
LARGEST_EXPONENT = 512
# Kind -> name in ir_measures, but for the cut-off.
IR_MEASURES = {"ndcg": "nDCG", "ndcg-exp": "nDCG(dcg='exp-log2')", "mrr": "RR", "ap": "AP", "recall": "R", "precision": "P"}


@dataclass(frozen=True)
class Metric:
    """A metric and its cut-off: `kind` is a key of IR_MEASURES or ndcg-retrieved; `cutoff` ≥ 1, or 0 for every rank (the pool's size).

    ndcg-exp is nDCG with the gains 2^relevance − 1. A document counts as relevant (mrr, ap, recall, precision) where its gain is above 0.
    ndcg-retrieved cuts each ranking off where it ends, at the number of candidates that the query retrieved: another cut-off for every
    query, so that one relevant product found and nothing else is worth 1. For comparison only.
    """

    name: str
    kind: str
    cutoff: int


def parse_metric(name: str) -> Metric:
    """Return the metric of that name; raise ParameterError with the list of those that exist.

    >>> parse_metric("ndcg@10")
    Metric(name='ndcg@10', kind='ndcg', cutoff=10)
    >>> parse_metric("AP@5")
    Metric(name='ap@5', kind='ap', cutoff=5)
    """
    if name == "ndcg@retrieved":
        return Metric(name, "ndcg-retrieved", 0)
    base, _, cut = name.partition("@")
    kind = {spelled: kind for kind, spelled in IR_MEASURES.items()}.get(base, base)
    number = int(cut) if re.fullmatch(r"[1-9][0-9]{0,6}", cut) else 0
    is_whole = (cut == "pool" and base in ("ndcg", "ndcg-exp")) or (name == base and kind in ("mrr", "ap"))
    if kind not in IR_MEASURES or not (number or is_whole):
        raise ParameterError("metric", "unknown metric", found=name, expected=METRICS)
    return Metric(f"{kind}@{cut}" if cut else kind, kind, number)


def discounts(count: int) -> NDArray[np.float64]:
    """Return 1/log2(rank + 1) for ranks 1..count."""
    return np.asarray(1.0 / np.log2(np.arange(2, count + 2, dtype=np.float64)))


def ndcg_rows(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the normalised discounted cumulative gain of each row; it depends on the row's own gains alone, to the last bit.

    Σ_{r=1..k} gains_r / log2(r + 1), divided by the same sum over the `ideal` gains in descending order. Gains are linear.

    Args:
        gains: [rows, ranks] gain of the document at each rank, best rank first; ranks beyond the last gained nothing.
        ideal: gains of all judged candidates, in any order; at least one above 0.
        k: cut-off, ≥ 1.

    Returns:
        [rows] 0 to 1; 1 if and only if the first k gains are as large as they can be.

    Source: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002).

    >>> ndcg_rows(np.array([[0.0, 1.0]]), np.array([1.0]), 10).round(6).tolist()
    [0.63093]
    """
    return _ndcg_blocks(gains, [ideal], [len(gains)], k)


def _ndcg_blocks(gains: NDArray[np.float64], ideals: Sequence[NDArray[np.float64]], counts: Sequence[int], k: int) -> NDArray[np.float64]:
    # Rows of several prompts, so many of each, every prompt with an ideal of its own; k = 0 is every rank.
    longest = max(map(len, ideals), default=0)
    best = np.zeros((len(ideals), longest))
    for row, ideal in zip(best, ideals, strict=True):
        row[: len(ideal)] = np.sort(np.asarray(ideal, dtype=np.float64))[::-1]
    scales = _discounted(best[:, : k or longest])
    if not (scales > 0).all():
        raise ValueError("nDCG needs a judged document with a gain above 0")
    return np.asarray(np.minimum(_discounted(gains[:, : k or gains.shape[1]]) / np.repeat(scales, counts), 1.0))


def exponential_gains(relevance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 2^relevance − 1, with which `ndcg` is the variant of web search.

    Raises:
        RetrievalError: a relevance is too large for a number.

    Source: Burges et al., "Learning to rank using gradient descent" (2005).

    >>> exponential_gains(np.array([0.0, 1.0, 3.0])).tolist()
    [0.0, 1.0, 7.0]
    """
    relevance = np.asarray(relevance, dtype=np.float64)
    if relevance.size and relevance.max() > LARGEST_EXPONENT:
        raise RetrievalError(
            "metric ndcg-exp", "a relevance is too large for 2^relevance", found=relevance.max(), expected=f"at most {LARGEST_EXPONENT}"
        )
    return np.asarray(np.exp2(relevance) - 1.0)


def mrr_rows(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / rank of each row's first document with a gain above 0, else 0 (reciprocal rank).

    >>> mrr_rows(np.array([[0.0, 0.0, 1.0, 1.0]])).round(6).tolist()
    [0.333333]
    """
    if gains.shape[1] == 0:
        return np.zeros(gains.shape[0])
    is_relevant = gains > 0
    return np.where(is_relevant.any(axis=1), 1.0 / (is_relevant.argmax(axis=1) + 1.0), 0.0)


def average_precision_rows(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the precision at the rank of each relevant document among the first k, summed, over the number of all relevant candidates.

    Relevant documents that are not among the first k count as 0 (as trec_eval's map_cut has it). A row's value depends on its own
    gains alone, to the last bit.

    Source: Buckley & Voorhees, "Evaluating evaluation measure stability" (2000).

    >>> average_precision_rows(np.array([[1.0, 0.0, 1.0]]), np.array([1.0, 1.0]), 10).round(6).tolist()
    [0.833333]
    """
    relevant = _relevant_count(ideal, "average precision")
    found, total = np.zeros(gains.shape[0]), np.zeros(gains.shape[0])
    for place in range(min(k, gains.shape[1])):
        is_relevant = gains[:, place] > 0
        found += is_relevant
        total += np.where(is_relevant, found / (place + 1.0), 0.0)
    return np.asarray(total / relevant)


def recall_rows(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the share of the judged candidates with a gain above 0 that stand in the first k ranks of each row.

    >>> recall_rows(np.array([[1.0, 0.0, 1.0]]), np.array([1.0, 1.0, 1.0, 0.0]), 2).round(6).tolist()
    [0.333333]
    """
    relevant = _relevant_count(ideal, "recall")
    return np.asarray(np.count_nonzero(gains[:, :k] > 0, axis=1) / relevant)


def precision_rows(gains: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Return the share of the first k ranks of each row that hold a document with a gain above 0; an empty rank holds none.

    >>> precision_rows(np.array([[1.0, 0.0, 2.0]]), 4).tolist()
    [0.5]
    """
    return np.asarray(np.count_nonzero(gains[:, :k] > 0, axis=1) / k)


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
    if metric.kind in ("ndcg", "ndcg-exp"):
        return metric_blocks(metric, gains, [ideal], [len(gains)])
    cutoff = metric.cutoff or max(gains.shape[1], len(ideal), 1)
    if metric.kind == "ap":
        return average_precision_rows(gains, ideal, cutoff)
    if metric.kind == "recall":
        return recall_rows(gains, ideal, cutoff)
    if metric.kind == "precision":
        return precision_rows(gains, cutoff)
    return mrr_rows(gains[:, :cutoff])


def metric_blocks(
    metric: Metric,
    gains: NDArray[np.float64],
    ideals: Sequence[NDArray[np.float64]],
    counts: Sequence[int],
    retrieved: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Return `metric_rows` of the rows of several prompts, one prompt's below the other's, to the same bits.

    Args:
        metric, gains, retrieved: as in `metric_rows`, of all rows.
        ideals: gains of all judged candidates of each prompt.
        counts: how many rows are of each prompt.
    """
    if metric.kind in ("ndcg", "ndcg-exp"):
        if metric.kind == "ndcg-exp":
            gains, ideals = exponential_gains(gains), [exponential_gains(ideal) for ideal in ideals]
        return _ndcg_blocks(gains, ideals, counts, metric.cutoff)
    values, row = np.zeros(len(gains)), 0
    for ideal, count in zip(ideals, counts, strict=True):
        own = slice(row, row + count)
        values[own] = metric_rows(metric, gains[own], ideal, None if retrieved is None else retrieved[own])
        row += count
    return values


def _relevant_count(ideal: NDArray[np.float64], name: str) -> int:
    relevant = int(np.count_nonzero(np.asarray(ideal) > 0))
    if relevant == 0:
        raise ValueError(f"{name} needs a judged document with a gain above 0")
    return relevant


def _discounted(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rank by rank, so that a row's sum has one order of additions whatever the number of rows or of padded ranks.
    total = np.zeros(gains.shape[0])
    for column, discount in zip(range(gains.shape[1]), discounts(gains.shape[1]), strict=True):
        total += gains[:, column] * discount
    return total

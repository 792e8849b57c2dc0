"""Pseudo-relevance feedback: which words of the documents ranked first are added to a query, and how much each weighs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def relevance_model(counts: NDArray[Any], lengths: NDArray[Any], scores: NDArray[np.float64], terms: int) -> NDArray[np.float64]:
    """Return the relevance model of the terms, float64[vocabulary], cut to its largest entries and summing to 1.

    P(w) = Σ_d s_d/Σs · c(w, d)/|d|, the document's share of the scores in place of its query likelihood.

    Args:
        counts: [documents, vocabulary] of the documents ranked first.
        lengths: [documents] their numbers of words, all above 0.
        scores: [documents] their scores, above 0.
        terms: entries that are kept; of equal ones the first.

    Source: Lavrenko & Croft, "Relevance-based language models" (2001), model 1.
    """
    model = (scores / scores.sum()) @ (counts / lengths[:, None])
    return _largest(model, terms, model[np.argsort(-model, kind="stable")[:terms]].sum())


def bose_einstein(counts: NDArray[Any], frequencies: NDArray[Any], documents: int, terms: int) -> NDArray[np.float64]:
    """Return the weights Bo1 of the terms, float64[vocabulary], cut to the largest, of which the largest is 1.

    w = x · log2((1 + P)/P) + log2(1 + P) with P = F/N: x in the documents ranked first, F in all N documents.

    Args:
        counts: [documents, vocabulary] of the documents ranked first.
        frequencies: [vocabulary] in the whole catalogue, above 0.
        documents: N.
        terms: entries that are kept; of equal ones the first.

    Source: Amati, "Probability models for information retrieval based on divergence from randomness" (2003), section 8.
    """
    rate = frequencies / documents
    weights = np.where(counts.sum(axis=0) > 0, counts.sum(axis=0) * np.log2((1 + rate) / rate) + np.log2(1 + rate), 0.0)
    return _largest(weights, terms, weights.max())


def _largest(weights: NDArray[np.float64], count: int, scale: float) -> NDArray[np.float64]:
    kept = np.zeros(len(weights))
    chosen = np.argsort(-weights, kind="stable")[:count]
    kept[chosen] = weights[chosen] / scale
    return kept

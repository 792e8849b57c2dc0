"""What a search engine's own result lists say of a rewrite, without judgments: how sure each list is, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ospo_cli.retrievers.base import Ranking, Retriever, padded

DEPTH = 10
SEARCH_FEATURES = (
    "query_top_score", "query_score_per_word", "query_second", "query_tenth", "rewrite_second", "rewrite_tenth", "rewrite_top_share",
    "query_score_kept", "query_score_kept_first", "rewrite_score_kept", "overlap",
)  # fmt: skip
_TINY = 1e-9
Values = NDArray[np.float64]


def search_features(engine: Retriever, queries: Sequence[str], rewritten: Sequence[str]) -> Values:
    """Return SEARCH_FEATURES of each pair of raw query and what would be searched in its place, float64[n, features].

    Ten products deep, over the whole catalogue: the raw query's first score, alone and per word; each list's second and tenth score by its
    first; the rewrite's first score by both first scores; the raw query's score of the rewrite's list by that of its own list, and of the
    first products; the rewrite's score of the raw query's list by that of its own; the products in both lists by the longer list.
    """
    own, other = (_ranked(engine, texts, [None] * len(texts)) for texts in (queries, rewritten))
    crossed = _ranked(engine, queries, [np.sort(each.documents) for each in other])
    backwards = _ranked(engine, rewritten, [np.sort(each.documents) for each in own])
    query, rewrite, kept, back = (_scores(each) for each in (own, other, crossed, backwards))
    words = np.array([max(1, len(text.split())) for text in queries])
    first, top = query[:, 0] + _TINY, rewrite[:, 0] + _TINY
    shared = [len(set(a.documents.tolist()) & set(b.documents.tolist())) for a, b in zip(own, other, strict=True)]
    longer = [max(len(a.documents), len(b.documents), 1) for a, b in zip(own, other, strict=True)]
    return np.column_stack(
        [query[:, 0], query[:, 0] / words, query[:, 1] / first, query[:, -1] / first, rewrite[:, 1] / top, rewrite[:, -1] / top,
         rewrite[:, 0] / (query[:, 0] + top), kept.sum(axis=1) / (query.sum(axis=1) + _TINY), kept[:, 0] / first,
         back.sum(axis=1) / (rewrite.sum(axis=1) + _TINY), np.array(shared) / np.array(longer)]
    )  # fmt: skip


def _ranked(engine: Retriever, texts: Sequence[str], pools: Sequence[NDArray[np.int64] | None]) -> list[Ranking]:
    return engine.rank(texts, pools, DEPTH)


def _scores(rankings: Sequence[Ranking]) -> Values:
    """Return the scores, float64[n, DEPTH], 0 where nothing more was found."""
    found = padded(rankings)[1]
    return np.pad(found, ((0, 0), (0, DEPTH - found.shape[1])))

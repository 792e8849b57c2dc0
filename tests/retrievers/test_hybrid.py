"""Fusion of rankings: the written formulas, exact ties, errors that say what to do."""

import numpy as np
import pytest

from ospo_cli.errors import ParameterError
from ospo_cli.params.retrieval import Hybrid, Retrieval
from ospo_cli.retrievers.opening import build
from tests.retrievers.catalogues import documents, random_queries, random_titles

COUNT = 90
TABLE = documents(random_titles(71, COUNT))
QUERIES = random_queries(72, 25)


def retrieval(**settings):
    return Retrieval(hybrid=Hybrid(**{"retrievers": ["bm25", "lsa"], **settings}))


def hybrid(tmp_path, table=TABLE, **settings):
    return build("hybrid", table, retrieval(**settings), tmp_path)


def expected(tmp_path, names, pools, contribution):
    """Return a dictionary document -> score per query, by the formula as it is written."""
    fused = [{} for _ in QUERIES]
    for place, name in enumerate(names):
        for scores, ranking in zip(fused, build(name, TABLE, Retrieval(), tmp_path).rank(QUERIES, pools, 0), strict=True):
            for rank, (document, score) in enumerate(zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True), start=1):
                scores[document] = scores.get(document, 0.0) + contribution(place, rank, score, ranking.scores)
    return fused


@pytest.mark.parametrize("names", [["bm25", "lsa"], ["lsa", "tfidf-char", "bm25"]])
@pytest.mark.parametrize("pool", [None, np.arange(0, COUNT, 4)])
def test_reciprocal_rank_fusion_is_its_formula(names, pool, tmp_path):
    pools = [pool] * len(QUERIES)
    wanted = expected(tmp_path, names, pools, lambda place, rank, *_: 1.0 / (60 + rank))
    found = hybrid(tmp_path, retrievers=names, depth=0).rank(QUERIES, pools, 0)
    for ranking, scores in zip(found, wanted, strict=True):
        assert list(zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True)) == sorted(
            scores.items(), key=lambda item: (-item[1], item[0])
        )


def test_weighted_sums_are_their_formula(tmp_path):
    weights = [2.0, 0.5]

    def contribution(place, rank, score, scores):
        spread = scores.max() - scores.min()
        return weights[place] * (0.001 + 0.999 * (score - scores.min()) / spread if spread else 1.0)

    wanted = expected(tmp_path, ["bm25", "lsa"], [None] * len(QUERIES), contribution)
    found = hybrid(tmp_path, fusion="weighted", weights=weights, depth=0).rank(QUERIES, [None] * len(QUERIES), 0)
    for ranking, scores in zip(found, wanted, strict=True):
        assert ranking.scores == pytest.approx([scores[document] for document in ranking.documents.tolist()], abs=1e-12)
        assert set(ranking.documents.tolist()) == set(scores)
        assert (np.diff(ranking.scores) <= 0).all()


def test_a_weight_of_zero_leaves_the_other_ranking(tmp_path):
    alone = build("bm25", TABLE, Retrieval(), tmp_path).rank(QUERIES, [None] * len(QUERIES), 10)
    found = hybrid(tmp_path, weights=[1.0, 0.0]).rank(QUERIES, [None] * len(QUERIES), 10)
    assert [ranking.documents.tolist() for ranking in found] == [ranking.documents.tolist() for ranking in alone]


def test_documents_of_equal_ranks_tie_exactly_and_stand_in_the_order_of_their_ids(tmp_path):
    # "coat" alone is found by both; of the two others each is second in one ranking.
    table = documents(["wool", "wool coat", "coat", "belt"])
    found = hybrid(tmp_path, table, retrievers=["bm25", "tfidf-char"]).rank(["coat wool"], [None], 0)[0]
    assert found.documents.tolist() == [1, 0, 2]
    assert found.scores[0] == 2 / 61


def test_only_the_ranks_within_the_depth_count(tmp_path):
    found = hybrid(tmp_path, depth=3).rank(QUERIES, [None] * len(QUERIES), 0)
    assert max(len(ranking.documents) for ranking in found) <= 6


def test_its_fingerprint_is_made_of_its_parts_and_its_settings(tmp_path):
    prints = [
        hybrid(tmp_path, **settings).fingerprint
        for settings in (
            {},
            {"retrievers": ["lsa", "bm25"]},
            {"retrievers": ["bm25", "tfidf-char"]},
            {"fusion": "weighted"},
            {"weights": [1.0, 2.0]},
            {"rrf_k": 10},
            {"depth": 50},
        )
    ]
    prints.append(hybrid(tmp_path, TABLE.head(60)).fingerprint)
    prints.append(build("hybrid", TABLE, Retrieval(k1=0.9, hybrid=retrieval().hybrid), tmp_path).fingerprint)
    assert len(set(prints)) == len(prints)
    assert hybrid(tmp_path, weights=[1.0, 1.0]).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retrievers": ["bm25"]}, "needs two or more, none twice: found bm25"),
        ({"retrievers": ["bm25", "bm25"]}, "needs two or more, none twice"),
        ({"retrievers": ["bm25", "hybrid"]}, "cannot be fused: found hybrid"),
        ({"retrievers": ["bm25", "bm52"]}, "cannot be fused: found bm52, expected bm25, rank-bm25"),
        ({"weights": [1.0]}, "one per retriever: found 1, expected 2"),
        ({"weights": [0.0, 0.0]}, "nothing weighs anything"),
    ],
)
def test_what_cannot_be_fused_is_refused(settings, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        hybrid(tmp_path, **settings)

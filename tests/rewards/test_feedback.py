"""RM3 and Bo1 over BM25, against the formulas written out term by term."""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from ospo_cli.rewards.feedback import Feedback
from ospo_cli.rewards.judged_reward import JudgedReward
from tests.report import small_project
from tests.retrievers.catalogues import documents, random_queries, random_titles

TITLES = random_titles(7, 60, vocabulary=40, length=9)
KNOWN = {word for title in TITLES for word in title.split()}
QUERIES = [*(query for query in random_queries(8, 14, vocabulary=40) if KNOWN & {*query.split()}), "nothing known"]


def project(pooled):
    prompts = pl.DataFrame({"prompt_id": [f"q{n:02d}" for n in range(len(QUERIES))], "query": QUERIES})
    judged = pl.DataFrame({"prompt_id": prompts["prompt_id"], "doc_id": ["d000"] * len(QUERIES), "relevance": [1.0] * len(QUERIES)})
    pools = pl.DataFrame(
        [(prompt_id, f"d{n:03d}") for prompt_id in prompts["prompt_id"] for n in range(0, 60, 1 + pooled)],
        schema=["prompt_id", "doc_id"], orient="row",
    )  # fmt: skip
    values = small_project.make_params()
    table = documents(TITLES)
    reward = JudgedReward((table, prompts, judged, pools if pooled else pools.clear()), values)
    return reward, Feedback(reward, table, values.retrieval), prompts["prompt_id"].to_list(), range(0, 60, 1 + pooled)


def bm25(word, document, k1=1.2, b=0.75):
    lists = [title.split() for title in TITLES]
    n, mean = sum(word in words for words in lists), sum(map(len, lists)) / len(lists)
    tf, length = lists[document].count(word), len(lists[document])
    return math.log(1 + (len(lists) - n + 0.5) / (n + 0.5)) * tf / (tf + k1 * (1 - b + b * length / mean)) if tf else 0.0


def order(weights, candidates):
    scored = [(sum(weight * bm25(word, document) for word, weight in weights.items()), document) for document in candidates]
    return [document for score, document in sorted(scored, key=lambda pair: (-round(pair[0], 5), pair[1])) if score > 0]


def largest(weights, count=10):
    return dict(sorted(weights.items(), key=lambda item: (-round(item[1], 12), item[0]))[:count])


def rm3(query, candidates):
    words = set(query.split())
    first = order(dict.fromkeys(words, 1.0), candidates)[:10]
    scores = {d: sum(bm25(word, d) for word in words) for d in first}
    model = Counter()
    for d in first:
        for word in TITLES[d].split():
            model[word] += scores[d] / sum(scores.values()) / len(TITLES[d].split())
    kept = largest(model)
    return Counter({word: 0.5 / len(words) for word in words}) + Counter({w: 0.5 * p / sum(kept.values()) for w, p in kept.items()})


def bo1(query, candidates):
    words = set(query.split())
    first = order(dict.fromkeys(words, 1.0), candidates)[:3]
    tf = Counter(word for d in first for word in TITLES[d].split())
    collection = Counter(word for title in TITLES for word in title.split())
    rate = {word: collection[word] / len(TITLES) for word in tf}
    weight = {word: tf[word] * math.log2((1 + rate[word]) / rate[word]) + math.log2(1 + rate[word]) for word in tf}
    kept = largest(weight)
    return Counter(dict.fromkeys(words, 1.0)) + Counter({word: w / max(kept.values()) for word, w in kept.items()})


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("name", "reference"), [("RM3 feedback", rm3), ("Bo1 feedback", bo1)])
def test_expanded_queries_and_their_rankings_are_those_of_the_formulas(name, reference, pooled):
    _, feedback, ids, candidates = project(pooled)
    for query, found in zip(QUERIES[:-1], feedback.expanded(ids, QUERIES)[name], strict=False):
        expected = reference(query, candidates)
        assert found.words == pytest.approx(dict(expected), abs=1e-6)
        assert len(expected) > len(set(query.split()))
        assert found.ranking.documents.tolist()[:10] == order(expected, candidates)[:10]


def test_a_query_that_retrieves_nothing_stays_as_it_is():
    reward, feedback, ids, _ = project(pooled=False)
    for expanded in feedback.expanded(ids, QUERIES).values():
        assert expanded[-1].words == {"nothing": 1.0, "known": 1.0}
        assert reward.ranking_values(ids[-1:], [expanded[-1].ranking]).tolist() == [0.0]


def test_a_rankings_value_is_that_of_the_text_which_finds_it():
    reward, _, ids, _ = project(pooled=True)
    rankings = reward.rankings(ids, QUERIES, 0)
    assert np.array_equal(reward.ranking_values(ids, rankings), reward.values(ids, QUERIES))

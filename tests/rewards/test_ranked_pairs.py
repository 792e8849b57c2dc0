"""Pairs that are ranked in shards: the reward's own numbers, however they are cut, and again only what has changed."""

import polars as pl
import pytest

from ospo_cli.rewards import ranked_pairs
from ospo_cli.rewards.judged_reward import JudgedReward
from tests.report import small_project
from tests.retrievers.catalogues import documents, random_queries, random_titles

QUERIES = random_queries(8, 12, vocabulary=40)
METRICS = ["ndcg@10", "recall@10"]


def make(retriever="bm25", judged="d000", pooled=True):
    ids = [f"q{number}" for number in range(4)]
    prompts = pl.DataFrame({"prompt_id": ids, "query": QUERIES[:4]})
    qrels = pl.DataFrame({"prompt_id": [*ids, "q3"], "doc_id": ["d003"] * 4 + [judged], "relevance": [1.0] * 5})
    pools = pl.DataFrame(
        [(name, f"d{n:03d}") for name in ids for n in range(0, 60, 2)] if pooled else [], schema=["prompt_id", "doc_id"], orient="row"
    )
    pools = pools.cast({"prompt_id": pl.String, "doc_id": pl.String})
    if pooled:
        qrels = qrels.with_columns(doc_id=pl.col("doc_id").replace({"d003": "d004"}))
    return JudgedReward(
        (documents(random_titles(7, 60, vocabulary=40, length=9)), prompts, qrels, pools), small_project.make_params(), retriever=retriever
    )


def asked():
    rows = [(f"q{number % 4}", query, number % 3 == 0) for number, query in enumerate([*QUERIES, "nothing known"])]
    return pl.DataFrame([*rows, ("q0", QUERIES[4], True)], schema=["prompt_id", "query", "is_shown"], orient="row")


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("size", [1, 5, 1024])
def test_metrics_and_first_products_are_those_of_the_reward_however_the_pairs_are_cut(size, pooled, tmp_path, monkeypatch):
    monkeypatch.setattr(ranked_pairs, "_PAIRS_PER_SHARD", size)
    values, first = ranked_pairs.ranked(make(pooled=pooled), asked(), METRICS, 3, tmp_path, "test")
    pairs, reward = asked().select("prompt_id", "query").unique().sort("prompt_id", "query"), make(pooled=pooled)
    expected = reward.measures(pairs["prompt_id"].to_list(), pairs["query"].to_list(), METRICS)
    assert values.equals(pairs.with_columns(pl.Series(name, expected[name]) for name in METRICS))
    assert values["recall@10"].sum() > 0
    shown = asked().filter("is_shown").select("prompt_id", "query").unique().sort("prompt_id", "query")
    assert ("q0", QUERIES[4]) in shown.rows()
    rankings = reward.rankings(shown["prompt_id"].to_list(), shown["query"].to_list(), 3)
    rows = [
        (*pair, rank, reward.doc_ids[document], score)
        for pair, ranking in zip(shown.rows(), rankings, strict=True)
        for rank, (document, score) in enumerate(zip(ranking.documents, ranking.scores, strict=True), 1)
    ]
    assert first.rows() == rows
    assert len(rows) > 6
    # A prompt's pairs stay together: 5, 3, 3 and 3 of them.
    assert len(list(tmp_path.rglob("first.parquet"))) == {1: 4, 5: 3, 1024: 1}[size]


def test_only_what_has_changed_is_ranked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ranked_pairs, "_PAIRS_PER_SHARD", 1)
    counts = []
    for reward, metrics in (
        (make(), METRICS),
        (make(), METRICS),
        (make(judged="d006"), METRICS),
        (make("tfidf-char"), METRICS),
        (make(), METRICS[:1]),
    ):
        ranked_pairs.ranked(reward, asked(), metrics, 3, tmp_path, "test")
        counts.append(reward.tally.asked)
    pairs, of_q3 = (asked().filter(keep).select("prompt_id", "query").unique().height for keep in (True, pl.col("prompt_id") == "q3"))
    assert counts == [pairs, 0, of_q3, pairs, pairs]
    # Another depth is another table of first products.
    assert ranked_pairs.ranked(make(), asked(), METRICS, 2, tmp_path, "test")[1]["rank"].max() == 2


def test_queries_that_retrieve_nothing_have_no_products(tmp_path):
    nothing = pl.DataFrame({"prompt_id": ["q0"], "query": ["zzzz"], "is_shown": [True]})
    values, first = ranked_pairs.ranked(make(), nothing, METRICS, 3, tmp_path, "test")
    assert values.rows() == [("q0", "zzzz", 0.0, 0.0)]
    assert first.rows() == []

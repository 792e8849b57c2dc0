"""The retrieval reward: what a text is worth, and what cannot be scored."""

import dataclasses

import ir_measures
import numpy as np
import polars as pl
import pytest

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables.prepared import POOLS, PROMPTS, QRELS
from ospo_cli.text.composition import compose
from tests.retrievers.catalogues import LOCAL, documents, random_queries, random_titles

TITLES = [
    "red wool coat",
    "blue cotton shirt",
    "red cotton shirt",
    "green linen trousers",
    "red wool coat",
    "blue rain boots",
    "leather belt",
]


def prompts(**queries):
    rows = [(prompt_id, "train", query, [], query) for prompt_id, query in queries.items()]
    return pl.DataFrame(rows, schema=PROMPTS.schema, orient="row")


def qrels(*rows):
    return pl.DataFrame(rows, schema=QRELS.schema, orient="row")


def pools(*rows):
    return pl.DataFrame(rows, schema=POOLS.schema, orient="row")


def judged(titles=TITLES, queries=None, judgments=(("p1", "d004", 1.0),), pooled=(), **settings):
    section = dataclasses.replace(ScoreCoalitions(), **settings)
    values = dataclasses.replace(Params(), score_coalitions=section)
    return JudgedReward((documents(titles), prompts(**(queries or {"p1": "coat"})), qrels(*judgments), pools(*pooled)), values)


def test_the_target_behind_an_equal_document_of_a_lower_id_earns_the_second_rank():
    assert judged().values(["p1"], ["wool coat"]).tolist() == [1 / np.log2(3)]


@pytest.mark.parametrize("query", ["", "zzzz", "?!", "\x00"])
def test_a_text_that_retrieves_nothing_is_worth_zero(query):
    assert judged().values(["p1"], [query]).tolist() == [0.0]


def test_the_order_of_the_tables_rows_changes_no_value():
    judgments = [("p1", "d004", 1.0), ("p1", "d000", 0.5), ("p2", "d001", 1.0), ("p2", "d005", 0.2)]
    pooled = [(prompt_id, f"d{index:03d}") for prompt_id in ("p1", "p2") for index in range(6)]
    queries = {"p1": "coat", "p2": "blue shirt"}
    shuffled = [judgments[row] for row in (2, 1, 3, 0)], [pooled[row] for row in (7, 0, 11, 5, 1, 8, 4, 9, 2, 6, 10, 3)]
    rewards = [judged(queries=queries, judgments=some, pooled=candidates) for some, candidates in ((judgments, pooled), shuffled)]
    texts = ["red coat", "blue rain", "cotton", "wool shirt", "boots"]
    asked = [prompt_id for prompt_id in queries for _ in texts], texts * 2
    first, second = (reward.values(*asked).tolist() for reward in rewards)
    assert first == second
    assert len(set(first)) > 4
    assert rewards[0].known_gains("p1") == rewards[1].known_gains("p1") == {0: 0.5, 4: 1.0}


def test_gains_are_linear_in_the_relevance():
    reward = judged(judgments=[("p1", "d000", 0.1), ("p1", "d004", 1.0)])
    expected = (0.1 + 1 / np.log2(3)) / (1 + 0.1 / np.log2(3))
    assert reward.values(["p1"], ["wool coat"])[0] == pytest.approx(expected, abs=1e-15)


def test_the_ideal_ranking_holds_the_pools_judged_documents_alone():
    reward = judged(judgments=[("p1", "d000", 1.0), ("p1", "d004", 1.0)], pooled=[("p1", "d004"), ("p1", "d006"), ("p1", "d001")])
    assert reward.values(["p1"], ["wool coat"]).tolist() == [1.0]


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("is_pooled", [True, False])
def test_all_metrics_of_all_retrievers_equal_those_of_ir_measures_on_their_rankings(name, is_pooled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(31)
    titles = random_titles(32, 90)
    ids = [f"d{index:03d}" for index in range(90)]
    queries = {f"p{index}": query for index, query in enumerate(random_queries(33, 12))}
    judgments = [
        (prompt_id, ids[place], float(grade))
        for prompt_id in queries
        for place, grade in zip(rng.permutation(90)[:8], [1, 2, 3, 1, 2, 0, 1, 1], strict=True)
    ]
    pooled = [(prompt_id, doc_id) for prompt_id, doc_id, _ in judgments] + [
        (prompt_id, doc_id) for prompt_id in queries for doc_id in ids[::4]
    ]
    reward = judged(titles, queries, judgments, sorted(set(pooled)) * is_pooled, retriever=name)
    names = ["ndcg@10", "ndcg@pool", "mrr", "recall@5"]
    measures = [ir_measures.nDCG @ 10, ir_measures.nDCG @ 1000, ir_measures.RR, ir_measures.R @ 5]
    texts = list(queries.values())
    found = reward.measures(list(queries), texts, names)
    rankings = reward.rankings(list(queries), texts, 0)
    run = [
        ir_measures.ScoredDoc(prompt_id, reward.doc_ids[document], -float(place))
        for prompt_id, ranking in zip(queries, rankings, strict=True)
        for place, document in enumerate(ranking.documents)
    ]
    grades = [ir_measures.Qrel(prompt_id, doc_id, int(grade)) for prompt_id, doc_id, grade in judgments]
    expected = {(row.query_id, row.measure): row.value for row in ir_measures.iter_calc(measures, grades, run)}
    wanted = [[expected.get((prompt_id, measure), 0.0) for prompt_id in queries] for measure in measures]
    assert np.array([found[name] for name in names]) == pytest.approx(np.array(wanted), abs=1e-9)


def test_a_batch_changes_no_bit_of_a_value():
    titles = random_titles(34, 120)
    queries = {f"p{index}": query for index, query in enumerate(random_queries(35, 10))}
    judgments = [(prompt_id, f"d{7 * index + 3:03d}", 1.0) for index, prompt_id in enumerate(queries)]
    reward = judged(titles, queries, judgments)
    prompt_ids = [prompt_id for prompt_id in queries for _ in range(30)]
    texts = random_queries(36, 300)
    alone = [reward.values([prompt_id], [text])[0] for prompt_id, text in zip(prompt_ids, texts, strict=True)]
    assert reward.values(prompt_ids, texts).tolist() == alone


def test_append_puts_the_raw_query_first_and_replace_leaves_it_out():
    assert [
        compose("shoe", "red", "append"),
        compose("shoe", "", "append"),
        compose("shoe", "red", "replace"),
        compose("shoe", "", "replace"),
    ] == ["shoe red", "shoe", "red", ""]


def test_a_prompt_without_a_relevant_product_is_named_with_a_remedy():
    reward = judged(queries={"p1": "coat", "p2": "hat"}, judgments=[("p1", "d004", 1.0), ("p2", "d001", 0.0)])
    with pytest.raises(RetrievalError, match=r"prompt p2: has no relevant product.*judge a product for it"):
        reward.values(["p1", "p2"], ["coat", "hat"])


def test_a_prompt_whose_relevant_products_are_all_outside_its_pool_is_named():
    with pytest.raises(RetrievalError, match="prompt p1: no relevant product is in its pool: found d004"):
        judged(pooled=[("p1", "d001")]).values(["p1"], ["coat"])


def test_a_prompt_without_pool_where_others_have_one_is_named():
    with pytest.raises(RetrievalError, match="prompt p1: has no pool"):
        judged(queries={"p1": "coat", "p2": "hat"}, pooled=[("p2", "d004")]).values(["p1"], ["coat"])


@pytest.mark.parametrize(("table", "rows"), [("qrels", {"judgments": [("p1", "d999", 1.0)]}), ("pools", {"pooled": [("p1", "d999")]})])
def test_a_product_that_is_not_in_the_catalogue_is_named(table, rows):
    with pytest.raises(RetrievalError, match=f"table {table}, prompt p1: names a product that is not in the catalogue: found d999"):
        judged(**rows).values(["p1"], ["coat"])


def test_a_prompt_that_does_not_exist_is_named():
    with pytest.raises(RetrievalError, match="prompt p9: no such prompt"):
        judged().values(["p9"], ["coat"])


@pytest.mark.parametrize("relevance", [float("nan"), float("inf")])
def test_a_relevance_that_is_no_number_is_an_error_and_never_a_reward(relevance):
    with pytest.raises(RetrievalError, match="not a finite number"):
        judged(judgments=[("p1", "d004", relevance)]).values(["p1"], ["coat"])


def test_an_unknown_metric_is_refused_with_the_list():
    with pytest.raises(ParameterError, match="ndcg@pool, ndcg@retrieved, mrr"):
        judged(metric="map@10")


@pytest.mark.parametrize("composition", ["replace", "append"])
@pytest.mark.parametrize("is_raw_if_empty", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("metric", ["ndcg@10", "mrr", "ndcg@pool"])
def test_the_value_of_a_coalition_has_the_bits_of_its_text(composition, is_raw_if_empty, pooled, metric, tmp_path):
    titles, rng = random_titles(41, 90), np.random.default_rng(42)
    names = ["p0", "p1"]
    prompts = pl.DataFrame([(name, "train", "w3 w9", [], "w3 w9") for name in names], schema=PROMPTS.schema, orient="row")
    qrels = pl.DataFrame(
        [(name, f"d{row:03d}", 1.0 + row % 3) for name in names for row in range(0, 40, 7)], schema=QRELS.schema, orient="row"
    )
    members = [(name, f"d{row:03d}") for name in names for row in range(0, 90, 2)] if pooled else []
    values = Params()
    values = dataclasses.replace(
        values, score_coalitions=dataclasses.replace(values.score_coalitions, composition=composition, metric=metric)
    )
    reward = JudgedReward(
        (documents(titles), prompts, qrels, pl.DataFrame(members, schema=POOLS.schema, orient="row")), values, cache=tmp_path
    )
    parts = [[" ".join(f"w{word}" for word in rng.integers(0, 130, size=rng.integers(1, 4))) for _ in range(5)] for _ in range(6)]
    present = [rng.random((9, 5)) < 0.5 for _ in range(6)]
    present[0][0] = False
    prompt_ids = ["p0", "p0", "p1", "p1", "p1", "p0"]
    texts = [
        " ".join(part for part, is_in in zip(own, row, strict=True) if is_in)
        for own, rows in zip(parts, present, strict=True)
        for row in rows
    ]
    owners = [name for name in prompt_ids for _ in range(9)]
    queries = [
        reward.raw_query(name) if is_raw_if_empty and not text else reward.compose(name, text)
        for name, text in zip(owners, texts, strict=True)
    ]
    found = reward.coalition_values(prompt_ids, parts, present, is_raw_if_empty=is_raw_if_empty)
    assert found.tobytes() == reward.values(owners, queries).tobytes()
    assert len(np.unique(found)) > 5


def weighing(training, retriever, fields):
    settings = dataclasses.replace(ScoreCoalitions(), retriever=training)
    values = dataclasses.replace(Params(), score_coalitions=settings, retrieval=dataclasses.replace(Params().retrieval, fields=fields))
    return JudgedReward((documents(TITLES), prompts(p1="coat"), qrels(("p1", "d004", 1.0)), pools()), values, retriever=retriever)


def test_a_further_retriever_that_weighs_no_fields_counts_each_once_and_one_of_the_training_is_refused():
    found = weighing("bm25", "tfidf-char", ["title^2"])
    assert found.retriever.fingerprint == weighing("bm25", "tfidf-char", ["title"]).retriever.fingerprint
    assert weighing("bm25", None, ["title^2"]).retriever.fingerprint != weighing("bm25", None, ["title"]).retriever.fingerprint
    with pytest.raises(ParameterError, match="retriever tfidf-char does not weigh fields"):
        weighing("tfidf-char", None, ["title^2"])

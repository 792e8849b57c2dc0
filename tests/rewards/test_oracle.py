"""The oracle's search on a small shop."""

import polars as pl
import pytest

from ospo_cli.layout import Layout
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.oracle import OracleSearch
from ospo_cli.tables import parquet, reference
from tests.report import small_project


def search(root, **changes):
    layout, values = Layout(root), small_project.make_params(**changes)
    small_project.write_prepared(layout)
    tables = {
        name: parquet.read(layout.prepared(f"{name}.parquet"), reference.TABLES[name])
        for name in ("documents", "prompts", "qrels", "pools")
    }
    reward = JudgedReward(tuple(tables.values()), values, cache=layout.cache)
    return OracleSearch(reward, tables["documents"], values), reward, tables


@pytest.mark.parametrize("composition", ["replace", "append"])
def test_no_query_is_worse_than_the_raw_one_and_more_edits_help_no_less(tmp_path, composition):
    values = []
    for edits in (1, 3):
        oracle, reward, tables = search(tmp_path, evaluate={"oracle_edits": edits}, score_coalitions={"composition": composition})
        prompts = tables["prompts"]
        values.append(reward.values(prompts["prompt_id"].to_list(), oracle.queries(prompts)))
    raw = reward.values(prompts["prompt_id"].to_list(), prompts["query"].to_list())
    assert (raw <= values[0]).all()
    assert (values[0] <= values[1]).all()
    assert raw.mean() < values[0].mean()


def test_candidates_are_words_of_relevant_products_and_rare_ones_come_first(tmp_path):
    oracle, _, tables = search(tmp_path, evaluate={"oracle_words": 5})
    prompt_id = tables["prompts"]["prompt_id"][0]
    relevant = tables["qrels"].filter(pl.col("prompt_id") == prompt_id).join(tables["documents"], on="doc_id")
    texts = " ".join(relevant["title"].to_list() + relevant["description"].to_list() + relevant["category"].to_list()).lower()
    found = oracle.candidates(prompt_id)
    assert len(found) == 5
    assert all(word in texts for word in found)


@pytest.mark.parametrize(("folding", "expected"), [("standard", "isik"), ("turkish", "ısık")])
def test_candidates_are_words_of_the_folding(tmp_path, folding, expected):
    oracle, _, tables = search(tmp_path, retrieval={"folding": folding})
    oracle.documents = oracle.documents.with_columns(title=pl.lit("IŞIK"))
    assert expected in oracle.candidates(tables["prompts"]["prompt_id"][0])


def test_under_append_the_raw_query_stays_in_front(tmp_path):
    oracle, _, tables = search(tmp_path, score_coalitions={"composition": "append"})
    queries = oracle.queries(tables["prompts"])
    assert all(query.startswith(raw) for query, raw in zip(queries, tables["prompts"]["query"].to_list(), strict=True))


def test_where_the_retriever_can_tell_what_a_text_has_to_say_the_oracle_says_it(tmp_path):
    values = small_project.make_params(score_coalitions={"retriever": "checker", "metric": "recall@10"})
    lines = ["say tent, pegs", "say boots; not candle; within 3 words"]
    documents = pl.DataFrame({"doc_id": ["r1", "r2"], "title": lines, "category": ["", ""]})
    prompts = pl.DataFrame({"prompt_id": ["a"], "split": ["test"], "query": ["camping"], "history": [[]], "prompt": ["camping"]})
    judged = pl.DataFrame({"prompt_id": ["a", "a"], "doc_id": ["r1", "r2"], "relevance": [1.0, 1.0]})
    reward = JudgedReward((documents, prompts, judged, judged.drop("relevance")), values)
    queries = OracleSearch(reward, documents, values).queries(prompts)
    assert queries == ["tent, pegs, boots"]  # no single word of a pair helps, so that edits alone stop at boots
    assert reward.values(["a"], queries).tolist() == [1.0]

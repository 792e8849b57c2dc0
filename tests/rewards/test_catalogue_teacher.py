"""Pairs from the catalogue's own phrases: what they teach, and that train queries keep what harms them out."""

import numpy as np
import polars as pl
import pytest

from ospo_cli.layout import Layout
from ospo_cli.rewards import catalogue_teacher
from ospo_cli.rewards.catalogue_teacher import _beside, drawn, pairs_and_prompts, phrases, query_answers
from ospo_cli.stages import warm_start
from ospo_cli.tables import parquet, reference
from ospo_cli.text.shared_words import Texts
from tests.policies.tiny import tiny_params

SHORTS = [("Swim Shorts", "A badehose. navy blue"), ("Swim Shorts Evo", "A badehose. red"), ("Swim Shorts", "badehose for men")]
REST = [("Wool Coat", "navy blue")] * 10 + [("Lamp", "red")] * 290


def texts(products=(*SHORTS, *REST)):
    return pl.DataFrame(products, schema=["title", "description"], orient="row")


def mined(products=(*SHORTS, *REST)):
    frame = texts(products)
    return phrases(frame, Texts(frame["title"].to_list()), np.random.default_rng(0))


def test_a_phrase_gets_the_title_words_that_its_products_share_and_it_does_not_have():
    found = mined()
    assert found["badehose"] == ["swim", "shorts"]
    assert found["swim"] == ["shorts"]
    assert found["swim shorts"] == []
    assert found["navy"] == ["wool", "coat"]
    assert "a badehose" not in found  # two products
    assert "red" not in found  # most of the catalogue
    assert found["navy blue"] == ["wool", "coat"]


def test_a_query_is_a_phrase_alone_or_beside_a_word_of_a_train_query_that_says_nothing(monkeypatch):
    monkeypatch.setattr(catalogue_teacher, "PHRASES", 400)
    found = {"badehose": ["swim", "shorts"], "swim": ["shorts"], "fjordwind": []}
    beside = _beside(found, ["ladies badehose", "shorts Ladies"])
    assert beside == ["ladies", "shorts", "ladies"]
    pairs = drawn(found, beside, np.random.default_rng(0))
    assert len(pairs) == 400
    for query, answer in (("badehose", ["swim", "shorts"]), ("ladies badehose", ["swim", "shorts"]), ("badehose shorts", ["swim"])):
        assert (query, answer) in pairs
    assert {tuple(answer) for query, answer in pairs if not {"badehose", "swim"} & set(query.split())} == {()}
    assert drawn(found, beside, np.random.default_rng(0)) == pairs
    assert {query for query, _ in drawn(found, [], np.random.default_rng(0))} == set(found)
    assert drawn({"fjordwind": []}, beside, np.random.default_rng(0)) == []


def prepared(root):
    """Write a shop with two train queries, of which one is judged by products that share words."""
    layout, products = Layout(root), [*SHORTS, ("Swim Shorts", "blue"), *REST]
    documents = [(f"d{row:03d}", title, "", text) for row, (title, text) in enumerate(products)]
    asked = [("badehose", "train", "Badehose", [], "find badehose"), ("held out", "test", "held out", [], "find held out")]
    asked += [("light", "train", "light", [], "find light")]
    judged = [("badehose", f"d00{row}", 1.0) for row in range(4)] + [("held out", "d000", 1.0)]
    judged += [("light", "d200", 1.0)]
    rows = {"documents": documents, "prompts": asked, "qrels": judged, "pools": [], "teacher_pairs": []}
    for name, content in rows.items():
        table = reference.TABLES[name]
        schema = table.schema | ({"description": pl.String} if name == "documents" else {})
        parquet.write(pl.DataFrame(content, schema=schema, orient="row"), layout.prepared(f"{name}.parquet"), table)
    return layout


def settings(composition):
    return tiny_params(
        warm_start={"teacher": "catalogue", "steps": 2},
        prepare_data={"source": "clicks", "prompt_template": "find {query}"},
        score_coalitions={"composition": composition},
    )


@pytest.mark.parametrize(("composition", "answer"), [("append", "swim shorts"), ("replace", "badehose swim shorts")])
def test_pairs_are_of_train_queries_and_of_phrases_that_are_asked_like_them(tmp_path, monkeypatch, capsys, composition, answer):
    monkeypatch.setattr(catalogue_teacher, "PHRASES", 50)
    layout = prepared(tmp_path)
    prompts = parquet.read(layout.prepared("prompts.parquet"), reference.TABLES["prompts"])
    pairs, asked = pairs_and_prompts(layout, settings(composition), prompts)
    own = pairs.filter(pl.col("prompt_id").is_in(prompts["prompt_id"].to_list()))
    nothing = "" if composition == "append" else "light"
    assert set(own.select("prompt_id", "completion").rows()) == {
        ("badehose", f"<answer>{answer}</answer>"),
        ("light", f"<answer>{nothing}</answer>"),
    }
    assert own.height == 2 * catalogue_teacher.REPEATS
    assert asked.height == prompts.height + 50 == prompts.height + pairs.height - own.height
    message = dict(asked.select("prompt_id", "prompt").iter_rows())
    phrase = dict(asked.select("prompt_id", "query").iter_rows())
    assert all(message[name] == f"find {phrase[name]}" for name in pairs["prompt_id"] if name not in prompts["prompt_id"])
    taught = {phrase[name]: text for name, _, text in pairs.iter_rows()}
    assert taught["swim"].removeprefix("<answer>").removesuffix("</answer>") == ("shorts" if composition == "append" else "swim shorts")
    assert "1 of 2 train queries have such words" in capsys.readouterr().err


def test_the_warm_start_learns_from_phrases_and_writes_a_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue_teacher, "PHRASES", 50)
    layout = prepared(tmp_path)
    metrics = warm_start.execute(layout, settings("append"))
    assert (metrics["pairs"], metrics["prompts"]) == (50 + 2 * catalogue_teacher.REPEATS, 52)
    assert (layout.policy(0) / "model.safetensors").is_file()


class Told:
    """A reward that is told what texts are worth."""

    def __init__(self, worth):
        self.worth = worth

    def values(self, prompt_ids, queries):
        return np.array([self.worth.get(query, 0.5) for query in queries])


@pytest.mark.parametrize(("worth", "answer"), [(0.6, ["swim", "shorts"]), (0.5, ["swim", "shorts"]), (0.4, [])])
def test_a_train_query_is_left_as_typed_where_the_shared_words_lower_its_value(worth, answer):
    frame = texts().with_row_index("doc_id").with_columns(pl.col("doc_id").cast(pl.String))
    judged = pl.DataFrame({"prompt_id": ["p"] * 3, "doc_id": ["0", "1", "2"], "relevance": [1.0, 1.0, 2.0]})
    train = pl.DataFrame({"prompt_id": ["p"], "query": ["trunks"]})
    found = query_answers(train, judged, frame, Texts(frame["title"].to_list()), Told({"trunks swim shorts": worth}))
    assert found == {"p": answer}


def test_a_train_query_is_not_taught_words_that_it_has():
    frame = texts().with_row_index("doc_id").with_columns(pl.col("doc_id").cast(pl.String))
    judged = pl.DataFrame({"prompt_id": ["p"] * 3, "doc_id": ["0", "1", "2"], "relevance": [1.0, 1.0, 2.0]})
    train = pl.DataFrame({"prompt_id": ["p"], "query": ["Shorts"]})
    assert query_answers(train, judged, frame, Texts(frame["title"].to_list()), Told({})) == {"p": ["swim"]}

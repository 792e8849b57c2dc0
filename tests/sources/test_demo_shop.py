"""The demo shop: fixed bytes without its dial; with it, more to name in every query, all of it in the catalogue and none of it shared."""

import hashlib
from pathlib import Path

import pytest

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import demo_shop
from ospo_cli.sources.demo_shop_words import FURTHER, USER_WORDS


def shop(attributes, seed=0, monkeypatch=None):
    monkeypatch.setattr(demo_shop, "PROMPTS_OF_SPLIT", {"train": 60, "dev": 20, "test": 20})
    return demo_shop.read(PrepareData(attributes=attributes), seed, Path("/"))


def test_the_shop_without_its_dial_is_what_it_always_was(monkeypatch):
    data = shop(0, monkeypatch=monkeypatch)
    text = "\n".join([*data.documents.write_csv().splitlines(), *data.prompts["query"], *data.teacher_pairs["completion"]])
    assert hashlib.sha256(text.encode()).hexdigest() == "3c1e452fd4ba289b837aecb85b87db8dbf28e8e8b0e762b02ba69113fa3da974"


@pytest.mark.parametrize(("attributes", "fewest", "most"), [(2, 1, 1), (6, 2, 4), (12, 4, 8), (16, 6, 10)])
def test_queries_state_a_third_to_two_thirds_of_the_further_attributes_and_answers_name_them(attributes, fewest, most, monkeypatch):
    data = shop(attributes, monkeypatch=monkeypatch)
    wishes = [sum(word.endswith("ish") and word != "finish" for word in query.split()) for query in data.prompts["query"]]
    assert (min(wishes), max(wishes)) == (fewest, most)
    named = [text.count("ine") for text in data.teacher_pairs["completion"]]
    assert sum(named) > 0.4 * sum(wishes[:60]) * 3


def test_relevant_products_have_every_wish_in_the_catalogues_words(monkeypatch):
    data = shop(6, monkeypatch=monkeypatch)
    texts = dict(data.documents.select("doc_id", "description").rows())
    catalogue_word = {said: word for name in FURTHER for word, words in USER_WORDS[name].items() for said in words}
    queries = dict(data.prompts.select("prompt_id", "query").rows())
    checked = 0
    for prompt_id, doc_id, _ in data.qrels.rows():
        for word in queries[prompt_id].split():
            if word in catalogue_word:
                assert catalogue_word[word] in texts[doc_id]
                checked += 1
    assert checked > 200
    assert data.qrels["prompt_id"].n_unique() == 100


def test_no_word_of_a_further_attribute_stands_for_anything_else():
    own = [word for name in FURTHER for word, words in USER_WORDS[name].items() for word in (word, *words)]
    others = {
        word
        for name, values in USER_WORDS.items()
        if name not in FURTHER
        for text, words in values.items()
        for word in " ".join((text, *words)).split()
    }
    assert len(own) == len(set(own)) == 2 * 6 * len(FURTHER)
    assert not set(own) & others

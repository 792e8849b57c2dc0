"""HTML entities in texts of any source: kept or decoded as the user says, and counted."""

import html

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.sources.markup import decoded
from tests.sources.own_data import JUDGMENTS, PRODUCTS, QUERIES, read, shop

PRODUCTS_WITH = PRODUCTS | {
    "title": ["Marks &amp; Spencer coat", "Cr&egrave;me 5&quot; lamp", "R&D mug", "a&para=2"],
    "material": ["wool &#38; silk", "steel", "clay &#x1F525;", "tom &amp;amp; jerry"],
}
QUERIES_WITH = QUERIES | {
    "query": ["coat &amp; hat", "desk lamp", "cup", "blue cup"],
    "history": [["caf&eacute; cup", "x"], [], ["y"], ["z"]],
}
NOTE = "prepare_data.html_entities: "


@pytest.fixture
def folder(tmp_path):
    return shop(tmp_path, products=PRODUCTS_WITH, queries=QUERIES_WITH)


def notes(data):
    return [note.removeprefix(NOTE) for note in data.card["notes"] if note.startswith(NOTE)]


def test_entities_are_decoded_once_in_products_queries_and_histories(folder):
    found = read(folder, html_entities="decode")
    assert found.documents["title"].to_list() == ["Marks & Spencer coat", 'Crème 5" lamp', "R&D mug", "a&para=2"]
    assert found.documents["material"].to_list() == ["wool & silk", "steel", "clay 🔥", "tom &amp; jerry"]
    assert found.prompts["query"].to_list() == ["coat & hat", "desk lamp", "cup", "blue cup"]
    assert found.prompts["history"].to_list() == [["café cup", "x"], [], ["y"], ["z"]]
    assert notes(found) == ["decoded in 2 of title, 3 of material, 1 of query, 1 of history distinct texts"]


def test_entities_stay_where_nothing_is_said_and_are_counted(folder):
    found = read(folder)
    assert found.documents["title"].to_list() == PRODUCTS_WITH["title"]
    assert found.prompts["query"].to_list() == QUERIES_WITH["query"]
    assert notes(found) == ["kept as they stand (decode reads them) in 2 of title, 3 of material, 1 of query, 1 of history distinct texts"]


def test_a_catalogue_without_entities_is_told_so_only_where_it_is_asked(tmp_path):
    shop(tmp_path)
    assert notes(read(tmp_path)) == []
    assert notes(read(tmp_path, html_entities="decode")) == ["decoded in no distinct texts"]


def test_ids_are_never_decoded(tmp_path):
    products, judgments = (
        {**columns, "product_id": [name.replace("12", "a&amp;b") for name in columns["product_id"]]} for columns in (PRODUCTS, JUDGMENTS)
    )
    shop(tmp_path, products=products, judgments=judgments)
    found = read(tmp_path, html_entities="decode")
    assert "a&amp;b" in found.documents["doc_id"].to_list()
    assert found.qrels.filter(pl.col("doc_id") == "a&amp;b").height == 1


@given(st.text())
def test_what_is_escaped_is_read_as_it_was(text):
    assert decoded(html.escape(text)) == text


@given(st.text(alphabet=st.characters(exclude_characters="&;")))
def test_text_without_an_entity_stays(text):
    assert decoded(text) == text


@pytest.mark.parametrize("text", ["&;", "&#;", "&#x;", "&nosuchname;", "&amp", "AT&T", "a & b; c", "&#xZZ;"])
def test_what_only_looks_like_an_entity_stays(text):
    assert decoded(text) == text

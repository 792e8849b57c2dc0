"""What queries are made of: those that share no word with a candidate, and those in other scripts."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.sources.query_text import query_text
from ospo_cli.tables.prepared import POOLS, QRELS
from ospo_cli.text.words import words

WORDS = ["red", "wool", "coat", "blue", "lamp", "防水", "ケース"]


def text_of(titles, queries, judged=(), pools=(), folding="standard"):
    """Titles by product, queries by prompt; (prompt, product) pairs that are relevant, and candidates."""
    documents = pl.DataFrame({"doc_id": list(titles), "title": list(titles.values()), "category": [""] * len(titles)})
    prompts = pl.DataFrame({"prompt_id": list(queries), "query": list(queries.values())})
    qrels = pl.DataFrame([(*pair, 1.0) for pair in judged], schema=QRELS.schema, orient="row")
    return query_text(documents, prompts, qrels, pl.DataFrame(list(pools), schema=POOLS.schema, orient="row"), folding)


def test_queries_without_a_word_of_any_product_are_counted_and_the_first_is_named():
    titles = {"a": "red wool coat", "b": "blue lamp"}
    queries = {f"q{number}": "coat" for number in range(8)} | {"q8": "parka", "q9": "anorak"}
    found = text_of(titles, queries, judged=[("q0", "a"), ("q9", "a")])
    assert (found.wordless, found.example) == (2, "parka")
    assert found.warnings()[0].startswith("2 of 10 queries (20%) share no word with any of their candidates, such as 'parka'")
    assert found.card()["text"]["queries that share no word with a candidate"] == 2


def test_a_tenth_is_not_too_many():
    queries = {f"q{number}": "coat" for number in range(9)} | {"q9": "parka"}
    found = text_of({"a": "red wool coat"}, queries)
    assert (found.wordless, found.warnings()) == (None, [])
    assert found.card()["text"]["queries that share no word with a candidate"] == "a tenth or less"


def test_only_the_pool_is_looked_at_where_there_is_one():
    titles = {"a": "red wool coat", "b": "blue lamp"}
    assert text_of(titles, {"q": "lamp"}, judged=[("q", "a")]).wordless is None
    assert text_of(titles, {"q": "lamp"}, judged=[("q", "a")], pools=[("q", "a")]).wordless == 1
    assert text_of(titles, {"q": "lamp"}, judged=[("q", "a")], pools=[("q", "a"), ("q", "b")]).wordless is None


def test_words_are_those_of_the_folding():
    assert text_of({"a": "ışık"}, {"q": "IŞIK"}).wordless == 1
    assert text_of({"a": "ışık"}, {"q": "IŞIK"}, folding="turkish").wordless is None


def test_queries_in_other_scripts_are_counted():
    queries = {"q1": "防水ケース", "q2": "пальто", "q3": "coat", "q4": "가방 coat"}
    found = text_of({"a": "防水ケース пальто coat 가방"}, queries)
    assert (found.queries, found.unread, found.without_blanks, found.wordless) == (4, 3, 1, None)
    assert found.warnings()[0].startswith("3 of 4 queries are in a script that the grammar of phrases")


def test_hostile_text_is_spelled_out():
    assert "\x1b" not in "".join(text_of({"a": "coat"}, {"q": "\x1b[2J"}).warnings())


some_text = st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)


@given(st.lists(some_text, min_size=1, max_size=5), st.lists(some_text, min_size=1, max_size=6), st.data())
def test_the_count_is_that_of_looking_at_every_pair(titles, queries, data):
    products, prompts = ({f"{name}{index}": text for index, text in enumerate(texts)} for name, texts in (("d", titles), ("q", queries)))
    pairs = st.lists(st.tuples(st.sampled_from(sorted(prompts)), st.sampled_from(sorted(products))), unique=True)
    judged = data.draw(pairs)
    pools = data.draw(st.just([]) | st.just([(prompt, product) for prompt in prompts for product in sorted(products)[:2]]))
    pools = sorted({*pools, *judged}) if pools else []
    alone = {
        prompt
        for prompt, query in prompts.items()
        if not any(
            set(words(query)) & set(words(text)) for product, text in products.items() if not pools or (prompt, product) in set(pools)
        )
    }
    found = text_of(products, prompts, judged, pools)
    expected = (len(alone), prompts[min(alone)]) if len(alone) > 0.1 * len(prompts) else (None, "")
    assert (found.wordless, found.example) == expected


@pytest.mark.parametrize("field", ["category", "brand"])
def test_every_text_field_counts(field):
    documents = pl.DataFrame({"doc_id": ["a"], "title": ["coat"], "category": [""]}).with_columns(pl.lit("wool").alias(field))
    prompts = pl.DataFrame({"prompt_id": ["q"], "query": ["wool"]})
    assert query_text(documents, prompts, QRELS.empty(), POOLS.empty(), "standard").wordless is None

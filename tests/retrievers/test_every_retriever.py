"""What each engine behind the protocol owes: one order of documents, nothing retrieved for nothing, errors that say what to do."""

import numpy as np
import pytest

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.retrievers import RETRIEVERS
from tests.retrievers.catalogues import LEXICAL, LOCAL, documents, random_queries, random_titles, retriever

TITLES = [
    "red wool coat",
    "blue cotton shirt",
    "red cotton shirt",
    "green linen trousers",
    "red wool coat",
    "blue rain boots",
    "leather belt",
]
every_retriever = pytest.mark.parametrize("name", LOCAL)
every_lexical_retriever = pytest.mark.parametrize("name", LEXICAL)


@every_retriever
def test_equal_documents_stand_in_the_order_of_their_ids(name, tmp_path):
    engine = retriever(name, documents(TITLES), tmp_path)
    assert engine.rank(["wool coat"], [None], 10)[0].documents[:2].tolist() == [0, 4]


@every_retriever
def test_the_order_of_rows_in_the_table_changes_nothing(name, tmp_path):
    table = documents(TITLES)
    first, second = (retriever(name, rows, tmp_path).rank(["red cotton coat"], [None], 0)[0] for rows in (table, table.reverse()))
    assert (first.documents.tolist(), first.scores.tolist()) == (second.documents.tolist(), second.scores.tolist())


@every_lexical_retriever
@pytest.mark.parametrize("query", ["", "   ", "?!,", "zzzz qqqq", "\x00\x1b[2J\u202e", "🧥"])
@pytest.mark.parametrize("pool", [None, np.array([0, 2, 5])])
def test_a_query_without_known_words_retrieves_nothing(name, query, pool, tmp_path):
    assert retriever(name, documents(TITLES), tmp_path).rank([query], [pool], 10)[0].documents.tolist() == []


@every_retriever
@pytest.mark.parametrize("query", ["", "   ", "?!,", "\u202e\x1b"])
@pytest.mark.parametrize("pool", [None, np.array([0, 2, 5])])
@pytest.mark.parametrize("k", [0, 3])
def test_a_query_without_a_letter_or_digit_retrieves_nothing(name, query, pool, k, tmp_path):
    assert retriever(name, documents(TITLES), tmp_path).rank([query], [pool], k)[0].documents.tolist() == []


@every_lexical_retriever
def test_a_document_whose_score_is_not_above_zero_is_not_retrieved(name, tmp_path):
    found = retriever(name, documents(TITLES), tmp_path).rank(["leather belt"], [None], 0)[0]
    assert found.documents[0] == 6
    assert (found.scores > 0).all()


@every_lexical_retriever
def test_a_pool_limits_the_ranking_and_nothing_else(name, tmp_path):
    table = documents(random_titles(1, 80))
    engine = retriever(name, table, tmp_path)
    pool = np.arange(3, 80, 3)
    queries = random_queries(2, 20)
    whole, pooled = engine.rank(queries, [None] * 20, 0), engine.rank(queries, [pool] * 20, 0)
    expected = [ranking.documents[np.isin(ranking.documents, pool)].tolist() for ranking in whole]
    assert [ranking.documents.tolist() for ranking in pooled] == expected


@every_retriever
@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_the_first_k_are_the_head_of_the_whole_ranking(name, k, tmp_path):
    engine = retriever(name, documents(random_titles(3, 60) + random_titles(3, 60)), tmp_path)
    queries = random_queries(4, 20)
    whole, head = engine.rank(queries, [None] * 20, 0), engine.rank(queries, [None] * 20, k)
    assert [ranking.documents.tolist() for ranking in head] == [ranking.documents[:k].tolist() for ranking in whole]


@every_retriever
def test_a_score_has_the_same_bits_alone_in_a_batch_and_with_its_words_in_another_order(name, tmp_path):
    engine = retriever(name, documents(random_titles(5, 100)), tmp_path)
    queries = random_queries(6, 60)
    together = engine.rank(queries, [None] * 60, 20)
    alone = [engine.rank([" ".join(reversed(query.split()))], [None], 20)[0] for query in queries]
    assert [(r.documents.tolist(), r.scores.tolist()) for r in together] == [(r.documents.tolist(), r.scores.tolist()) for r in alone]


@every_lexical_retriever
def test_a_repeated_word_counts_once_unless_asked_to_count(name, tmp_path):
    table = documents(random_titles(7, 60))
    distinct, counted = (retriever(name, table, tmp_path, query_terms=terms) for terms in ("distinct", "counted"))
    plain, repeated = distinct.rank(["w1 w30", "w30 w1 w30 w30"], [None] * 2, 0)
    weighted = counted.rank(["w30 w1 w30 w30"], [None], 0)[0]
    assert plain.scores.tolist() == repeated.scores.tolist()
    assert weighted.scores.tolist() != plain.scores.tolist()


@every_retriever
def test_a_catalogue_of_one_document_can_be_searched(name, tmp_path):
    engine = retriever(name, documents(["red wool coat"]), tmp_path, idf="lucene")
    assert len(engine.rank(["coat"], [None], 10)[0].documents) <= 1


@every_retriever
def test_an_empty_catalogue_is_an_error_with_a_remedy(name, tmp_path):
    with pytest.raises(RetrievalError, match=r"catalogue is empty.*prepare-data"):
        retriever(name, documents([]), tmp_path)


@every_retriever
def test_a_catalogue_without_a_word_is_an_error(name, tmp_path):
    with pytest.raises(RetrievalError, match="no word in any indexed field"):
        retriever(name, documents(["", "?!"]), tmp_path)


@every_retriever
def test_an_id_that_occurs_twice_is_named(name, tmp_path):
    table = documents(["coat", "boot", "belt"]).with_columns(doc_id=np.array(["d1", "d2", "d1"]))
    with pytest.raises(RetrievalError, match="duplicate id: found d1"):
        retriever(name, table, tmp_path)


@every_retriever
def test_control_characters_emoji_and_a_long_field_do_no_harm(name, tmp_path):
    hostile = ["red\x00wool \x1b[31mcoat", "\u202eblue coat", "🧥 coat é", "coat " * 25_000 + "wool"]
    found = retriever(name, documents([*hostile, "belt", "boot", "tie", "hat", "sock"]), tmp_path).rank(["wool"], [None], 10)[0]
    assert set(found.documents.tolist()) >= {0, 3}


@every_lexical_retriever
def test_its_fingerprint_follows_documents_and_settings(name, tmp_path):
    prints = [
        retriever(name, documents(titles), tmp_path, query_terms=terms).fingerprint
        for titles, terms in [(TITLES, "distinct"), (TITLES, "distinct"), (TITLES, "counted"), (TITLES[:-1], "distinct")]
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_an_unknown_retriever_is_refused_with_the_list_of_those_that_exist(tmp_path):
    with pytest.raises(ParameterError, match=", ".join(RETRIEVERS)):
        retriever("elastic", documents(TITLES), tmp_path)


def test_all_text_fields_are_indexed_unless_some_are_named(tmp_path):
    table = documents(["coat", "boot", "belt"], colour=["red", "blue", None])
    whole, titles_only = retriever("bm25", table, tmp_path), retriever("bm25", table, tmp_path, fields=["title"])
    found = [engine.rank(["red"], [None], 0)[0].documents.tolist() for engine in (whole, titles_only)]
    assert found == [[0], []]


def test_a_field_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    with pytest.raises(ParameterError, match=r"found colour, expected title, category"):
        retriever("bm25", documents(["coat"]), tmp_path, fields=["colour"])

"""BM25: agreement with rank-bm25 and bm25s, and exact sums."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.errors import ParameterError, RetrievalError
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import Catalogue
from ospo_cli.retrievers.lexical.bm25 import BM25
from tests.policies.tiny import folder_bytes
from tests.retrievers.catalogues import documents, random_queries, random_titles, retriever, scores

COUNT = 150


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (1.2, 0.4), (0.9, 0.9), (2.0, 0.0)])
@pytest.mark.parametrize("query_terms", ["distinct", "counted"])
@pytest.mark.parametrize("pool", [None, np.arange(0, COUNT, 2)])
def test_scores_equal_those_of_rank_bm25_but_for_the_constant_factor(k1, b, query_terms, pool, tmp_path):
    table = documents(random_titles(11, COUNT))
    ours, theirs = (
        retriever(name, table, tmp_path, k1=k1, b=b, idf="robertson", query_terms=query_terms) for name in ("bm25", "rank-bm25")
    )
    queries = random_queries(12, 40)
    found, expected = ours.rank(queries, [pool] * 40, 0), theirs.rank(queries, [pool] * 40, 0)
    assert np.array([scores(r, COUNT) * (k1 + 1) for r in found]) == pytest.approx(np.array([scores(r, COUNT) for r in expected]), abs=1e-5)


def test_where_bm25s_is_not_installed_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(RetrievalError, match=r"retriever bm25s: its package is not installed; pip install '\.\[bm25s\]'"):
        retriever("bm25s", documents(["coat"]), tmp_path)


@pytest.mark.parametrize(("idf", "factor"), [("lucene", 1.0), ("robertson", 1.0), ("atire", 2.2)])
@pytest.mark.parametrize("query_terms", ["distinct", "counted"])
def test_scores_equal_those_of_bm25s_to_its_single_precision(idf, factor, query_terms, tmp_path):
    table = documents(random_titles(13, COUNT))
    ours, theirs = (retriever(name, table, tmp_path, k1=1.2, b=0.75, idf=idf, query_terms=query_terms) for name in ("bm25", "bm25s"))
    queries = random_queries(14, 40)
    found, expected = ours.rank(queries, [None] * 40, 0), theirs.rank(queries, [None] * 40, 0)
    assert np.array([scores(r, COUNT) * factor for r in found]) == pytest.approx(
        np.array([scores(r, COUNT) for r in expected]), rel=1e-5, abs=1e-5
    )


def test_saturation_of_zero_which_rank_bm25_cannot_do_is_refused_there_and_counts_words_as_present_or_not_here(tmp_path):
    table = documents(["coat coat red", "coat", "hat", "tie", "belt"])
    with pytest.raises(ParameterError, match="divides by zero"):
        retriever("rank-bm25", table, tmp_path, k1=0.0)
    found = retriever("bm25", table, tmp_path, k1=0.0).rank(["coat"], [None], 0)[0]
    assert found.scores[0] == found.scores[1]


def test_a_score_is_the_written_formula(tmp_path):
    # "coat" is in 2 of 3 documents, once of 2 words here, mean length 2: ln(1 + 1.5/2.5) · 1/(1 + 1.2).
    found = retriever("bm25", documents(["red coat", "coat of wool", "hat"]), tmp_path).rank(["coat"], [np.array([0])], 0)[0]
    assert found.scores[0] == pytest.approx(np.log(1 + 1.5 / 2.5) / 2.2, abs=1e-6)


def test_a_word_of_more_than_half_of_the_documents_is_worth_nothing_under_robertson_and_never_less(tmp_path):
    engine = retriever("bm25", documents(["red coat", "coat", "coat hat", "coat tie"]), tmp_path, idf="robertson")
    assert [ranking.documents.tolist() for ranking in engine.rank(["coat", "coat hat"], [None] * 2, 0)] == [[], [2]]


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=40), st.integers(0, 40), st.booleans(), st.randoms())
def test_a_coalition_has_the_same_bits_in_any_batch(bags, k, pooled, random):
    index = ENGINE.index
    pool = np.arange(0, COUNT, 2) if pooled else None
    queries = [" ".join(f"w{word}" for word in bag) for bag in bags]
    documents_together, scores_together = ENGINE.rank_queries(queries, pool, k)
    chosen = random.randrange(len(queries))
    alone, scores_alone = ENGINE.rank_queries(queries[chosen : chosen + 1], pool, k)
    count = int((alone[0] >= 0).sum())
    assert documents_together[chosen][:count].tolist() == alone[0][:count].tolist()
    assert scores_together[chosen][:count].tolist() == scores_alone[0][:count].tolist()
    assert (documents_together[chosen][count:] == -1).all()
    assert index.count == COUNT


ENGINE = BM25(Catalogue.from_documents(documents(random_titles(15, COUNT))), Retrieval(), None)


def test_a_query_of_a_hundred_thousand_words_is_ranked(tmp_path):
    engine = retriever("bm25", documents(["red coat", "blue hat"]), tmp_path, query_terms="counted")
    assert engine.rank(["coat " * 100_000], [None], 10)[0].documents.tolist() == [0]


def test_a_pool_that_names_a_document_beyond_the_catalogue_is_an_error(tmp_path):
    with pytest.raises(RetrievalError, match="no such document index"):
        retriever("bm25", documents(["coat"]), tmp_path).rank(["coat"], [np.array([0, 7])], 10)


def test_an_index_that_was_kept_ranks_as_the_one_that_was_built(tmp_path):
    table, queries = documents(random_titles(31, COUNT)), random_queries(32, 40)
    built, kept = (retriever("bm25", table, tmp_path).rank(queries, [None] * 40, 10) for _ in range(2))
    assert [(r.documents.tolist(), r.scores.tolist()) for r in built] == [(r.documents.tolist(), r.scores.tolist()) for r in kept]
    assert len(list((tmp_path / "index").iterdir())) == 1


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "manifest", "version", "other"])
def test_a_kept_index_that_is_damaged_or_of_another_version_or_catalogue_is_made_again_and_said(harm, tmp_path, capsys):
    table = documents(random_titles(33, COUNT))
    retriever("bm25", table, tmp_path)
    folder = next((tmp_path / "index").iterdir())
    before = folder_bytes(tmp_path)
    HARMS[harm](folder / "weights.npy", folder / "manifest.json")
    assert folder_bytes(tmp_path) != before
    retriever("bm25", table, tmp_path)
    assert folder_bytes(tmp_path) == before
    assert capsys.readouterr().err == f"{folder}: is not what was written (damaged?): made again\n"


HARMS = {
    "cut": lambda weights, manifest: weights.write_bytes(weights.read_bytes()[:-8]),
    "flip": lambda weights, manifest: weights.write_bytes(weights.read_bytes()[:-1] + b"\xff"),
    "gone": lambda weights, manifest: weights.unlink(),
    "manifest": lambda weights, manifest: manifest.write_text("{"),
    "version": lambda weights, manifest: manifest.write_text(manifest.read_text().replace('version": "index-3', 'version": "index-0')),
    "other": lambda weights, manifest: manifest.write_text(manifest.read_text().replace('"fingerprint": "', '"fingerprint": "0')),
}


def test_a_field_of_weight_two_counts_as_if_it_stood_there_twice(tmp_path):
    titles, colours = random_titles(34, COUNT), random_titles(35, COUNT)
    weighted = retriever("bm25", documents(titles, colour=colours), tmp_path, fields=["title^2", "colour"])
    doubled = retriever("bm25", documents([f"{t} {t} {c}" for t, c in zip(titles, colours, strict=True)]), tmp_path, fields=["title"])
    queries = random_queries(36, 40)
    found, expected = (engine.rank(queries, [None] * 40, 10) for engine in (weighted, doubled))
    assert [(r.documents.tolist(), r.scores.tolist()) for r in found] == [(r.documents.tolist(), r.scores.tolist()) for r in expected]
    assert weighted.fingerprint != retriever("bm25", documents(titles, colour=colours), tmp_path, fields=["title", "colour"]).fingerprint


@pytest.mark.parametrize("field", ["title^x", "title^0", "title^-1", "title^nan", "title^"])
def test_a_weight_that_is_no_number_above_zero_is_refused(field, tmp_path):
    with pytest.raises(ParameterError, match=r"retrieval\.fields: a field's weight is no number: found title\^"):
        retriever("bm25", documents(["coat"]), tmp_path, fields=[field])


def test_a_retriever_that_does_not_weigh_fields_says_so(tmp_path):
    with pytest.raises(ParameterError, match="bm25s does not weigh fields"):
        retriever("bm25s", documents(["coat"]), tmp_path, fields=["title^2"])


@pytest.mark.parametrize("fields", [["title", "title"], ["title", "title^2"]])
def test_a_field_that_is_named_twice_is_refused(fields, tmp_path):
    with pytest.raises(ParameterError, match=r"retrieval\.fields: names a field twice"):
        retriever("bm25", documents(["coat"]), tmp_path, fields=fields)

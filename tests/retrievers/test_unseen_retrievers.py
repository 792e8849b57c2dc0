"""Character TF-IDF and latent semantic vectors: agreement with slow, obvious ways."""

from collections import Counter

import numpy as np
import pytest

from ospo_cli.retrievers.dense.lsa import DIMENSIONS
from ospo_cli.text.words import words
from tests.retrievers.catalogues import documents, random_queries, random_titles, retriever, scores

COUNT = 60


def grams(found):
    return [f" {word} "[start : start + size] for word in found for size in (3, 4) for start in range(len(word) + 3 - size)]


def test_character_scores_are_cosines_of_tf_idf_vectors_but_for_the_querys_norm(tmp_path):
    titles = random_titles(21, COUNT)
    bags = [Counter(grams(words(title))) for title in titles]
    counts = Counter(gram for bag in bags for gram in bag)
    idf = {gram: (np.log(COUNT / count) + 1) / (np.log(COUNT) + 1) for gram, count in counts.items()}
    vectors = [{gram: (1 + np.log(count)) * idf[gram] for gram, count in bag.items()} for bag in bags]
    query = "w3 w17 w40"
    wanted = Counter(grams(query.split()))
    expected = [
        sum(count * idf[gram] * vector.get(gram, 0.0) for gram, count in wanted.items() if gram in idf)
        / np.sqrt(sum(x * x for x in vector.values()))
        for vector in vectors
    ]
    found = scores(retriever("tfidf-char", documents(titles), tmp_path).rank([query], [None], 0)[0], COUNT)
    assert found == pytest.approx(np.array(expected), abs=1e-7)


def test_a_misspelt_word_still_finds_its_document(tmp_path):
    engine = retriever("tfidf-char", documents(["leather belt", "wool coat", "rain boots"]), tmp_path)
    assert engine.rank(["lether"], [None], 1)[0].documents.tolist() == [0]


def test_latent_semantic_scores_are_cosines_in_the_space_of_the_first_singular_vectors(tmp_path):
    titles = random_titles(22, 200, vocabulary=150)
    engine = retriever("lsa", documents(titles), tmp_path)
    bags = [words(title) for title in titles]
    terms = sorted({word for bag in bags for word in bag})
    counts = np.array([[bag.count(term) for term in terms] for bag in bags], dtype=float)
    idf = np.log(200 / (counts > 0).sum(axis=0)) + 1.0
    matrix = np.where(counts > 0, 1.0 + np.log(np.maximum(counts, 1.0)), 0.0) * idf
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-300)
    _, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    assert sizes[DIMENSIONS - 1] > sizes[DIMENSIONS]
    space = right[:DIMENSIONS].T
    queries = random_queries(23, 30, vocabulary=130)
    projected = matrix @ space
    query_vectors = np.array([[idf[column] * (term in words(query)) for column, term in enumerate(terms)] for query in queries])
    query_vectors = query_vectors @ space
    expected = (
        (projected @ query_vectors.T) / np.linalg.norm(projected, axis=1)[:, None] / np.maximum(np.linalg.norm(query_vectors, axis=1), 1e-9)
    )
    found = np.array([scores(ranking, 200) for ranking in engine.rank(queries, [None] * 30, 0)])
    assert found == pytest.approx(np.maximum(expected, 0.0).T, abs=0.02)


def test_faiss_and_the_plain_product_agree_to_the_last_bit(tmp_path):
    engine = retriever("lsa", documents(random_titles(24, 300)), tmp_path)
    queries = random_queries(25, 40)
    searched, everything = engine.rank(queries, [None] * 40, 10), engine.rank(queries, [np.arange(300)] * 40, 10)
    assert [(r.documents.tolist(), r.scores.tolist()) for r in searched] == [(r.documents.tolist(), r.scores.tolist()) for r in everything]


def test_ties_that_faiss_leaves_out_still_stand_in_the_order_of_ids(tmp_path):
    engine = retriever("lsa", documents(["hat"] * 10 + ["wool coat"] * 80), tmp_path)
    assert engine.rank(["coat"], [None], 5)[0].documents.tolist() == [10, 11, 12, 13, 14]

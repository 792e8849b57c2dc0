"""The lexical engine against a slow, obvious ranking: any catalogue, any coalitions, any pool, any k, to the last bit."""

import subprocess
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.retrievers.base import Coalitions
from ospo_cli.retrievers.lexical import inverted_index, pool_products
from ospo_cli.retrievers.lexical.inverted_index import Field, InvertedIndex


def weigh(postings):
    """Weights that tie often: a word's number, halved for a second occurrence."""
    return (1.0 + postings.terms % 5) * (1.0 + 0.5 * (postings.frequencies > 1)) / (1.0 + (postings.lengths[postings.documents] > 6))


def obvious(index, bags, pool, k, distinct):
    """Rank one document after the other with Python's integers."""
    starts, terms, weights = (index.arrays[f"forward_{name}"] for name in ("starts", "terms", "weights"))
    found = []
    for bag in bags:
        totals = {}
        for document in range(index.count) if pool is None else pool.tolist():
            own = dict(zip(terms[starts[document] : starts[document + 1]].tolist(), range(10**9), strict=False))
            row = weights[starts[document] : starts[document + 1]].tolist()
            wanted = set(bag) if distinct else bag
            totals[document] = sum(row[own[term]] for term in wanted if term in own)
        order = sorted((document for document in totals if totals[document] > 0), key=lambda document: (-totals[document], document))
        found.append([(document, totals[document] * index.unit) for document in order[: k or None]])
    return found


def pairs(documents, scores):
    """Return the retrieved (document, score) pairs of each row."""
    return [
        [(int(document), float(score)) for document, score in zip(row, row_scores, strict=True) if document >= 0]
        for row, row_scores in zip(documents, scores, strict=True)
    ]


def zipf_bags(seed, count, vocabulary=40, length=9):
    """Return bags of words "0", "1", …, the smaller the more frequent; some empty."""
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, vocabulary + 1)
    return [[str(word) for word in rng.choice(vocabulary, size=rng.integers(0, length), p=shares / shares.sum())] for _ in range(count)]


def random_answers(index, seed, count, pool, vocabulary=45):
    """Return answers of 1 to 6 parts with random coalitions, the empty one among them."""
    rng = np.random.default_rng(seed)
    answers = []
    for _ in range(count):
        parts = [" ".join(str(word) for word in rng.integers(0, vocabulary, size=rng.integers(0, 4))) for _ in range(rng.integers(1, 7))]
        answers.append(Coalitions(parts, rng.random((int(rng.integers(1, 12)), len(parts))) < 0.6, pool))
    return answers


def bags_of(index, answers):
    """Return the term indices of every coalition of the answers."""
    return [
        [term for part, is_in in zip(answer.parts, row, strict=True) if is_in for term in index.bag(part.split()).tolist()]
        for answer in answers
        for row in answer.present
    ]


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 40, 700, 1300]),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from(["none", "some", "all"]),
    st.booleans(),
)
def test_every_coalition_is_ranked_as_the_obvious_way_ranks_it(seed, count, k, distinct, pooled, by_products):
    index = InvertedIndex(lambda: [Field([["0"], *zipf_bags(seed, count - 1)])], weigh, is_distinct=distinct)
    rng = np.random.default_rng(seed)
    pool = {"none": None, "some": np.flatnonzero(rng.random(count) < 0.3), "all": np.arange(count)}[pooled]
    answers = random_answers(index, seed, 5, pool)
    with mock.patch.object(InvertedIndex, "_takes_products", return_value=by_products):
        found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), k)
    assert pairs(*found) == obvious(index, bags_of(index, answers), pool, k, distinct)


@pytest.mark.parametrize("share", [1, 4, 10**6])
def test_rankings_do_not_depend_on_which_terms_count_as_frequent(share, monkeypatch):
    monkeypatch.setattr(inverted_index, "FREQUENT_SHARE", share)
    index = InvertedIndex(lambda: [Field(zipf_bags(1, 3000))], weigh)
    answers = random_answers(index, 2, 12, None)
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 7)
    assert pairs(*found) == obvious(index, bags_of(index, answers), None, 7, True)


def uneven(postings):
    """Weights of all sizes, that tie seldom; those of "7" are far above."""
    mixed = (postings.terms * 7919 + postings.documents * 104729 + postings.frequencies * 13) % 1009
    return (1.0 + mixed) * np.where(postings.terms % 11 == 7, 40.0, 1.0) / (1.0 + postings.terms % 13)


@settings(max_examples=40)
@given(
    st.integers(0, 10**6), st.sampled_from([1, 3, 1024, 2500]), st.sampled_from([1, 10, 128]), st.booleans(), st.sampled_from([1, 8, 64])
)
def test_every_text_is_ranked_as_the_obvious_way_ranks_it(seed, count, k, distinct, share):
    # Texts without a word, of frequent or rare words alone, with repeated words, with fewer hits than k.
    rng = np.random.default_rng(seed)
    weights = uneven if seed % 2 else weigh
    with mock.patch.object(inverted_index, "FREQUENT_SHARE", share):
        index = InvertedIndex(lambda: [Field([["0"], *zipf_bags(seed, count - 1, vocabulary=120)])], weights, is_distinct=distinct)
    spans = [(0, 6), (0, 130), (60, 130), (0, 1)]
    texts = [rng.integers(*spans[number % 4], size=rng.integers(0, 9)).astype(str).tolist() for number in range(12)]
    bags = [index.bag(text) for text in texts]
    found = pairs(*index.rank_bags(bags, None, k))
    assert found == obvious(index, [bag.tolist() for bag in bags], None, k, distinct)
    assert found[0] == pairs(*index.rank_bags(bags[:1], None, k))[0]


def close(postings):
    """Weights that differ in their last bits alone."""
    return 1.0 + 2.0**-25 * ((postings.documents * 31 + postings.terms * 7) % 5)


def apart(postings):
    """Weights of two scales, the smaller one of a few units."""
    return np.where((postings.terms * 7 + postings.documents) % 5 == 0, 1.0, 2.0**-25 * (1 + postings.documents % 3))


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("weights", [close, apart])
@pytest.mark.parametrize("count", [64, 65, 1023, 1025, 70_000])
def test_bounds_hide_no_document_where_scores_nearly_tie_and_words_end_with_their_blocks(count, weights, distinct):
    rng = np.random.default_rng(count)
    rare = rng.integers(0, 80, count)
    bags = [
        [f"block{place // 64 % 7}", f"blocks{place // 1024 % 3}", "all", *["last"] * (place % 64 == 63), f"rare{rare[place]}"]
        for place in range(count)
    ]
    index = InvertedIndex(lambda: [Field(bags)], weights, is_distinct=distinct)
    starts, terms, integers = index.forward
    owners, names = np.repeat(np.arange(count), np.diff(starts)), list(index.vocabulary)
    for k in (1, 10, 128):
        asked = [index.bag(rng.choice(names, size=rng.integers(1, 9)).tolist()) for _ in range(12)]
        for bag, documents in zip(asked, index.rank_bags(asked, None, k)[0], strict=True):
            times = np.bincount(bag, minlength=len(names))
            times = np.minimum(times, 1) if distinct else times
            totals = np.bincount(owners, weights=(times[terms] * integers.astype(np.int64)).astype(np.float64), minlength=count)
            best = [document for document in np.argsort(-totals, kind="stable")[:k].tolist() if totals[document] > 0]
            assert documents[documents >= 0].tolist() == best


def test_texts_that_threads_share_are_ranked_as_one_thread_ranks_them(monkeypatch):
    index = InvertedIndex(lambda: [Field(zipf_bags(23, 1500))], uneven)
    bags = [index.bag(text) for text in zipf_bags(24, 150)]
    monkeypatch.setattr(inverted_index, "_cores", lambda: 1)
    expected = index.rank_bags(bags, None, 10)
    monkeypatch.setattr(inverted_index, "_cores", lambda: 4)
    # A first share may be done before a second thread has begun: each waits until another has memory of its own too.
    both, borrow, waits = threading.Barrier(2), index._borrow, iter([True, True])

    def borrowed():
        slots = borrow()
        if next(waits, False):
            both.wait(60)
        return slots

    monkeypatch.setattr(index, "_borrow", borrowed)
    found = index.rank_bags(bags, None, 10)
    assert pairs(*found) == pairs(*expected)
    assert len(index._buffers) > 1
    assert all((slots == -1).all() for slots in index._buffers)


@pytest.mark.parametrize("largest", [1, 7, 64, 1000])
def test_rankings_do_not_depend_on_how_many_coalitions_share_a_pass_over_a_pool(largest, monkeypatch):
    monkeypatch.setattr(InvertedIndex, "_takes_products", lambda *_: False)
    index = InvertedIndex(lambda: [Field(zipf_bags(3, 900))], weigh)
    answers = random_answers(index, 4, 40, np.arange(0, 900, 2))
    expected = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 5)
    monkeypatch.setattr(inverted_index, "LARGEST_GROUP", largest)
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 5)
    assert pairs(*found) == pairs(*expected)


@pytest.mark.parametrize("k", [0, inverted_index.LARGEST_K, inverted_index.LARGEST_K + 1])
@pytest.mark.parametrize("distinct", [True, False])
def test_whole_rankings_and_long_ones_are_those_of_the_obvious_way(k, distinct):
    index = InvertedIndex(lambda: [Field(zipf_bags(5, 400))], weigh, is_distinct=distinct)
    answers = random_answers(index, 6, 6, None)
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), k)
    assert pairs(*found) == obvious(index, bags_of(index, answers), None, k, distinct)


def test_sums_beyond_31_bits_are_exact():
    index = InvertedIndex(lambda: [Field(zipf_bags(7, 300))], weigh, is_distinct=False)
    answers = [Coalitions(["1 2 3 " * 200, "4"], np.array([[True, False], [True, True]]), pool) for pool in (None,)]
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 10)
    assert pairs(*found) == obvious(index, bags_of(index, answers), None, 10, False)
    assert found[1].max() / index.unit > 2**31


def test_more_than_64_terms_in_a_group_are_ranked_as_few_are():
    bags = zipf_bags(8, 500, vocabulary=300, length=30)
    index = InvertedIndex(lambda: [Field(bags)], weigh)
    answers = random_answers(index, 9, 30, None, vocabulary=300)
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 10)
    assert pairs(*found) == obvious(index, bags_of(index, answers), None, 10, True)


def test_a_text_of_rare_terms_alone_hides_nothing_from_the_texts_after_it():
    bags = [[f"frequent{number % 5}", f"frequent{number % 7}", f"rare{number % 400}"] for number in range(1200)]
    index = InvertedIndex(lambda: [Field(bags)], weigh)
    whole = np.ones((1, 1), dtype=bool)
    rare = " ".join(f"rare{number}" for number in range(0, 400, 3))
    answers = [Coalitions([text], whole, None) for text in (rare, "frequent1 frequent6", rare, "frequent2")]
    found = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 10)
    assert pairs(*found) == obvious(index, bags_of(index, answers), None, 10, True)


def test_answers_with_other_pools_stay_apart():
    index = InvertedIndex(lambda: [Field(zipf_bags(10, 200))], weigh)
    pools = [np.arange(0, 100), np.arange(50, 200, 3), np.array([7])]
    answers = [answer for seed, pool in enumerate(pools * 3) for answer in random_answers(index, seed, 2, pool)]
    found = pairs(*index.rank_coalitions(answers, lambda text: index.bag(text.split()), 10))
    expected = [obvious(index, bags_of(index, [answer]), answer.pool, 10, True) for answer in answers]
    assert found == [row for rows in expected for row in rows]


def test_a_field_counts_as_often_as_its_weight_says():
    titles, texts = zipf_bags(11, 80), zipf_bags(12, 80)
    joined = [[*title, *title, *text] for title, text in zip(titles, texts, strict=True)]

    def by_words(index):
        starts, terms, weights = (index.arrays[f"forward_{name}"] for name in ("starts", "terms", "weights"))
        name_of = list(index.vocabulary)
        rows = np.repeat(np.arange(80), np.diff(starts)).tolist()
        return sorted((row, name_of[term], weight) for row, term, weight in zip(rows, terms.tolist(), weights.tolist(), strict=True))

    def plain(postings):
        return postings.frequencies / (1.0 + postings.lengths[postings.documents])

    doubled, weighted = InvertedIndex(lambda: [Field(joined)], plain), InvertedIndex(lambda: [Field(titles, 2.0), Field(texts)], plain)
    assert by_words(weighted) == by_words(doubled)


def test_a_pool_that_is_ranked_in_several_tables_is_ranked_as_by_the_compiled_loops(monkeypatch):
    index = InvertedIndex(lambda: [Field(zipf_bags(21, 500))], weigh, is_distinct=False)
    pools = [np.arange(0, 500, 3), np.arange(40), np.zeros(0, dtype=np.int64)]
    answers = [answer for seed, pool in enumerate(pools) for answer in random_answers(index, seed, 30, pool)]
    monkeypatch.setattr(InvertedIndex, "_takes_products", lambda *_: False)
    documents, scores = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 60)
    monkeypatch.setattr(InvertedIndex, "_takes_products", lambda *_: True)
    monkeypatch.setattr(pool_products, "CELLS", 9000)
    found, found_scores = index.rank_coalitions(answers, lambda text: index.bag(text.split()), 60)
    assert np.array_equal(found, documents)
    assert np.array_equal(found_scores, scores)


def test_sums_that_float64_cannot_hold_are_left_to_the_compiled_loops():
    assert pool_products.fits(1 << 23, 1 << 26, 1000)
    assert not pool_products.fits(1 << 24, 1 << 26, 1000)
    assert not pool_products.fits(1 << 23, 1 << 26, 1 << 14)


def test_products_rank_small_pools_and_load_no_compiled_loops():
    script = """
import sys
from ospo_cli.retrievers.lexical import inverted_index, pool_products
from ospo_cli.retrievers.lexical.inverted_index import InvertedIndex
import numpy as np
index = InvertedIndex.__new__(InvertedIndex)
import threading
index._lock, index._product_cells = threading.Lock(), 0
taken = [index._takes_products([np.arange(1 << 10)], np.array([0, 1 << 15])) for _ in range(3)]
print(taken, "numba" in sys.modules)
"""
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert asked.stdout.split("\n")[0] == "[True, True, False] False"

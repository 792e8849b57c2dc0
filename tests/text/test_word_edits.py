"""Greedy single-word edits against the obvious best query of small games."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.text.word_edits import greedy_edits, single_edits

weights = st.dictionaries(st.sampled_from("abcdef"), st.floats(-1, 1).map(lambda w: round(w, 3)), min_size=1)


def additive(weight):
    return lambda indices, texts: np.array([sum(weight.get(word, 0.0) for word in text) for text in texts])


@settings(max_examples=60)
@given(weights, st.lists(st.sampled_from("abcdef"), max_size=3, unique=True))
def test_words_that_add_up_give_the_best_set_of_all(weight, start):
    words = sorted(set(weight) | set(start))
    found = greedy_edits([start], [words], additive(weight), edits=12)[0]
    best = max(sum(weight.get(w, 0.0) for w in chosen) for n in range(len(words) + 1) for chosen in itertools.combinations(words, n))
    assert abs(found.value - best) < 1e-9


@settings(max_examples=60)
@given(weights, st.integers(0, 3))
def test_no_more_edits_are_made_than_allowed_and_the_value_never_falls(weight, edits):
    found = greedy_edits([["z"]], [sorted(weight)], additive(weight), edits)[0]
    assert found.edits <= edits
    assert found.value >= 0
    assert len({"z"} ^ set(found.words)) <= edits


def test_queries_are_searched_independently_of_each_other():
    score = additive({"a": 0.5, "b": 0.25})
    together = greedy_edits([["x"], [], ["a"]], [["a"], ["b"], ["a", "b"]], score, 4)
    assert together == [greedy_edits([s], [c], score, 4)[0] for s, c in [(["x"], ["a"]), ([], ["b"]), (["a"], ["a", "b"])]]


def test_equal_edits_are_decided_by_the_order_of_the_candidates():
    found = greedy_edits([[]], [["second", "first"]], lambda _, texts: np.array([float(len(text) > 0) for text in texts]), 3)[0]
    assert found.words == ("second",)


def test_no_queries_give_no_answers_and_no_call_of_the_scorer():
    assert greedy_edits([], [], lambda *_: 1 / 0, 3) == []


def hamming_like(wanted):
    return lambda indices, texts: np.array([sum(word == other for word, other in zip(text, wanted, strict=False)) for text in texts])


def test_a_swap_reaches_in_one_edit_what_adding_and_dropping_cannot():
    plain, swapped = (greedy_edits([["a", "b"]], [["c"]], hamming_like(("c", "b")), 1, swaps=swaps)[0] for swaps in (False, True))
    assert (plain.value, swapped.value) == (1.0, 2.0)
    assert swapped.words == ("c", "b")


@given(st.lists(st.sampled_from("abc"), max_size=4), st.lists(st.sampled_from("abcde"), max_size=4, unique=True))
def test_every_single_edit_changes_one_word_and_no_candidate_comes_in_twice(words, candidates):
    added, dropped, swapped = (single_edits(kind, words, candidates) for kind in ("add", "drop", "swap"))
    new = [word for word in candidates if word not in words]
    assert (len(added), len(dropped), len(swapped)) == (len(new), len(words), len(words) * len(new))
    assert all(len(edit) == len(words) and sum(a != b for a, b in zip(edit, words, strict=True)) == 1 for edit in swapped)

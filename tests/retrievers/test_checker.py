"""The checker: requirements as a person reads them, against a slow obvious reading of the same lines."""

import re

import numpy as np
import pytest

from ospo_cli.errors import RetrievalError
from tests.retrievers.catalogues import documents, retriever

LINES = ["say tent, pegs or ropes", "say tent; not candle, gas lamp", "say sleeping bag; within 3 words", "not gas lamp", "say tent, tent"]


def met(text, lines=tuple(LINES)):
    return [int(index) for index in retriever("checker", documents(lines), None).rank([text], [None], 0)[0].documents]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tent", [1, 3, 4]),
        ("Tent, ROPES", [0, 1, 3, 4]),
        ("ropes, pegs", [3]),  # the partner alone counts for nothing
        ("tent, pegs, candle", [0, 3, 4]),
        ("tent, gas lamp", [4]),
        ("tent, gas, lamp", [4]),  # punctuation is no word: still said
        ("tent, lamp, gas", [1, 3, 4]),  # not in this order
        ("a big sleeping bag", [3]),  # it ends at the fourth word
        ("big sleeping bag", [2, 3]),
        ("tents and pegsropes", [3]),  # whole words
        ("", []),
        (" ,;! ", []),
    ],
)
def test_known_texts_meet_known_requirements(text, expected):
    assert met(text) == expected


def meets(line, text):
    """Read a requirement of single words from its line anew, a text at a time."""
    words = re.findall("[a-z]+", text)
    limit = re.search(r"within (\d+)", line)
    words = words[: int(limit[1])] if limit else words
    say = re.search("say ([^;]*)", line)
    leave_out = re.search("not ([^;]*)", line)
    named = all(any(word in words for word in choice.split(" or ")) for choice in say[1].split(", ")) if say else True
    return bool(re.findall("[a-z]+", text)) and named and not (leave_out and any(word in words for word in leave_out[1].split(", ")))


def test_random_texts_meet_what_a_slow_reading_of_the_lines_says_in_pools_and_batches():
    random = np.random.default_rng(3)
    vocabulary = list("abcdefgh")

    def drawn(count, mark):
        return mark.join(random.choice(vocabulary, size=count, replace=False))

    lines = []
    while len(lines) < 60:
        choices = [drawn(random.integers(1, 3), " or ") for _ in range(random.integers(0, 3))]
        clauses = [f"say {', '.join(choices)}"] * bool(choices)
        clauses += [f"not {drawn(random.integers(1, 3), ', ')}"] * int(random.random() < 0.5)
        clauses += [f"within {random.integers(1, 6)} words"] * int(random.random() < 0.5)
        line = "; ".join(random.permutation(clauses)) if clauses else ""
        if re.search("say|not", line) and not _forbids_what_it_asks(line):
            lines.append(line)
    texts = [", ".join(random.choice([*vocabulary, ""], size=random.integers(0, 9))) for _ in range(200)]
    engine = retriever("checker", documents(lines), None)
    pool = np.arange(1, len(lines), 3)
    expected = np.array([[meets(line, text) for line in lines] for text in texts])
    assert 0.1 < expected.mean() < 0.9
    for chosen, k in [(None, 0), (pool, 0), (pool, 4)]:
        found, scores = engine.rank_queries(texts, chosen, k)
        columns = np.arange(len(lines)) if chosen is None else chosen
        wanted = [[int(column) for column in columns if row[column]][: k or None] for row in expected]
        assert [[int(document) for document in row if document >= 0] for row in found] == wanted
        assert ((found >= 0) == (scores == 1)).all()
        assert [ranking.documents.tolist() for ranking in engine.rank(texts, [chosen] * len(texts), k)] == wanted


def _forbids_what_it_asks(line):
    say, leave_out = re.search("say ([^;]*)", line), re.search("not ([^;]*)", line)
    forbidden = set(leave_out[1].split(", ")) if leave_out else set()
    return any(set(choice.split(" or ")) <= forbidden for choice in (say[1].split(", ") if say else []))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "is no requirement"),
        ("tent, pegs", "is no requirement"),
        ("say tent; say pegs", "is no requirement"),
        ("say", "is no requirement"),
        ("say tent; shout pegs", "is no requirement"),
        ("say tent,, pegs", "names nothing"),
        ("say tent or , pegs", "names nothing"),
        ("within 3 words", "asks for nothing"),
        ("say tent; within few words", "no number of words"),
        ("say tent; within 0 words", "no number of words"),
        ("say tent or candle; not candle, tent", "can never be met"),
    ],
)
def test_a_line_that_is_no_requirement_is_named_with_its_document(line, problem):
    with pytest.raises(RetrievalError, match=problem) as raised:
        met("tent", ["say tent", line])
    assert "d001" in raised.value.line()
    assert "\n" not in raised.value.line()


def test_what_it_tells_meets_what_was_asked_for():
    engine = retriever("checker", documents(["say tent, pegs or ropes", "say mug; within 3 words"]), None)
    told = engine.tell(np.array([0, 1]))
    assert told == "tent, pegs, mug"
    assert engine.rank([told], [None], 0)[0].documents.tolist() == [0, 1]


def test_lines_below_the_first_are_for_people():
    table = documents(["say tent"], asked=["sleeping outdoors; not a requirement"])
    assert retriever("checker", table, None).rank(["tent"], [None], 0)[0].documents.tolist() == [0]

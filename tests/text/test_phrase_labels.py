"""The phrase rules against real queries that were cut by hand; figures in docs/segments.md."""

from __future__ import annotations

import pytest

from ospo_cli.text.segments import segment
from tests.text.labelled import agreement, labelled_queries
from tests.text.measure_chunker import KINDS

QUERIES = labelled_queries()
# Just below what was measured: a rule that loses agreement is seen. Film titles cannot be told from phrases without knowing them.
LEAST = {
    ("tuned", "shops"): (0.87, 0.86),
    ("held-out", "shops"): (0.88, 0.84),
    ("fresh", "shops"): (0.74, 0.76),
    ("tuned", "movies"): (0.48, 0.45),
    ("held-out", "movies"): (0.52, 0.46),
    ("fresh", "movies"): (0.40, 0.38),
}


def phrase_starts(query: str) -> list[int]:
    return [span.start for span in segment(query, "phrase")]


@pytest.mark.parametrize(("part", "kind"), LEAST)
def test_phrases_agree_with_the_hand_labels_as_well_as_was_measured(part: str, kind: str) -> None:
    found = agreement([row for row in QUERIES if row.part == part and row.source in KINDS[kind]], phrase_starts)
    least_f1, least_exact = LEAST[part, kind]
    assert found.f1 >= least_f1
    assert found.exact >= least_exact


@pytest.mark.parametrize("part", ["held-out", "fresh"])
def test_phrases_agree_better_than_words_pairs_of_words_or_whole_queries(part: str) -> None:
    queries = [row for row in QUERIES if row.part == part and row.source in KINDS["shops"]]
    others = [
        lambda query: [span.start for span in segment(query, "word")],
        lambda query: [span.start for span in segment(query, "window", 2)],
        lambda query: [0],
    ]
    best = max(agreement(queries, other).f1 for other in others)
    assert agreement(queries, phrase_starts).f1 > best + 0.1


def test_at_least_sixty_labels_have_a_border_and_none_occurs_twice() -> None:
    assert len({row.query for row in QUERIES}) == len(QUERIES)
    assert sum(bool(row.borders) for row in QUERIES) >= 60


def test_a_chunker_that_is_off_by_one_word_would_be_seen() -> None:
    queries = [row for row in QUERIES if row.part == "held-out" and row.source in KINDS["shops"]]
    late = agreement(queries, lambda query: [start + len(query[start:].split(" ")[0]) + 1 for start in phrase_starts(query)])
    assert late.f1 < 0.3

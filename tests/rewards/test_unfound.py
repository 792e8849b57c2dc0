"""Raw queries that retrieve nothing are said, with the retriever and an example."""

import pytest

from ospo_cli.rewards.unfound import say_unfound
from tests.rewards.test_judged_reward import judged

FOUND = ["coat"] * 8
NOTHING, WRONG = "parka", "blue boots"  # of value 0 both: one retrieves nothing, one the wrong products


def said(capsys, queries, reward=None, with_values=True):
    reward = reward or judged()
    ids = ["p1"] * len(queries)
    say_unfound("headroom", reward, ids, queries, reward.values(ids, queries) if with_values else None)
    return capsys.readouterr().err


@pytest.mark.parametrize("with_values", [True, False])
def test_more_than_a_tenth_without_a_product_is_said_in_one_line(capsys, with_values):
    assert said(capsys, [*FOUND, NOTHING, "\x1b[2J"], with_values=with_values) == (
        "headroom: bm25 retrieves nothing for 2 of 10 raw queries (20%), such as 'parka': another retriever may find them, or other fields "
        "(docs/languages.md says what a word is)\n"
    )


@pytest.mark.parametrize("queries", [[*FOUND, NOTHING, "coat"], [*FOUND, WRONG, WRONG], [*FOUND, NOTHING, WRONG], []])
@pytest.mark.parametrize("with_values", [True, False])
def test_a_tenth_or_a_wrong_product_is_not_said(capsys, queries, with_values):
    assert said(capsys, queries, with_values=with_values) == ""


def test_the_pool_is_what_counts(capsys):
    pooled = judged(pooled=[("p1", "d004"), ("p1", "d001")])
    assert said(capsys, ["leather belt"], pooled).startswith("headroom: bm25 retrieves nothing for 1 of 1 raw queries (100%)")
    assert said(capsys, ["leather belt"]) == ""


def test_an_example_is_shown_with_its_control_characters_spelled_out(capsys):
    assert "'\\\\x1b[2J'" in said(capsys, ["\x1b[2J"])

"""The one place where a rewrite is used or not."""

import pytest

from ospo_cli.rewriting import decision
from ospo_cli.rewriting.decision import Candidate, decide, refused


def candidate(query, rewrite, problem=""):
    return Candidate(query, rewrite, problem, -0.1, 0.5)


@pytest.mark.parametrize(
    ("query", "rewrite", "why"),
    [
        ("red shoes", "crimson boots", "rewritten"),
        ("red shoes", "красные туфли", "another script"),
        ("красные туфли", "red shoes", "another script"),
        ("красные туфли nike", "nike shoes", "rewritten"),
        ("красные туфли", "красные туфли nike", "rewritten"),
        ("赤い靴", "ドレス", "rewritten"),
        ("42 17", "red shoes", "rewritten"),
        ("red shoes", "42 17", "rewritten"),
        ("red shoes", "red shoes", "same as the query"),
    ],
)
def test_a_rewrite_is_used_unless_it_says_nothing_new_or_leaves_the_users_script(query, rewrite, why):
    assert decide(candidate(query, rewrite)) == why


def test_a_malformed_answer_is_named_and_not_used():
    assert decide(candidate("red shoes", "", "tags inside")) == "malformed: tags inside"


@pytest.mark.parametrize(("query", "why"), [("", "empty"), (" -- 🔥", "empty"), ("w" * 4097, "too long"), ("w" * 4096, ""), ("red", "")])
def test_what_is_no_query_is_not_asked(query, why):
    assert refused(query) == why


def test_every_reason_is_explained_in_the_docs():
    from pathlib import Path

    page = (Path(__file__).resolve().parents[2] / "docs" / "rewrite.md").read_text(encoding="utf-8")
    reasons = [decision.REWRITTEN, decision.EMPTY, decision.TOO_LONG, decision.MALFORMED, decision.ANOTHER_SCRIPT, decision.SAME]
    assert [why for why in reasons if f"`{why}" not in page] == []

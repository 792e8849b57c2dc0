"""Where the answer lies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.text.answers import find_answer


@pytest.mark.parametrize(
    ("completion", "answer", "has_tags"),
    [
        ("<think>a</think><answer> navy coat </answer>", "navy coat", True),
        ("<Answer>x</ANSWER>", "x", True),
        ("<answer>one</answer><answer>two</answer>", "one", True),
        ("<think>say <answer>no</answer></think><answer>yes</answer>", "yes", True),
        ("<think>say <answer>no</answer></think>", "", False),
        ("<think>never closed <answer>yes</answer>", "yes", True),
        ("opened by the template</think> coat", "coat", False),
        ("<answer>cut off wo", "cut off wo", False),
        ("<think>all thought", "", False),
        ("navy coat", "navy coat", False),
        ("<think>a</think> navy coat", "navy coat", False),
        ("navy coat <think>a</think>", "navy coat", False),
        ("navy</answer> coat", "navy", False),
        ("<answer></answer>", "", True),
        ("<answer> \n </answer>", "", True),
        ("<answer>a</answer", "a</answer", False),
        ("", "", False),
        ("<answer>\u200fשלום 🔥</answer>", "\u200fשלום 🔥", True),
    ],
)
def test_known_answers(completion: str, answer: str, has_tags: bool) -> None:
    found = find_answer(completion)
    assert completion[found.start : found.end] == answer
    assert found.has_tags is has_tags


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</ANSWER>", "coat", " ", "\n"]), max_size=12).map("".join))
def test_the_span_is_always_inside_and_has_no_blank_ends(completion: str) -> None:
    found = find_answer(completion)
    answer = completion[found.start : found.end]
    assert 0 <= found.start <= found.end <= len(completion)
    assert answer == answer.strip()


@given(st.text(), st.text())
def test_any_answer_between_tags_is_found_as_it_is(thought: str, answer: str) -> None:
    found = find_answer(f"<think>{thought}</think><answer>{answer}</answer>".replace("<<", "<"))
    assert found.has_tags


def test_a_very_long_completion_takes_no_time() -> None:
    assert find_answer("<think>" * 20_000 + "<answer>x</answer>").has_tags

"""Where the answer lies."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.text.answers import PROBLEMS, find_answer


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
        ("<answer>cut off wo", "", False),
        ("navy <think>a</think><answer>cut off wo", "", False),
        ("<think>all thought", "", False),
        ("navy coat", "navy coat", False),
        ("<think>a</think> navy coat", "navy coat", False),
        ("navy coat <think>a</think>", "navy coat", False),
        ("navy</answer> coat", "navy", False),
        ("<answer></answer>", "", True),
        ("<answer> \n </answer>", "", True),
        ("<answer>a</answer", "", False),
        ("lamp Son Gyp<answer>HP PlaySone", "", False),
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


MALFORMED = [
    ("lamp Son Gyp<answer>HP PlaySone", "unclosed"),
    ("<answer>wool coat", "unclosed"),
    ("<answer>wool coat</answ", "unclosed"),
    ("<answer>wool coat<answer", "unclosed"),
    ("<think>a</think><ANSWER>wool coat<|im_end|>", "unclosed"),
    ("<answer>lamp Son Gyp<answer>HP PlaySone</answer>", "tags inside"),
    ("<answer>red <b>wool</b> coat</answer>", "tags inside"),
    ('<answer>red <a href="x">coat</answer>', "tags inside"),
    ("<answer>coat<think>hm</think></answer>", "tags inside"),
    ("<answer>coat</think></answer>", "tags inside"),
    ("<answer>coat<|im_end|></answer>", "tags inside"),
    ("<answer>< / think > coat</answer>", "tags inside"),
    ("coat <|im_start|>user", "tags inside"),
    ("red coat </s>", "tags inside"),
    ("red coat <ans", "tags inside"),
    ("red coat </think", "tags inside"),
    ("red coat <|im_sta", "tags inside"),
    ("<answer>red\x1b[2Jcoat</answer>", "control text"),
    ("<answer>red\x00coat</answer>", "control text"),
    ("red\x7fcoat", "control text"),
    ("<answer>red co\ufffd</answer>", "control text"),
    ("", "empty"),
    ("<answer></answer>", "empty"),
    ("<answer>\u200b -- !? 🔥</answer>", "empty"),
    ("<think>only thoughts</think>", "empty"),
    ("<think>never ended", "empty"),
    ("</answer>", "empty"),
]


@pytest.mark.parametrize(("completion", "problem"), MALFORMED)
def test_a_malformed_completion_holds_no_answer(completion: str, problem: str) -> None:
    found = find_answer(completion)
    assert found.problem == problem
    assert found.start == found.end
    assert problem in PROBLEMS


@pytest.mark.parametrize(
    "answer", ["laptops < 500 and > 300", "a<3", "<3 red", "tv >= 40 inch", "R&B", "coat\tnavy\nwool", '5" screen', "шуба <"]
)
def test_signs_that_are_no_tags_are_words_of_an_answer(answer: str) -> None:
    found = find_answer(f"<answer>{answer}</answer>")
    assert (found.problem, found.has_tags) == ("", True)


@pytest.mark.parametrize(
    ("completion", "has_tags"), [("<answer> </answer>", True), ("<answer>a\x00</answer>", True), ("<answer>a<b></answer>", False)]
)
def test_tags_that_enclose_no_words_are_tags_all_the_same(completion: str, has_tags: bool) -> None:
    assert find_answer(completion).has_tags is has_tags


@given(st.text(alphabet=st.sampled_from("<>/|ab answerthink\x00\ufffd\n"), max_size=60))
def test_what_passes_for_an_answer_holds_no_tag_and_no_control_character(completion: str) -> None:
    found = find_answer(completion)
    answer = completion[found.start : found.end]
    assert bool(answer) == (found.problem == "")
    assert not re.search(r"<(answer|think|/answer|/think)>|[\x00\ufffd]", answer, re.IGNORECASE)


@given(st.text(), st.text())
def test_any_answer_between_tags_is_found_as_it_is(thought: str, answer: str) -> None:
    found = find_answer(f"<think>{thought}</think><answer>{answer}</answer>".replace("<<", "<"))
    assert found.has_tags or found.problem == "tags inside"


def test_a_very_long_completion_takes_no_time() -> None:
    began = time.process_time()
    assert find_answer("<think>" * 20_000 + "<answer>x</answer>").has_tags
    assert find_answer("<answer>" + "<a " * 50_000 + "b</answer>").problem == ""
    assert find_answer("<answer>" + ("<" + " " * 500) * 200 + "x</answer>").problem == ""
    assert time.process_time() - began < 2

"""Recombined answers against a search by hand over texts that a dictionary scores."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from ospo_cli.maths.recombination import group_order
from ospo_cli.rewards import recombined
from ospo_cli.rewards.recombined import recombined_answers
from ospo_cli.rewards.spliced_values import Answer
from ospo_cli.tables.score_coalitions import RECOMBINED

WORDS = "abcdef"


class Scorer:
    """Scores texts by a function of the set of words; counts rounds."""

    def __init__(self, value: Any, most: int = 99) -> None:
        self.settings = SimpleNamespace(recombine=most, format_weight=0.1)
        self.reward = SimpleNamespace(compose=lambda prompt_id, text: f"{prompt_id}|{text}")
        self.value, self.asked = value, list[list[str]]()

    def parts(self, prompt_ids: list[str], queries: list[str], texts: list[str]) -> Any:
        assert queries == [f"{prompt}|{text}" for prompt, text in zip(prompt_ids, texts, strict=True)]
        self.asked.append(list(texts))
        return SimpleNamespace(value=np.array([self.value(text) for text in texts], dtype=np.float64))


def answer(name: str, said: str, joint: str = ", ", prompt: str = "p0") -> Answer:
    text, spans = "<a>", []
    for place, word in enumerate(said):
        text += joint if place else ""
        spans.append((len(text), len(text) + 1))
        text += word
    return Answer(name, prompt, text + "</a>", spans, [WORDS.index(word) for word in said])


def rewards(values: dict[str, float], malformed: tuple[str, ...] = ()) -> pl.DataFrame:
    rows = [(name, value - 0.1 * (name in malformed), -1.0 * (name in malformed)) for name, value in values.items()]
    return pl.DataFrame(rows, schema=["rollout_id", "reward", "format"], orient="row")


def by_hand(group: list[str], start: str, value: Any, most: int) -> tuple[str, float, int]:
    order = [WORDS[number] for number in group_order([[WORDS.index(word) for word in said] for said in group])]

    def written(chosen: set[str]) -> str:
        return ", ".join(word for word in order if word in chosen)

    own, taken = set(start), 0
    while taken < most:
        others = [set(each) for size in range(1, len(order) + 1) for each in itertools.combinations(order, size)]
        near = [each for each in others if each != own and max(len(each - own), len(own - each)) == 1]
        best = max(near, key=lambda each: value(written(each)))
        if value(written(best)) <= value(written(own)) + 1e-9:
            break
        own, taken = best, taken + 1
    return written(own), value(written(own)), taken


@pytest.mark.parametrize("most", [1, 99])
@pytest.mark.parametrize("seed", range(40))
def test_the_search_takes_the_best_strictly_improving_moves(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    known: dict[str, float] = {}

    def value(text: str) -> float:  # arbitrary: words interact, and their order counts
        return known.setdefault(text, float(np.random.default_rng([seed, *text.encode()]).random()))

    group = ["".join(rng.permutation(list(WORDS))[: rng.integers(2, 5)]) for _ in range(4)]
    worths = {f"r{index}": value(", ".join(said)) for index, said in enumerate(group)}
    scorer = Scorer(value, most)
    found, asked = recombined_answers([[answer(f"r{index}", said) for index, said in enumerate(group)]], rewards(worths), scorer)  # type: ignore[arg-type]
    start = max(worths, key=lambda name: worths[name])
    text, worth, taken = by_hand(group, group[int(start[1])], value, most)
    wanted = [(f"{start}/recombined", "p0", start, f"<a>{text}</a>", worth, worths[start], taken)] if worth > worths[start] + 1e-9 else []
    assert found.rows() == wanted
    assert found.schema == RECOMBINED.schema
    texts = sorted({text for round_of_texts in scorer.asked for text in round_of_texts})
    assert asked.sort("query").rows() == [("p0", f"p0|{text}") for text in texts]


def test_what_no_move_improves_is_no_recombined_answer() -> None:
    worth = {"a": 0.5, "b": 0.2}
    scorer = Scorer(lambda text: worth.get(text, 0.5))  # "a b" is worth no more than a: a neutral move
    assert not recombined_answers([[answer("r0", "a"), answer("r1", "b")]], rewards({"r0": 0.5, "r1": 0.2}), scorer)[0].height  # type: ignore[arg-type]


def test_a_neutral_move_is_not_taken_even_if_the_next_one_would_gain() -> None:
    worth = {"a": 0.5, "a b": 0.5, "a b c": 0.9}
    group = [answer("r0", "a"), answer("r1", "b"), answer("r2", "c")]
    known = rewards({"r0": 0.5, "r1": 0.1, "r2": 0.1})
    assert not recombined_answers([group], known, Scorer(lambda text: worth.get(text, 0.1)))[0].height  # type: ignore[arg-type]
    worth["a b"] = 0.6
    found, _ = recombined_answers([group], known, Scorer(lambda text: worth.get(text, 0.1)))  # type: ignore[arg-type]
    assert found.select("completion", "moves").rows() == [("<a>a b c</a>", 2)]


def test_of_equal_moves_the_first_is_taken_a_swap_before_an_addition() -> None:
    worth = {"a, b": 0.5, "b, c": 0.8, "a, c": 0.8, "a, b, c": 0.8}
    group = [answer("r0", "ab"), answer("r1", "bc")]
    scorer = Scorer(lambda text: worth.get(text, 0.1), most=1)
    found, _ = recombined_answers([group], rewards({"r0": 0.5, "r1": 0.2}), scorer)  # type: ignore[arg-type]
    assert found["completion"].to_list() == ["<a>b, c</a>"]  # of the segment that stands first


def test_of_equal_answers_the_search_starts_at_the_first() -> None:
    group = [answer(name, said) for name, said in (("r0", "c"), ("r1", "a"), ("r2", "b"))]
    found, _ = recombined_answers([group], rewards({"r0": 0.1, "r1": 0.5, "r2": 0.5}), Scorer(len))  # type: ignore[arg-type]
    assert found["start_rollout_id"].to_list() == ["r1"]


def test_of_joints_that_are_as_frequent_the_first_by_its_characters_is_taken() -> None:
    for names in (("r0", "r1"), ("r1", "r0")):
        group = [answer(names[0], "ab", "; "), answer(names[1], "cd", ", ")]
        found, _ = recombined_answers([group], rewards(dict.fromkeys(names, 0.1)), Scorer(len))  # type: ignore[arg-type]
        assert ", " in found["completion"][0]
        assert ";" not in found["completion"][0]


def test_a_call_takes_no_further_group_once_it_has_texts_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[answer(f"{prompt}:{word}", word, prompt=prompt) for word in "abcdef"] for prompt in ("p0", "p1", "p2")]
    known = rewards({each.rollout_id: 0.1 for group in groups for each in group})
    whole, cut = Scorer(len), Scorer(len)
    expected = recombined_answers(groups, known, whole)  # type: ignore[arg-type]
    monkeypatch.setattr(recombined, "TEXTS", 15)
    found = recombined_answers(groups, known, cut)  # type: ignore[arg-type]
    assert [frame.rows() for frame in found] == [frame.rows() for frame in expected]
    assert max(map(len, whole.asked)) == 3 * 15
    assert max(map(len, cut.asked)) == 2 * 14  # of 15 each


def test_groups_go_on_side_by_side_and_each_stops_by_itself() -> None:
    scorer = Scorer(lambda text: len(text) / 10)
    groups = [[answer(f"{prompt}:{word}", word, prompt=prompt) for word in said] for prompt, said in (("p0", "abcd"), ("p1", "ef"))]
    found, _ = recombined_answers(groups, rewards({each.rollout_id: 0.1 for group in groups for each in group}), scorer)  # type: ignore[arg-type]
    assert dict(found.select("prompt_id", "moves").iter_rows()) == {"p0": 3, "p1": 1}
    assert [sum("f" in text or "e" in text for text in asked) for asked in scorer.asked] == [1, 2, 2, 0, 0][: len(scorer.asked)]


def test_a_malformed_answer_starts_no_search_and_its_value_still_has_to_be_beaten() -> None:
    worth = {"a": 0.3, "b": 0.6, "a b": 0.5}
    group = [answer("r0", "a"), answer("r1", "b")]
    scorer = Scorer(lambda text: worth[text])
    assert not recombined_answers([group], rewards({"r0": 0.3, "r1": 0.6}, ("r1",)), scorer)[0].height  # type: ignore[arg-type]
    worth["a b"] = 0.7
    found, _ = recombined_answers([group], rewards({"r0": 0.3, "r1": 0.6}, ("r1",)), scorer)  # type: ignore[arg-type]
    assert found.select("start_rollout_id", "recombined_value", "best_value").rows() == [("r0", 0.7, pytest.approx(0.6))]
    none = [Answer("r0", "p0", "<a></a>", [], []), answer("r1", "b")]
    assert not recombined_answers([none], rewards({"r0": 0.3, "r1": 0.6}, ("r1",)), scorer)[0].height  # type: ignore[arg-type]


def test_segments_are_joined_as_the_group_mostly_joins_them() -> None:
    group = [answer("r0", "ab", " "), answer("r1", "cd", "; "), answer("r2", "bd", "; ")]
    found, _ = recombined_answers([group], rewards(dict.fromkeys(("r0", "r1", "r2"), 0.1)), Scorer(lambda text: len(text)))  # type: ignore[arg-type]
    assert found["completion"].to_list() == ["<a>a; c; b; d</a>"]


def test_a_segment_that_is_written_in_two_ways_stands_as_the_first_answer_writes_it() -> None:
    other = Answer("r1", "p0", "<a>B, c</a>", [(3, 4), (6, 7)], [1, 2])
    found, _ = recombined_answers([[answer("r0", "ab"), other]], rewards({"r0": 0.2, "r1": 0.1}), Scorer(len))  # type: ignore[arg-type]
    assert found["completion"].to_list() == ["<a>a, b, c</a>"]

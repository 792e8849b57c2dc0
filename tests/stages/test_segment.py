"""Stage segment: spans on the completion, metrics, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest

from ospo_cli.errors import CreditError, MissingInputError
from ospo_cli.layout import Layout
from ospo_cli.params.segment import Segment
from ospo_cli.params.whole import Params
from ospo_cli.stages import segment as stage
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.segment import SEGMENTS
from tests.tables.sampled import sampled_frame

ANSWERS = [
    "<answer>navy wool coat, for men</answer>",
    "<think>a, b</think><answer>שלום, 🔥 red</answer>",
    "<answer></answer>",
    "no tags, at all",
]


def rollouts(completions: list[str]) -> pl.DataFrame:
    return sampled_frame(*((f"001:p:{index:02d}", "p", completion) for index, completion in enumerate(completions)))


def cut(frame: pl.DataFrame, completions: list[str]) -> list[list[str]]:
    texts = {f"001:p:{index:02d}": completion for index, completion in enumerate(completions)}
    return [
        [
            texts[rollout_id][start:end]
            for rollout_id, start, end in frame.filter(pl.col("rollout_id") == name).select("rollout_id", "start", "end").iter_rows()
        ]
        for name in texts
    ]


def test_spans_are_those_of_the_completion() -> None:
    frame, _ = stage.segment(rollouts(ANSWERS), Segment())
    assert cut(frame, ANSWERS) == [["navy wool coat", "for men"], ["שלום", "🔥 red"], [], ["no tags", "at all"]]


def test_metrics_count_what_happened() -> None:
    _, metrics = stage.segment(rollouts([*ANSWERS, "<answer>one two three four five</answer>"]), Segment())
    assert {
        name: metrics[name] for name in ("answers", "empty_answers", "segments", "segments_per_answer_max", "fallback_share", "coverage")
    } == {
        "answers": 5,
        "empty_answers": 1,
        "segments": 8,
        "segments_per_answer_max": 2,
        "fallback_share": 0.2,
        "coverage": 1.0,
    }


def test_answers_that_the_english_grammar_cannot_read_are_cut_into_words_and_counted() -> None:
    answers = ["navy wool coat", "красное шерстяное пальто", "防水スマホケース", "kΩ resistor set", "größe 39 schuhe"]
    completions = [f"<answer>{answer}</answer>" for answer in answers]
    frame, metrics = stage.segment(rollouts(completions), Segment())
    expected = [
        ["navy wool coat"],
        ["красное", "шерстяное", "пальто"],
        ["防水", "スマホケース"],
        ["kΩ resistor set"],
        ["größe 39", "schuhe"],
    ]
    assert cut(frame, completions) == expected
    assert (metrics["other_script_share"], metrics["fallback_share"], metrics["coverage"]) == (0.4, 0.0, 1.0)


def test_metrics_hold_the_distribution_of_segments_and_unions() -> None:
    completions = ["<answer></answer>", "<answer>red</answer>", "<answer>red, blue for men</answer>", "a, b, c, d, e"]
    _, metrics = stage.segment(rollouts(completions), Segment(max_segments=4))
    assert metrics["answers_by_segments"] == {"0": 1, "1": 1, "2": 0, "3": 1, "4": 1, "5-8": 0, "9-16": 0, "17+": 0}
    assert [metrics[f"segments_per_answer_{name}"] for name in ("mean", "p10", "median", "p90", "max")] == pytest.approx(
        [2, 0.3, 2, 3.7, 4]
    )
    assert [metrics[f"unions_per_answer_{name}"] for name in ("mean", "median", "max")] == pytest.approx([7 / 4, 1.5, 4])
    assert metrics["merged_share"] == 0.25


@pytest.mark.parametrize(("unions", "expected"), [("auto", [0, 0, 1]), ("clause", [0, 0, 1]), ("sentence", [0, 0, 0]), ("none", [0, 1, 2])])
def test_unions_are_those_of_the_parameter(unions: str, expected: list[int]) -> None:
    frame, _ = stage.segment(rollouts(["<answer>coat for men, red</answer>"]), Segment(unions=unions))
    assert frame["union_index"].to_list() == expected


def test_the_tail_beyond_the_most_segments_becomes_one() -> None:
    completions = ["<answer>a1, b1, c1, d1</answer>", "<answer>a1, b1</answer>"]
    frame, _ = stage.segment(rollouts(completions), Segment(max_segments=2))
    assert cut(frame, completions) == [["a1", "b1, c1, d1"], ["a1", "b1"]]


@pytest.mark.parametrize("level", ["phrase", "word", "sentence", "window"])
def test_every_level_makes_a_table_that_keeps_its_declaration(level: str, tmp_path: Path) -> None:
    frame, _ = stage.segment(rollouts(ANSWERS), Segment(level=level, window=2))
    parquet.write(frame, tmp_path / "segments.parquet", SEGMENTS)
    assert parquet.read(tmp_path / "segments.parquet", SEGMENTS).height == frame.height


def test_no_rollouts_make_an_empty_table() -> None:
    frame, metrics = stage.segment(ROLLOUTS.empty(), Segment())
    assert frame.schema == SEGMENTS.empty().schema
    assert metrics["answers"] == 0


@pytest.mark.parametrize("span", [(-1, 3), (3, 2), (0, 999)])
def test_an_answer_span_that_leaves_the_completion_is_refused_by_name(span: tuple[int, int]) -> None:
    broken = rollouts(["navy coat"]).with_columns(answer_start=pl.lit(span[0], dtype=pl.Int32), answer_end=pl.lit(span[1], dtype=pl.Int32))
    with pytest.raises(CreditError, match=r"rollout 001:p:00: the answer's span leaves the completion"):
        stage.segment(broken, Segment())


def test_execute_writes_table_and_metrics_twice_the_same(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    parquet.write(rollouts(ANSWERS), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    written = []
    for _ in range(2):
        metrics = stage.execute(layout, dataclasses.replace(Params()), 1)
        written.append([layout.iteration(1, name).read_bytes() for name in ("segments.parquet", "segment_metrics.json")])
    assert written[0] == written[1]
    assert json.loads(written[0][1]) == metrics


def test_missing_rollouts_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="run `ospo rollout --iter 3`"):
        stage.execute(Layout(tmp_path), Params(), 3)

"""The segmenter that the parameters name: rules, or a function of a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ospo_cli.errors import CreditError, ParameterError
from ospo_cli.graph.nodes import node
from ospo_cli.params.segment import Segment
from ospo_cli.params.whole import Params
from ospo_cli.segmenters.chosen import chosen
from ospo_cli.stages.segment import segment
from tests.stages.test_segment import rollouts

HALVES = "def halves(answer):\n    middle = answer.index(' ')\n    return [(0, middle), (middle + 1, len(answer))]\n"
ANSWER = "red coat, for men. Dress"


def own(folder: Path, text: str = HALVES) -> Segment:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return Segment(own_segmenter="mine.py:halves")


def test_without_a_name_the_rules_of_the_level_cut() -> None:
    cut, name = chosen(Segment(level="word"), Path())
    assert ([ANSWER[span.start : span.end] for span in cut(ANSWER).spans], name) == (["red", "coat", "for", "men", "Dress"], "rules")


def test_a_users_function_takes_their_place_whatever_the_level(tmp_path: Path) -> None:
    settings = own(tmp_path)
    cut, name = chosen(settings, tmp_path)
    frame, metrics = segment(rollouts(["<answer>red coat for men</answer>"]), settings, cut)
    assert frame.select("start", "end").rows() == [(8, 11), (12, 24)]
    assert (metrics["segments"], metrics["coverage"], name) == (2, 1.0, "mine.py:halves")


@pytest.mark.parametrize(
    ("unions", "expected"), [("auto", [0, 0, 0, 1]), ("sentence", [0, 0, 0, 1]), ("clause", [0, 0, 1, 2]), ("none", [0, 1, 2, 3])]
)
def test_its_segments_lie_in_the_unions_of_their_first_words(unions: str, expected: list[int], tmp_path: Path) -> None:
    text = "def halves(answer):\n    return [(0, 3), (3, 8), (10, 17), (18, 24)]\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    cut, _ = chosen(Segment(own_segmenter="mine.py:halves", unions=unions), tmp_path)
    assert [span.union_index for span in cut(ANSWER).spans] == expected


def test_letters_that_it_leaves_out_are_refused_unless_coverage_is_partial(tmp_path: Path) -> None:
    settings = own(tmp_path, "def halves(answer):\n    return [(0, 3)]\n")
    with pytest.raises(CreditError, match=r"segment.own_segmenter mine.py:halves: letters of the answer lie in no segment"):
        segment(rollouts(["<answer>red coat</answer>"]), settings, chosen(settings, tmp_path)[0])


def test_unions_of_phrases_over_words_are_none_of_an_own_segmenter() -> None:
    Segment(level="word", unions="phrase").check("segment")
    with pytest.raises(ParameterError, match="no unions of level phrase"):
        Segment(level="word", unions="phrase", own_segmenter="mine.py:halves").check("segment")


def test_its_file_is_an_input_of_stage_segment_and_of_no_other() -> None:
    params = Params(segment=Segment(own_segmenter="rules/mine.py:halves"))
    assert "rules/mine.py" in node("segment", 1, params).inputs
    assert not [name for name in ("rollout", "score-coalitions", "attribute") if "rules/mine.py" in node(name, 1, params).inputs]

"""A user's own segmenter: spans of an answer, and one line for everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ospo_cli.errors import CreditError
from ospo_cli.own_code import segmenters
from ospo_cli.own_code.segmenters import OwnSegmenter

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "own_segmenter.py"


def loaded(folder: Path, body: str) -> OwnSegmenter:
    (folder / "mine.py").write_text(f"def spans(text):\n    return {body}\n", encoding="utf-8")
    return segmenters.load("mine.py:spans", folder)


def test_spans_come_as_the_function_gives_them(tmp_path: Path) -> None:
    assert loaded(tmp_path, "[[0, 3], (4, len(text))]")("red coat") == [(0, 3), (4, 8)]
    assert loaded(tmp_path, "[]")("red coat") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[(0, 9)]", r"gives a span that cannot be: found \(0, 9\), expected start < end within 0\.\.8"),
        ("[(0, 3), (2, 5)]", r"gives a span that cannot be: found \(2, 5\), expected start < end within 3\.\.8"),
        ("[(3, 4)]", r"gives a span that cannot be: found \(3, 4\), expected .* with visible text"),
        ("[(2, 2)]", r"gives a span that cannot be: found \(2, 2\)"),
        ("[(-1, 2)]", r"gives a span that cannot be: found \(-1, 2\)"),
        ("[(0, 2.0)]", r"own_segmenter mine\.py:spans, answer 'red coat': fails: found TypeError: a span is no pair of whole numbers"),
        ("[(True, 2)]", "fails: found TypeError"),
        ("[3]", "fails: found TypeError"),
        ("None", "fails: found TypeError"),
        ("text.absent", r"mine\.py, line 2, own_segmenter mine\.py:spans.*: fails: found AttributeError"),
    ],
)
def test_spans_that_cannot_be_are_one_clear_line(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CreditError, match=message):
        loaded(tmp_path, body)("red coat")


def test_the_documented_example_runs() -> None:
    own = segmenters.load(f"{EXAMPLE}:spans", Path())
    answer = "navy wool coat, size 12"
    assert [answer[start:end] for start, end in own(answer)] == ["navy wool", "coat", "size 12"]

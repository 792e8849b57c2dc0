"""What a token decides, from texts whose tokens are letters or words."""

import polars as pl
import pytest

from ospo_cli.credit.token_kinds import KINDS, token_kinds
from ospo_cli.tables.segment import SEGMENTS


def kinds_of(parts, answer, spans):
    """Return a word per token; parts are the tokens' texts, `answer` the part that is the answer, spans its segments' texts."""
    completion = "".join(parts)
    start = completion.index(answer) if answer else len(completion)
    ids = list(range(len(parts)))
    rollouts = pl.DataFrame(
        {
            "rollout_id": ["r"],
            "prompt_id": ["p"],
            "completion": [completion],
            "token_ids": [ids],
            "answer_start": [start],
            "answer_end": [start + len(answer)],
        }
    )
    rows, at = [], start
    for index, text in enumerate(spans):
        at = completion.index(text, at)
        rows.append(("r", index, at, at + len(text), index))
        at += len(text)
    names = ("rollout_id", "segment_index", "start", "end", "union_index")
    segments = pl.DataFrame(rows, schema={name: SEGMENTS.schema[name] for name in names}, orient="row")
    found = token_kinds(rollouts, segments, lambda own: [parts[index].encode() for index in own], 1)
    return [KINDS[kind] for kind in found["r"]]


@pytest.mark.parametrize(
    ("parts", "answer", "spans", "expected"),
    [
        (
            ["<answer>", "wool", " coat", ",", " navy", "</answer>", ""],
            "wool coat, navy",
            ["wool coat", "navy"],
            ["tags", "segments", "segments", "separators", "segments", "stop", "stop"],
        ),
        (
            ["<think>", "hm", "</think>", "<answer>", "coat", ", ", "red", "</answer>"],
            "coat, red",
            ["coat", "red"],
            ["tags", "thinking", "tags", "tags", "segments", "separators", "segments", "stop"],
        ),
        (["<answer>", ",", ".", "</answer>", ""], ",.", [], ["tags", "stop", "stop", "stop", "stop"]),
        (["coat", ", ", "red", ".", ""], "coat, red.", ["coat", "red"], ["segments", "separators", "segments", "stop", "stop"]),
        (["<answer>", "coat", ",", "red"], "coat,red", ["coat", "red"], ["tags", "segments", "separators", "segments"]),
        (["<answer>co", "at</", "answer>"], "coat", ["coat"], ["segments", "segments", "stop"]),
    ],
    ids=["separators and stop", "thinking", "no segments", "no tags", "cut off", "tokens over borders"],
)
def test_every_token_has_the_kind_of_what_it_decides(parts, answer, spans, expected):
    assert kinds_of(parts, answer, spans) == expected


def test_a_comma_behind_the_last_segment_belongs_to_the_decision_to_stop():
    assert kinds_of(["<answer>", "coat", ",", "</answer>"], "coat,", ["coat"]) == ["tags", "segments", "stop", "stop"]

"""Cut each answer into segments, the players of the game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.params.segment import Segment as SegmentParams
from ospo_cli.segmenters.chosen import Cutter, by_rules, chosen
from ospo_cli.tables import files, placed
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.segments import Span, word_coverage

_BINS = {"0": (0, 0), "1": (1, 1), "2": (2, 2), "3": (3, 3), "4": (4, 4), "5-8": (5, 8), "9-16": (9, 16), "17+": (17, 1 << 30)}


class Reads(Protocol):
    """The sections that the stage reads."""

    @property
    def segment(self) -> SegmentParams: ...


@dataclass(frozen=True)
class _Answer:
    """Segments of one answer, whether words were counted in place of a rule, whether a clause is in another script than the grammar's, and
    whether the tail was merged; letters within and in all."""

    spans: Sequence[Span]
    has_fallback: bool
    is_unread: bool
    is_merged: bool
    covered: int
    letters: int


def execute(layout: Layout, params: Reads, iteration: int) -> dict[str, Any]:
    """Read rollouts, write segments and segment_metrics.json."""
    rollouts = read_rollouts(layout, iteration)
    cutter, name = chosen(params.segment, layout.root)
    segments, metrics = segment(rollouts, params.segment, cutter)
    metrics |= {"segmenter": name}
    placed.write(segments, SEGMENTS, layout, iteration)
    files.write_json(layout.iteration(iteration, "segment_metrics.json"), metrics)
    return metrics


def segment(rollouts: pl.DataFrame, settings: SegmentParams, cutter: Cutter | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the segments of all answers (spans within the completions) and what was counted.

    Args:
        rollouts: table rollouts.
        settings: section segment.
        cutter: answer -> segments; the rules of the level if not given.

    Raises:
        CreditError: an answer's span leaves its completion, or a letter or digit of an answer lies in no segment (coverage: full).
    """
    segmenter = cutter or by_rules(settings)

    # Policies repeat their answers, within a rollout group above all.
    @lru_cache(maxsize=100_000)
    def cut(answer: str) -> _Answer:
        return _cut(answer, segmenter, settings)

    columns = ("rollout_id", "completion", "answer_start", "answer_end")
    ids, answers, starts = [], [], []
    for rollout_id, completion, start, end in rollouts.select(columns).iter_rows():
        if not 0 <= start <= end <= len(completion):
            raise CreditError(
                f"rollout {rollout_id}",
                "the answer's span leaves the completion",
                found=f"{start}..{end}",
                expected=f"within 0..{len(completion)}",
                remedy="run the rollout again",
            )
        ids.append(rollout_id)
        answers.append(cut(completion[start:end]))
        starts.append(start)
    number = np.array([len(answer.spans) for answer in answers], dtype=np.int64)
    shift = np.repeat(np.array(starts, dtype=np.int64), number)
    spans = [span for answer in answers for span in answer.spans]
    frame = pl.DataFrame(
        {
            "rollout_id": pl.Series(ids, dtype=pl.String).gather(np.repeat(np.arange(len(ids)), number)),
            "segment_index": pl.Series(np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number), dtype=pl.Int32),
            "union_index": pl.Series([span.union_index for span in spans], dtype=pl.Int32),
            "start": pl.Series(np.array([span.start for span in spans], dtype=np.int64) + shift, dtype=pl.Int32),
            "end": pl.Series(np.array([span.end for span in spans], dtype=np.int64) + shift, dtype=pl.Int32),
        },
        schema=SEGMENTS.schema,
    )
    return frame, _metrics(answers, number)


def _cut(answer: str, segmenter: Cutter, settings: SegmentParams) -> _Answer:
    found = segmenter(answer)
    spans, most = found.spans, settings.max_segments
    if 0 < most < len(spans):
        last = spans[most - 1]
        spans = [*spans[: most - 1], Span(last.start, spans[-1].end, last.union_index)]
    covered, letters = word_coverage(answer, spans)
    if covered != letters and settings.coverage == "full":
        raise CreditError(
            f"segment.own_segmenter {settings.own_segmenter}" if settings.own_segmenter else f"segment.level {settings.level}",
            "letters of the answer lie in no segment",
            found=f"{covered} of {letters} in {answer!r}",
            expected="all of them",
            remedy="set segment.coverage: partial and score_coalitions.grand_value: any for a segmenter that leaves words out",
        )
    return _Answer(spans, found.fallbacks > 0, found.unread > 0, len(spans) < len(found.spans), covered, letters)


def _metrics(answers: Sequence[_Answer], number: NDArray[np.int64]) -> dict[str, Any]:
    count = max(len(answers), 1)
    letters = sum(answer.letters for answer in answers)
    unions = np.array([answer.spans[-1].union_index + 1 if answer.spans else 0 for answer in answers], dtype=np.int64)
    return {
        "answers": len(answers),
        "empty_answers": int((number == 0).sum()),
        "segments": int(number.sum()),
        **_distribution("segments_per_answer", number),
        **_distribution("unions_per_answer", unions),
        "answers_by_segments": {name: int(((number >= low) & (number <= high)).sum()) for name, (low, high) in _BINS.items()},
        "single_segment_share": round(float((number == 1).sum()) / count, 6),
        "fallback_share": round(sum(answer.has_fallback for answer in answers) / count, 6),
        "other_script_share": round(sum(answer.is_unread for answer in answers) / count, 6),
        "merged_share": round(sum(answer.is_merged for answer in answers) / count, 6),
        "letters_and_digits": letters,
        "coverage": sum(answer.covered for answer in answers) / letters if letters else 1.0,
    }


def _distribution(name: str, counts: NDArray[np.int64]) -> dict[str, float]:
    if not len(counts):
        return {f"{name}_{statistic}": 0.0 for statistic in ("mean", "p10", "median", "p90", "max")}
    p10, median, p90 = np.quantile(counts, [0.1, 0.5, 0.9])
    return {
        f"{name}_mean": round(float(counts.mean()), 6),
        f"{name}_p10": float(p10),
        f"{name}_median": float(median),
        f"{name}_p90": float(p90),
        f"{name}_max": int(counts.max()),
    }

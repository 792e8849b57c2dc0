"""Cut each answer into segments, the players of the game."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from ospo_cli import parquet
from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.params import Params
from ospo_cli.params import Segment as SegmentParams
from ospo_cli.schemas import ROLLOUTS, SEGMENTS
from ospo_cli.text.segments import Segmentation, Span, segmentation, word_coverage


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read rollouts, write segments and segment_metrics.json."""
    rollouts = parquet.read(layout.iteration(iteration, "rollouts.parquet"), ROLLOUTS, made_by=f"ospo rollout --iter {iteration}")
    segments, metrics = segment(rollouts, params.segment)
    parquet.write(segments, layout.iteration(iteration, "segments.parquet"), SEGMENTS)
    with parquet.replacing(layout.iteration(iteration, "segment_metrics.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def segment(rollouts: pl.DataFrame, params: SegmentParams) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the segments of all answers (spans within the completions) and what was counted.

    Raises:
        CreditError: an answer's span leaves its completion, or a letter or digit of an answer lies in no segment (coverage: full).
    """

    # Policies repeat their answers, within a rollout group above all.
    @lru_cache(maxsize=100_000)
    def cut(answer: str) -> tuple[Segmentation, int, int]:
        found = segmentation(answer, params.level, params.window)
        spans = _merged(found.spans, params.max_segments)
        covered, total = word_coverage(answer, spans)
        if covered != total and params.coverage == "full":
            raise CreditError(
                f"segment.level {params.level}",
                "letters of the answer lie in no segment",
                found=f"{covered} of {total} in {answer!r}",
                expected="all of them",
                remedy="set segment.coverage: partial and score_coalitions.grand_value: any for a level that leaves words out",
            )
        return Segmentation(spans, found.fallbacks), covered, total

    ids: list[str] = []
    counts: list[int] = []
    spans: list[Span] = []
    shifts: list[int] = []
    fallbacks = letters = covered_letters = 0
    columns = ("rollout_id", "completion", "answer_start", "answer_end")
    for rollout_id, completion, start, end in rollouts.select(columns).iter_rows():
        if not 0 <= start <= end <= len(completion):
            raise CreditError(
                f"rollout {rollout_id}",
                "the answer's span leaves the completion",
                found=f"{start}..{end}",
                expected=f"within 0..{len(completion)}",
                remedy="run the rollout again",
            )
        found, covered, total = cut(completion[start:end])
        ids.append(rollout_id)
        counts.append(len(found.spans))
        spans.extend(found.spans)
        shifts.append(start)
        fallbacks += found.fallbacks > 0
        letters += total
        covered_letters += covered
    number = np.array(counts, dtype=np.int64)
    shift = np.repeat(np.array(shifts, dtype=np.int64), number)
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
    answers = max(len(ids), 1)
    metrics = {
        "answers": len(ids),
        "empty_answers": int((number == 0).sum()),
        "segments": len(spans),
        "segments_per_answer_mean": round(float(number.mean()), 6) if len(ids) else 0.0,
        "segments_per_answer_median": float(np.median(number)) if len(ids) else 0.0,
        "segments_per_answer_max": int(number.max(initial=0)),
        "single_segment_share": round(float((number == 1).sum()) / answers, 6),
        "fallback_share": round(fallbacks / answers, 6),
        "letters_and_digits": letters,
        "coverage": covered_letters / letters if letters else 1.0,
    }
    return frame, metrics


def _merged(spans: list[Span], most: int) -> list[Span]:
    """Merge the tail beyond `most` segments into the last one that is kept."""
    if most == 0 or len(spans) <= most:
        return spans
    last = spans[most - 1]
    return [*spans[: most - 1], Span(last.start, spans[-1].end, last.union_index)]

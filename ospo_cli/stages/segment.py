"""Cut each answer into segments, the players of the game."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.layout import Layout
from ospo_cli.params.segment import Segment as SegmentParams
from ospo_cli.params.whole import Params
from ospo_cli.tables import files, parquet
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.segments import Segmentation, Span, segmentation, word_coverage

Chunker = Callable[[str], list[tuple[int, int]]]
_BINS = {"0": (0, 0), "1": (1, 1), "2": (2, 2), "3": (3, 3), "4": (4, 4), "5-8": (5, 8), "9-16": (9, 16), "17+": (17, 1 << 30)}


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read rollouts, write segments and segment_metrics.json."""
    rollouts = read_rollouts(layout.iteration(iteration, "rollouts.parquet"), iteration)
    chunks, segmenter = None, "rules"
    if params.segment.segmenter == "spacy":
        from ospo_cli.segmenters.spacy_chunks import load

        chunks, segmenter = load(params.segment.spacy_model)
    segments, metrics = segment(rollouts, params.segment, chunks)
    metrics |= {"segmenter": segmenter}
    parquet.write(segments, layout.iteration(iteration, "segments.parquet"), SEGMENTS)
    files.write_json(layout.iteration(iteration, "segment_metrics.json"), metrics)
    return metrics


def segment(rollouts: pl.DataFrame, params: SegmentParams, chunks: Chunker | None = None) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the segments of all answers (spans within the completions) and what was counted.

    Args:
        rollouts: table rollouts.
        params: section segment.
        chunks: answer -> noun chunks (first character, character after the last), in place of the phrase rules.

    Raises:
        CreditError: an answer's span leaves its completion, or a letter or digit of an answer lies in no segment (coverage: full).
    """

    # Policies repeat their answers, within a rollout group above all.
    @lru_cache(maxsize=100_000)
    def cut(answer: str) -> tuple[Segmentation, int, int, bool]:
        found = segmentation(answer, params.level, params.window, params.unions, None if chunks is None else chunks(answer))
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
        return Segmentation(spans, found.fallbacks), covered, total, len(spans) < len(found.spans)

    ids: list[str] = []
    counts: list[int] = []
    spans: list[Span] = []
    shifts: list[int] = []
    fallbacks = letters = covered_letters = merged = 0
    unions: list[int] = []
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
        found, covered, total, is_merged = cut(completion[start:end])
        ids.append(rollout_id)
        counts.append(len(found.spans))
        spans.extend(found.spans)
        shifts.append(start)
        fallbacks += found.fallbacks > 0
        merged += is_merged
        unions.append(found.spans[-1].union_index + 1 if found.spans else 0)
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
        **_distribution("segments_per_answer", number),
        **_distribution("unions_per_answer", np.array(unions, dtype=np.int64)),
        "answers_by_segments": {name: int(((number >= low) & (number <= high)).sum()) for name, (low, high) in _BINS.items()},
        "single_segment_share": round(float((number == 1).sum()) / answers, 6),
        "fallback_share": round(fallbacks / answers, 6),
        "merged_share": round(merged / answers, 6),
        "letters_and_digits": letters,
        "coverage": covered_letters / letters if letters else 1.0,
    }
    return frame, metrics


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


def _merged(spans: list[Span], most: int) -> list[Span]:
    """Merge the tail beyond `most` segments into the last one that is kept."""
    if most == 0 or len(spans) <= most:
        return spans
    last = spans[most - 1]
    return [*spans[: most - 1], Span(last.start, spans[-1].end, last.union_index)]

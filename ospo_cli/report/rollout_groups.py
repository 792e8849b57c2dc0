"""Rollout groups for the browser of rollouts: completions in pieces, each segment with its share and advantage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.text.visible import visible

COMPLETION_LIMIT = 2000
FIELD_LIMIT = 240
SHOWN_INTERACTIONS = 3
_HISTORY_LIMIT = 8


def rollout_groups(
    prompt_ids: Sequence[str],
    prompts: pl.DataFrame,
    rollouts: pl.DataFrame,
    segments: pl.DataFrame | None,
    rewards: pl.DataFrame | None,
    attributions: pl.DataFrame | None,
    interactions: pl.DataFrame | None = None,
    most: int = SHOWN_INTERACTIONS,
) -> list[dict[str, Any]]:
    """Return the groups of these prompts, JSON-able, texts visible and bounded; rollouts best reward first.

    Each rollout has its `most` strongest interactions as [first segment, last segment, text of both, dividend].
    """
    wanted = rollouts.filter(pl.col("prompt_id").is_in(list(prompt_ids)))
    ids = wanted["rollout_id"].to_list()
    spans = _spans(ids, segments, attributions)
    together = _interactions(wanted, segments, interactions, most)
    scored = (
        {} if rewards is None else {row["rollout_id"]: row for row in rewards.filter(pl.col("rollout_id").is_in(ids)).iter_rows(named=True)}
    )
    asked = {row["prompt_id"]: row for row in prompts.filter(pl.col("prompt_id").is_in(list(prompt_ids))).iter_rows(named=True)}
    members: dict[str, list[dict[str, Any]]] = {prompt_id: [] for prompt_id in prompt_ids}
    degenerate: set[str] = set()
    for row in wanted.sort("rollout_id").iter_rows(named=True):
        score = scored.get(row["rollout_id"])
        if score is not None and score["is_degenerate_group"]:
            degenerate.add(row["prompt_id"])
        members[row["prompt_id"]].append(
            {
                "sample": row["sample_index"],
                "reward": None if score is None else score["reward"],
                "parts": None if score is None else {name: score[name] for name in _parts(rewards)},
                "finish": row["finish_reason"],
                "tagged": row["has_answer_tags"],
                "tokens": len(row["token_ids"]),
                "pieces": pieces(row["completion"], spans.get(row["rollout_id"], [])),
                "interactions": together.get(row["rollout_id"], []),
            }
        )
    groups = []
    for prompt_id in prompt_ids:
        prompt = asked.get(prompt_id, {"query": "", "history": []})
        best_first = sorted(members[prompt_id], key=lambda member: (-(member["reward"] or 0.0), member["sample"]))
        history = [visible(title, FIELD_LIMIT) for title in prompt["history"][-_HISTORY_LIMIT:]]
        groups.append(
            {
                "prompt": visible(prompt_id, FIELD_LIMIT),
                "query": visible(prompt["query"], FIELD_LIMIT),
                "history": history,
                "degenerate": prompt_id in degenerate,
                "rollouts": best_first,
            }
        )
    return groups


def _parts(rewards: pl.DataFrame | None) -> list[str]:
    """Return the columns of table rewards that hold parts: those that every reward has, and further ones."""
    further = [] if rewards is None else [name for name in rewards.columns if name not in REWARDS.schema]
    return ["retrieval", "format", "length", "repetition", *further]


def pieces(completion: str, spans: Sequence[tuple[int, int, float | None, float | None]]) -> list[list[Any]]:
    """Return the completion cut into [text] outside of segments and [text, share, advantage] for each segment.

    >>> pieces("<answer>navy coat</answer>", [(8, 12, 0.25, 1.5), (13, 17, None, None)])
    [['<answer>'], ['navy', 0.25, 1.5], [' '], ['coat', None, None], ['</answer>']]
    """
    found: list[list[Any]] = []
    position = 0
    for start, end, share, advantage in sorted(spans):
        if end > COMPLETION_LIMIT:
            break
        if start > position:
            found.append([visible(completion[position:start], COMPLETION_LIMIT)])
        found.append([visible(completion[start:end], COMPLETION_LIMIT), _rounded(share), _rounded(advantage)])
        position = end
    rest = completion[position:]
    if rest:
        left = max(COMPLETION_LIMIT - position, 0)
        cut = f" … [cut: {len(completion):,} characters in all]" if len(rest) > left else ""
        found.append([visible(rest[:left], COMPLETION_LIMIT) + cut])
    return found


def colour_scale(groups: Sequence[dict[str, Any]]) -> float:
    """Return the |share| that gets the strongest colour: the 95th percentile over the segments shown, 0 where there is none."""
    sizes = sorted(
        abs(piece[1])
        for group in groups
        for rollout in group["rollouts"]
        for piece in rollout["pieces"]
        if len(piece) > 1 and piece[1] is not None
    )
    return sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))] if sizes else 0.0


def _spans(
    rollout_ids: Sequence[str], segments: pl.DataFrame | None, attributions: pl.DataFrame | None
) -> dict[str, list[tuple[int, int, float | None, float | None]]]:
    if segments is None:
        return {}
    rows = segments.filter(pl.col("rollout_id").is_in(list(rollout_ids)))
    if attributions is None:
        rows = rows.with_columns(share=pl.lit(None, dtype=pl.Float64), segment_advantage=pl.lit(None, dtype=pl.Float64))
    else:
        rows = rows.join(
            attributions.select("rollout_id", "segment_index", "share", "segment_advantage"), on=["rollout_id", "segment_index"], how="left"
        )
    spans: dict[str, list[tuple[int, int, float | None, float | None]]] = {}
    for rollout_id, start, end, share, advantage in rows.select("rollout_id", "start", "end", "share", "segment_advantage").iter_rows():
        spans.setdefault(rollout_id, []).append((start, end, share, advantage))
    return spans


def _interactions(
    rollouts: pl.DataFrame, segments: pl.DataFrame | None, interactions: pl.DataFrame | None, most: int
) -> dict[str, list[list[Any]]]:
    """Return the strongest windows of each rollout: largest |dividend| first, then from left to right."""
    if segments is None or interactions is None:
        return {}
    keys = ["rollout_id", "first_segment", "last_segment"]
    texts = segments.join(rollouts.select("rollout_id", "completion"), on="rollout_id").select(
        "rollout_id", "segment_index", text=pl.col("completion").str.slice(pl.col("start"), pl.col("end") - pl.col("start"))
    )
    found = (
        interactions.filter(pl.col("rollout_id").is_in(rollouts["rollout_id"].to_list()))
        .with_columns(size=pl.col("dividend").abs().round(9))
        .sort("size", *keys, descending=[True, False, False, False])
        .group_by("rollout_id", maintain_order=True)
        .head(most)
        .join(texts, left_on=keys[:2], right_on=["rollout_id", "segment_index"], how="left", maintain_order="left")
        .join(
            texts,
            left_on=["rollout_id", "last_segment"],
            right_on=["rollout_id", "segment_index"],
            how="left",
            maintain_order="left",
            suffix="_last",
        )
    )
    together: dict[str, list[list[Any]]] = {}
    for rollout_id, first, last, text, text_last, dividend in found.select(*keys, "text", "text_last", "dividend").iter_rows():
        ends = [visible(end or "", FIELD_LIMIT) for end in (text, text_last)]
        together.setdefault(rollout_id, []).append([first, last, *ends, _rounded(dividend)])
    return together


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6) + 0.0

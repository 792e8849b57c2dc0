"""Rollout groups for the browser of rollouts: completions in pieces, each segment with its share and advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.text.visible import visible

COMPLETION_LIMIT = 2000
FIELD_LIMIT = 240
SHOWN_INTERACTIONS = 3
_HISTORY_LIMIT = 8
Tables = Mapping[str, pl.DataFrame | None]
Span = tuple[int, int, float | None, float | None]  # start, end, share, advantage


def rollout_groups(
    prompt_ids: Sequence[str], prompts: pl.DataFrame, rollouts: pl.DataFrame, tables: Tables, most: int = SHOWN_INTERACTIONS
) -> list[dict[str, Any]]:
    """Return the groups of these prompts, JSON-able, texts visible and bounded; rollouts best reward first.

    Each rollout has its `most` strongest interactions as [first segment, last segment, text of both, dividend].

    Args:
        prompt_ids: whose groups.
        prompts, rollouts: the tables.
        tables: segments, rewards, attributions and interactions by name; None where a table is not there.
        most: interactions per rollout.
    """
    wanted = rollouts.filter(pl.col("prompt_id").is_in(list(prompt_ids))).sort("rollout_id")
    rewards = tables.get("rewards")
    scores = {} if rewards is None else {row["rollout_id"]: row for row in _of(wanted, rewards).iter_rows(named=True)}
    further = [] if rewards is None else [name for name in rewards.columns if name not in REWARDS.schema]
    parts = ["retrieval", "format", "length", "repetition", *further]
    spans = _spans(wanted, tables.get("segments"), tables.get("attributions"))
    together = _interactions(wanted, tables.get("segments"), tables.get("interactions"), most)
    members: dict[str, list[dict[str, Any]]] = {prompt_id: [] for prompt_id in prompt_ids}
    for row in wanted.iter_rows(named=True):
        score = scores.get(row["rollout_id"])
        members[row["prompt_id"]].append(
            {
                "sample": row["sample_index"],
                "reward": score and score["reward"],
                "parts": score and {name: score[name] for name in parts},
                "finish": row["finish_reason"],
                "tagged": row["has_answer_tags"],
                "tokens": len(row["token_ids"]),
                "pieces": pieces(row["completion"], spans.get(row["rollout_id"], [])),
                "interactions": together.get(row["rollout_id"], []),
            }
        )
    asked = {row["prompt_id"]: row for row in prompts.filter(pl.col("prompt_id").is_in(list(prompt_ids))).iter_rows(named=True)}
    degenerate = {score["prompt_id"] for score in scores.values() if score["is_degenerate_group"]}
    groups = []
    for prompt_id, own in members.items():
        prompt = asked.get(prompt_id, {"query": "", "history": []})
        groups.append(
            {
                "prompt": visible(prompt_id, FIELD_LIMIT),
                "query": visible(prompt["query"], FIELD_LIMIT),
                "history": [visible(title, FIELD_LIMIT) for title in prompt["history"][-_HISTORY_LIMIT:]],
                "degenerate": prompt_id in degenerate,
                "rollouts": sorted(own, key=lambda member: (-(member["reward"] or 0.0), member["sample"])),
            }
        )
    return groups


def pieces(completion: str, spans: Sequence[Span]) -> list[list[Any]]:
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


def _of(rollouts: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.col("rollout_id").is_in(rollouts["rollout_id"].to_list()))


def _spans(rollouts: pl.DataFrame, segments: pl.DataFrame | None, attributions: pl.DataFrame | None) -> dict[str, list[Span]]:
    if segments is None:
        return {}
    rows, keys, values = _of(rollouts, segments), ["rollout_id", "segment_index"], ["share", "segment_advantage"]
    if attributions is None:
        rows = rows.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in values)
    else:  # where a group game has no shares beside it, its credit is what there is to show
        rows = rows.join(attributions.select(*keys, pl.coalesce("share", "credit"), "segment_advantage"), on=keys, how="left")
    spans: dict[str, list[Span]] = {}
    for rollout_id, *span in rows.select("rollout_id", "start", "end", *values).iter_rows():
        spans.setdefault(rollout_id, []).append((span[0], span[1], span[2], span[3]))
    return spans


def _interactions(
    rollouts: pl.DataFrame, segments: pl.DataFrame | None, interactions: pl.DataFrame | None, most: int
) -> dict[str, list[list[Any]]]:
    """Return the strongest windows of each rollout: largest |dividend| first, then from left to right."""
    if segments is None or interactions is None:
        return {}
    keys = ["rollout_id", "first_segment", "last_segment"]
    strongest = (
        _of(rollouts, interactions)
        .with_columns(size=pl.col("dividend").abs().round(9))
        .sort("size", *keys, descending=[True, False, False, False])
        .group_by("rollout_id", maintain_order=True)
        .head(most)
    )
    completions = dict(rollouts.select("rollout_id", "completion").iter_rows())
    bounds = _of(rollouts, segments).select("rollout_id", "segment_index", "start", "end").iter_rows()
    texts = {(rollout_id, index): completions[rollout_id][start:end] for rollout_id, index, start, end in bounds}
    together: dict[str, list[list[Any]]] = {}
    for rollout_id, first, last, dividend in strongest.select(*keys, "dividend").iter_rows():
        ends = [visible(texts.get((rollout_id, index), ""), FIELD_LIMIT) for index in (first, last)]
        together.setdefault(rollout_id, []).append([first, last, *ends, _rounded(dividend)])
    return together


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6) + 0.0

"""Rows of tokens and segments written by hand, made flat for the rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ospo_cli.maths.redistribution import Credit, TokenMap

OUTSIDE = -1


def token_map(rows: Sequence[Sequence[int]], n_segments: Sequence[int] | None = None) -> TokenMap:
    """Each row is a list with the segment of each token, -1 for none."""
    counts = list(n_segments) if n_segments is not None else [max([*row, OUTSIDE]) + 1 for row in rows]
    first = np.cumsum(counts) - counts
    pairs = [
        (token, int(first[index]) + segment)
        for index, row, start in zip(range(len(rows)), rows, np.cumsum([0, *map(len, rows)]), strict=False)
        for token, segment in enumerate(row, start)
        if segment != OUTSIDE
    ]
    tokens, segments = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return TokenMap(
        token_row=np.repeat(np.arange(len(rows)), [len(row) for row in rows]),
        segment_row=np.repeat(np.arange(len(rows)), counts),
        overlap_token=tokens,
        overlap_segment=segments,
        overlap_weight=np.ones(len(tokens)),
        n_rows=len(rows),
    )


def credit(
    advantage: Sequence[float], share: Sequence[float], group: Sequence[int] | None = None, scale: float = 1.0, prefix: Sequence[float] | None = None,
    terminal: Sequence[float] | None = None, degenerate: Sequence[bool] | None = None, reward: Sequence[float] | None = None,
) -> Credit:  # fmt: skip
    rows = len(advantage)
    return Credit(
        advantage=np.array(advantage, dtype=float),
        scale=np.full(rows, scale),
        group=np.array(group if group is not None else [0] * rows),
        is_degenerate=np.array(degenerate if degenerate is not None else [False] * rows),
        share=np.array(share, dtype=float),
        prefix_advantage=None if prefix is None else np.array(prefix, dtype=float),
        terminal=np.zeros(rows) if terminal is None else np.array(terminal, dtype=float),
        noise=np.random.Generator(np.random.Philox(key=len(share))).random(len(share)),
        reward=np.ones(rows) if reward is None else np.array(reward, dtype=float),
    )

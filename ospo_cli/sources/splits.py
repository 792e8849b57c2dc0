"""Train, dev and test without leaks: no prompt and no near-duplicate of it lies in two splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.maths.seeding import uniforms
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources.near_duplicates import near_duplicates
from ospo_cli.text.words import STANDARD

PRECEDENCE = ("test", "dev", "train")


def assign_splits(prompts: pl.DataFrame, params: PrepareData, seed: int, folding: str = STANDARD) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the prompts (sorted by id) with a split each, and what was dropped or cut.

    A split that the source gives is kept; of near-duplicates (transitively) in different splits only those of the earliest split stay,
    test before dev before train, so that test stays as published and dev loses only what test holds. What has no split, or train where dev
    or test is not given, is cut by seed; near-duplicates stay together there. Prompts that the source leaves without a split count as train
    against the given ones.

    Raises:
        SourceError: a leak is left (never to be expected), or nothing is left.
    """
    prompts = prompts.sort("prompt_id")
    pairs = near_duplicates(prompts["query"].to_list(), prompts["history"].to_list(), params.near_duplicate, folding)
    given = prompts["split"].to_numpy()
    group = _groups(prompts.height, pairs)
    split = np.array([value or "train" for value in given], dtype=object)
    rank = np.array([PRECEDENCE.index(value) for value in split])
    earliest = np.full(prompts.height, len(PRECEDENCE))
    np.minimum.at(earliest, group, rank)
    keep = rank == earliest[group]
    dropped = {f"{name} prompts that repeat a prompt of an earlier split": int(((split == name) & ~keep).sum()) for name in PRECEDENCE[1:]}
    present = {value for value in given if value is not None}
    is_open = np.array([value is None for value in given]) & keep
    if not is_open.any():
        is_open = keep & (split == "train")
    shares = [
        (name, share) for name, share in (("test", params.test_share), ("dev", params.dev_share)) if name not in present and share > 0
    ]
    cut = _cut(prompts["prompt_id"].to_list(), split, is_open, group, shares, seed)
    result = prompts.with_columns(pl.Series("split", split.tolist(), dtype=pl.String)).filter(pl.Series(keep))
    left = int(sum(keep[a] and keep[b] and split[a] != split[b] for a, b in pairs))
    if left:
        raise SourceError(
            "prompts", "near-duplicates in two splits are left", found=left, expected="none", remedy="report this as a defect"
        )
    result, surplus = _sampled(result, params.max_prompts, seed)
    check = {"near-duplicate pairs found": len(pairs), "near-duplicate pairs across splits left": left, "similarity": params.near_duplicate}
    return result, {"cut by seed": cut, "dropped": {**dropped, "prompts beyond max_prompts": surplus}, "leak check": check}


def _groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the connected component of each prompt: what is cut together, and what lies in one split only."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _cut(
    ids: list[str], split: np.ndarray, is_open: np.ndarray, group: np.ndarray, shares: list[tuple[str, float]], seed: int
) -> dict[str, int]:
    """Move whole groups of open prompts to dev and test until their shares are reached; return how many went where."""
    positions = np.flatnonzero(is_open)
    members: dict[int, list[int]] = {}
    for position in positions:
        members.setdefault(int(group[position]), []).append(int(position))
    draws = uniforms(seed, [f"split|{ids[rows[0]]}" for rows in members.values()], 1)[:, 0]
    queue = [rows for _, rows in sorted(zip(draws, members.values(), strict=True), key=lambda item: (item[0], item[1]))]
    moved = {}
    for name, share in shares:
        room = wanted = min(max(round(share * len(positions)), 1 if len(members) >= 3 else 0), max(len(positions) - 1, 0))
        rest = []
        for rows in queue:
            if len(rows) <= room:
                split[rows] = name
                room -= len(rows)
            else:
                rest.append(rows)
        queue = rest
        moved[name] = wanted - room
    return moved


def _sampled(prompts: pl.DataFrame, limit: int, seed: int) -> tuple[pl.DataFrame, int]:
    if not limit:
        return prompts, 0
    draws = uniforms(seed, [f"max_prompts|{name}" for name in prompts["prompt_id"]], 1)[:, 0]
    kept = (
        prompts.with_columns(pl.Series("draw", draws))
        .filter(pl.struct("draw", "prompt_id").rank("ordinal").over("split") <= limit)
        .drop("draw")
    )
    return kept.sort("prompt_id"), prompts.height - kept.height

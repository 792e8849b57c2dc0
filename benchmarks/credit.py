"""Speed of credit: the Myerson value of many rollouts, against a plain Python loop and shapiq's exact computer; and stage attribute whole.

    python benchmarks/credit.py [--segments 1000000] [--rollouts 100000]

One process, one thread. shapiq (extra [oracle]) is timed where it is installed, on a few games, since each takes it 2^n values.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import polars as pl

from ospo_cli.maths import coalitions
from ospo_cli.maths.myerson import path_myerson
from ospo_cli.params.whole import Params
from ospo_cli.stages.attribute import Scored, attribute
from ospo_cli.tables.rollout_rows import RolloutRow, rollouts_frame
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS

LOOP_GAMES, SHAPIQ_GAMES = 2_000, 20


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def myerson_by_loop(window: list[list[float]]) -> list[float]:
    """The closed form as one would write it down."""
    n = len(window)

    def u(a: int, b: int) -> float:
        return window[a][b] if a <= b else 0.0

    share = [0.0] * n
    for a in range(n):
        for b in range(a, n):
            dividend = u(a, b) - u(a + 1, b) - u(a, b - 1) + (u(a + 1, b - 1) if b - a > 1 else 0.0)
            for j in range(a, b + 1):
                share[j] += dividend / (b - a + 1)
    return share


def in_parts(table: np.ndarray) -> None:
    """A few thousand games at a time, so that they stay in the processor's cache."""
    for part in np.array_split(table, max(1, len(table) // 2_000)):
        path_myerson(part)


def time_myerson(segments: int) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(4, 13, size=segments // 8)
    tables = {n: rng.random((int((sizes == n).sum()), n, n)) for n in range(4, 13)}
    total = sum(n * len(table) for n, table in tables.items())
    ours = seconds(lambda: [in_parts(table) for table in tables.values()])
    print(
        f"myerson: {total:,} segments in {sum(map(len, tables.values())):,} rollouts: {ours:.2f} s, {1e6 * ours / total:.3f} µs per segment"
    )

    some = tables[8][:LOOP_GAMES]
    as_lists = some.tolist()
    loop = seconds(lambda: [myerson_by_loop(game) for game in as_lists]) / len(some)
    batch = seconds(lambda: in_parts(tables[8])) / len(tables[8])
    gap = np.abs(path_myerson(some) - np.array([myerson_by_loop(game) for game in as_lists])).max()
    print(f"ours, n = 8: {1e6 * batch:.2f} µs per rollout")
    print(f"Python loop: {1e6 * loop:.1f} µs per rollout, largest difference {gap:.1e} … {loop / batch:.0f}x")
    try:
        from shapiq import ExactComputer
    except ImportError:
        print("shapiq: not installed (extra [oracle])")
        return

    def restricted(window: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def value(masks: np.ndarray) -> np.ndarray:
            found = []
            for mask in np.asarray(masks, dtype=bool):
                edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
                found.append(sum(window[a, b - 1] for a, b in zip(edges[0::2], edges[1::2], strict=True)))
            return np.array(found)

        return value

    found = []
    peer = (
        seconds(lambda: found.extend(ExactComputer(restricted(game), n_players=8)("SV", order=1) for game in some[:SHAPIQ_GAMES]))
        / SHAPIQ_GAMES
    )
    expected = np.array([[values[(j,)] for j in range(8)] for values in found])
    gap = np.abs(path_myerson(some[:SHAPIQ_GAMES]) - expected).max()
    print(f"shapiq ExactComputer: {1e6 * peer:.0f} µs per rollout, largest difference {gap:.1e} … {peer / batch:.0f}x")


def made_tables(rollouts: int) -> tuple[pl.DataFrame, ...]:
    """Tables of rollouts with about 8 segments of a word each; one token per character."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(4, 13, size=rollouts)
    ids = [f"001:p{row // 8:06d}:{row % 8:02d}" for row in range(rollouts)]
    prompts = [f"p{row // 8:06d}" for row in range(rollouts)]
    completions, starts, owners, indices = [], [], [], []
    for row, n in enumerate(sizes):
        completions.append("<answer>" + ", ".join(["word"] * n) + "</answer>")
        starts += range(8, 8 + 6 * n, 6)
        indices += range(n)
        owners += [ids[row]] * int(n)
    rollout_table = rollouts_frame(
        RolloutRow(name, prompt, row % 8, [1], text, list(text.encode()), [-1.0] * len(text), "stop")
        for row, (name, prompt, text) in enumerate(zip(ids, prompts, completions, strict=True))
    )
    segments = pl.DataFrame(
        {"rollout_id": owners, "segment_index": indices, "union_index": indices, "start": starts, "end": [start + 4 for start in starts]},
        schema=SEGMENTS.schema,
    )
    masks = {n: coalitions.to_mask_strings(coalitions.contiguous(n, 32, 0, coalitions.undrawn(""))) for n in range(4, 13)}
    owners, names = [], []
    for row, n in enumerate(sizes):
        owners += [ids[row]] * len(masks[n])
        names += masks[n]
    value = np.where(np.char.count(np.array(names), "1") == 0, 0.0, rng.random(len(names)))
    zeros = np.zeros(len(names))
    columns = {"rollout_id": owners, "coalition": names, "query": [""] * len(names), "coalition_value": value, "retrieval": value}
    values = pl.DataFrame(columns | {"length": zeros, "repetition": zeros}, schema=COALITION_VALUES.schema)
    grand = values.filter(~pl.col("coalition").str.contains("0")).sort("rollout_id")["coalition_value"]
    nothing = [0.0] * rollouts
    columns = {"rollout_id": sorted(ids), "prompt_id": prompts, "reward": grand, "retrieval": grand}
    parts = {"format": nothing, "length": nothing, "repetition": nothing, "is_degenerate_group": [False] * rollouts}
    rewards = pl.DataFrame(columns | parts, schema=REWARDS.schema)
    return rollout_table, segments, rewards, values


def time_attribute(rollouts: int) -> None:
    tables = made_tables(rollouts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    one = [bytes([byte]) for byte in range(256)]
    spent = seconds(lambda: attribute(Scored(*tables), lambda ids: [one[index] for index in ids], Params()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"attribute: {rollouts:,} rollouts, {tables[1].height:,} segments, {tables[3].height:,} coalition values: {spent:.1f} s; "
        f"{peak:.2f} GiB at the peak, {before:.2f} GiB of it before (tables made here)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--rollouts", type=int, default=100_000)
    chosen = parser.parse_args()
    time_myerson(chosen.segments)
    sys.stdout.flush()
    time_attribute(chosen.rollouts)


if __name__ == "__main__":
    main()

"""Ways of training side by side: runs that differ in nothing but the seed are one way, and seeds are compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.over_trainings import TrainingDifference, over_trainings
from ospo_cli.report.kept_runs import DECODINGS, Run, adjust, set_otherwise

BySeed = Mapping[int, Run]


def over_seeds(own: Run, kept: Sequence[Run]) -> dict[str, Any] | None:
    """Return a row per way of training with its difference to the project's own way over the seeds that both have; None without two seeds.

    Intervals are over seeds and prompts (`maths/over_trainings.py`); p is also adjusted for all comparisons of the table (Holm).

    Args:
        own: the project's run; its way of training is the first row.
        kept: runs of the same metric, retriever and split; their prompts may be others where their seeds are.
    """
    ways = _ways([own, *kept])
    own_way, others = ways[0], ways[1:]
    rows = [_row(own_way, None), *(_row(way, own_way) for way in others)]
    rows = rows[:1] + [row for row in rows[1:] if any(row[decoding] and "to_own" in row[decoding] for decoding in DECODINGS)]
    if len(own_way) < 2 and len(rows) == 1:
        return None
    adjust(rows)
    return {"rows": rows}


def _ways(runs: Sequence[Run]) -> list[dict[int, Run]]:
    """Return seed -> run of each way, in the order of their first runs; of two runs with one seed the first."""
    found: list[dict[int, Run]] = []
    for run in runs:
        if not run.params:  # kept before parameters were: nobody knows its seed
            continue
        seed = int(run.params["train"]["seed"])
        for way in found:
            first = next(iter(way.values()))
            if set(set_otherwise(first.params, run.params)) <= {"train.seed"}:
                way.setdefault(seed, run)
                break
        else:
            found.append({seed: run})
    return found


def _row(way: BySeed, own: BySeed | None) -> dict[str, Any]:
    runs = [way[seed] for seed in sorted(way)]
    row: dict[str, Any] = {"names": [run.name for run in runs], "how": runs[0].facts["how"], "seeds": sorted(way)}
    for decoding in DECODINGS:
        values = [found for run in runs if (found := run.at(decoding, None)) is not None]
        row[decoding] = None
        if not values:
            continue
        means = np.array([each.mean() for each in values])
        row[decoding] = {"mean": float(means.mean()), "deviation": float(means.std(ddof=1)) if len(means) > 1 else None}
        difference = _difference(way, own, decoding) if own is not None else None
        if difference is not None:
            row[decoding]["to_own"] = difference._asdict()
    return row


def _difference(way: BySeed, own: BySeed, decoding: str) -> TrainingDifference | None:
    apart: list[NDArray[np.float64]] = []
    prompts = []
    for seed in sorted(way.keys() & own.keys()):
        ours, theirs = own[seed].at(decoding, None), way[seed].at(decoding, None)
        if ours is None or theirs is None or own[seed].evaluated_on() != way[seed].evaluated_on():
            continue
        apart.append(theirs - ours)
        prompts.append(way[seed].evaluated_on())
    if len(apart) < 2:
        return None
    return over_trainings(apart, same_prompts=all(each == prompts[0] for each in prompts))

"""What the group game costs beside Myerson values: texts, distinct texts and seconds of score-coalitions on an iteration's rollouts.

    python benchmarks/group_game.py PROJECT [--iter 1] [--rounds 3] [--groups 384]

PROJECT has rollouts and segments of that iteration; nothing of it is written. Each row is the best of some rounds in this process: the
whole answers, and the texts of that estimator alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.rewards.answers import TextScorer
from ospo_cli.rewards.opening import open_reward
from ospo_cli.stages import score_coalitions as stage
from ospo_cli.tables import placed
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.segment import SEGMENTS

CASES: dict[str, dict[str, Any]] = {
    "answers alone": {"estimators": ["uniform"]},
    "myerson": {"estimators": ["myerson"]},
    "splice, batch": {"estimators": ["splice"], "alignment": "batch"},
    "splice, group": {"estimators": ["splice"], "alignment": "group"},
    "splice, index": {"estimators": ["splice"], "alignment": "index"},
    "swap, batch": {"estimators": ["swap"], "alignment": "batch"},
    "stopping, batch": {"estimators": ["stopping"], "alignment": "batch"},
}


def measured(layout: Layout, params: Params, iteration: int, groups: int, rounds: int) -> pl.DataFrame:
    """Return a row per case: rows and distinct texts of both tables, and seconds."""
    rollouts, segments = read_rollouts(layout, iteration), placed.read(SEGMENTS, layout, iteration)
    prompts = rollouts["prompt_id"].unique().sort()[:groups].to_list()
    rollouts = rollouts.filter(pl.col("prompt_id").is_in(prompts))
    segments = segments.filter(pl.col("rollout_id").is_in(rollouts["rollout_id"].to_list()))
    reward, found = open_reward(layout, params), []
    for name, settings in CASES.items():
        chosen = dataclasses.replace(params, score_coalitions=dataclasses.replace(params.score_coalitions, families=[], **settings))

        def score(chosen: Params = chosen) -> tuple[pl.DataFrame, pl.DataFrame]:
            scorer = TextScorer(reward, chosen.score_coalitions)
            rewards, values, _ = stage.score_coalitions(rollouts, segments, reward, chosen, scorer)
            return values, stage.score_spliced(rollouts, segments, rewards, scorer)

        seconds, (values, spliced) = best(score, rounds)
        counts = {table: (frame.height, distinct(frame, rollouts)) for table, frame in (("coalitions", values), ("spliced", spliced))}
        flat = {f"{table}{kind}": count for table, pair in counts.items() for kind, count in zip(("", "_distinct"), pair, strict=True)}
        found.append({"case": name, **flat, "seconds": seconds})
    return pl.DataFrame(found).with_columns(rollouts=rollouts.height, segments=segments.height)


def best(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the seconds of the quickest round, and its result."""
    took = []
    for _ in range(rounds):
        began = time.process_time()
        result = work()
        took.append(time.process_time() - began)
    return min(took), result


def distinct(frame: pl.DataFrame, rollouts: pl.DataFrame) -> int:
    """Return the number of distinct texts of a prompt."""
    pairs = frame.select("rollout_id", "query").join(rollouts.select("rollout_id", "prompt_id"), on="rollout_id")
    return pairs.select("prompt_id", "query").n_unique()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--iter", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=384)
    given = parser.parse_args()
    layout = Layout(given.project)
    table = measured(layout, whole.load(given.project / "params.yaml"), given.iter, given.groups, given.rounds)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200):
        print(table)

"""What a finished training left, read from its project and kept as two small tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.instruments.experiment.plan import Training
from ospo_cli.layout import Layout
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.evaluate import QUERY_METRICS
from ospo_cli.tables.experiment import EXPERIMENT_ITERATIONS, EXPERIMENT_VALUES
from ospo_cli.tables.files import read_json

STAGES = ("rollout", "segment", "score-coalitions", "attribute", "update")


@dataclass(frozen=True)
class Outcome:
    """Tables experiment_values and experiment_iterations of one training."""

    values: pl.DataFrame
    iterations: pl.DataFrame


def of_project(layout: Layout, training: Training, iterations: int) -> Outcome:
    """Return what an evaluated project holds.

    Raises:
        MissingInputError, FileError, TableError: it is not evaluated, or a file cannot be read.
    """
    summary = read_json(layout.evaluation("summary.json"), "ospo evaluate")
    names = {"raw-query": "raw query", "policy-000": "warm start", f"policy-{iterations:03d}": "final", "oracle": "oracle"}
    values = (
        placed.read(QUERY_METRICS, layout)
        .filter(
            pl.col("metric") == summary["metric"], pl.col("retriever") == summary["training_retriever"], pl.col("system").is_in(list(names))
        )
        .select(pl.col("system").replace(names), "decoding", "prompt_id", pl.col("metric_value").alias("value"))
    )
    rows = [_iteration(layout, iteration) for iteration in range(1, iterations + 1)]
    return Outcome(_named(values, training), _named(pl.DataFrame(rows, schema_overrides={"iteration": pl.Int32}), training))


def _iteration(layout: Layout, iteration: int) -> dict[str, float | None]:
    sampled = read_json(layout.iteration(iteration, "rollout_metrics.json"), f"ospo rollout --iter {iteration}")
    scored = read_json(layout.iteration(iteration, "score_metrics.json"), f"ospo score-coalitions --iter {iteration}")
    taken = [layout.plan(f"actual/{stage}@{iteration}.json") for stage in STAGES]
    seconds = sum(float(read_json(path)["cpu_seconds"]) for path in taken) if all(path.is_file() for path in taken) else None
    return {
        "iteration": iteration, "tokens": sampled["tokens"], "reward_calls": scored["distinct_values"], "cpu_seconds": seconds,
        "mean_reward": scored["mean_reward"], "entropy": sampled["entropy"],
    }  # fmt: skip


def _named(frame: pl.DataFrame, training: Training) -> pl.DataFrame:
    own = {"task": training.task, "method": training.method, "learning_rate": training.rate, "seed": training.seed}
    return frame.with_columns(pl.lit(value).alias(name) for name, value in own.items()).with_columns(pl.col("seed").cast(pl.Int64))


def write(found: Outcome, folder: Path) -> None:
    """Keep an outcome: two files, equal bytes for equal outcomes."""
    for frame, table in ((found.values, EXPERIMENT_VALUES), (found.iterations, EXPERIMENT_ITERATIONS)):
        parquet.write(frame.select(list(table.schema)), folder / f"{table.name}.parquet", table)


def read(folder: Path, training: Training) -> Outcome | None:
    """Return a kept outcome; None where there is none.

    Raises:
        TableError: a file breaks its schema.
        OspoError: it is another training's.
    """
    paths = [folder / f"{table.name}.parquet" for table in (EXPERIMENT_VALUES, EXPERIMENT_ITERATIONS)]
    if not all(path.is_file() for path in paths):
        return None
    found = Outcome(parquet.read(paths[0], EXPERIMENT_VALUES), parquet.read(paths[1], EXPERIMENT_ITERATIONS))
    for frame in (found.values, found.iterations):
        held = frame.select("task", "method", "learning_rate", "seed").unique().rows()
        if held != [(training.task, training.method, training.rate, training.seed)]:
            raise OspoError(folder, "holds another training's outcome", found=held[0] if held else "no rows", expected=training.folder)
    return found

"""A project's own run and those kept by `ospo keep`, read from their files."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import polars as pl

from ospo_cli.errors import TableError
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.report.evaluation_summary import read_summary
from ospo_cli.report.kept_runs import Run, compared, how
from ospo_cli.report.kept_seeds import over_seeds
from ospo_cli.report.staleness import Values
from ospo_cli.tables import parquet, placed
from ospo_cli.tables.evaluate import QUERY_METRICS
from ospo_cli.tables.files import read_json
from ospo_cli.tables.keep import KEPT_VALUES
from ospo_cli.tables.prepared import PROMPTS, QRELS


def comparison(layout: Layout, params: Params) -> dict[str, Any] | None:
    """Return the project's evaluated run beside all kept ones; None where there is none, or nothing is evaluated."""
    kept = kept_runs(layout)
    if not kept or not layout.evaluation("summary.json").is_file():
        return None
    own = present_run(layout, whole.to_mapping(params))
    draws = Resamples(len(own.prompts()), params.evaluate.bootstrap, seeding.generator(params.train.seed, "kept runs"), bounds=(0.0, 1.0))
    measured_alike = [run for run in kept if all(run.facts[name] == own.facts[name] for name in ("metric", "retriever", "split"))]
    return compared(own, kept, draws) | {"over_seeds": over_seeds(own, measured_alike)}


def present_run(layout: Layout, params: Values) -> Run:
    """Return what the project's tables hold now; `params` are what they were made with."""
    summary = read_summary(layout)
    metrics = placed.read(QUERY_METRICS, layout)
    chosen = metrics.filter(
        (pl.col("metric") == summary["metric"])
        & (pl.col("retriever") == summary["training_retriever"])
        & pl.col("system").str.starts_with("policy-")
    )
    values = (
        chosen.with_columns(iteration=pl.col("system").str.strip_prefix("policy-").cast(pl.Int32))
        .group_by("iteration", "decoding", "prompt_id")
        .agg(pl.col("metric_value").mean().alias("value"))
        .select(*KEPT_VALUES.schema)
        .sort(KEPT_VALUES.key)
    )
    iterations = []
    for iteration in range(1, int(values["iteration"].max()) + 1):  # type: ignore[arg-type]
        sampled = read_json(layout.iteration(iteration, "rollout_metrics.json"), f"ospo rollout --iter {iteration}")
        scored = read_json(layout.iteration(iteration, "score_metrics.json"), f"ospo score-coalitions --iter {iteration}")
        iterations.append(
            {"tokens": sampled["tokens"], "reward_calls": scored["distinct_values"], "mean_reward": scored.get("mean_reward")}
        )
    facts = {"metric": summary["metric"], "retriever": summary["training_retriever"], "split": summary["split"]}
    facts["prompts"] = _hash_of_prompts(layout, values)
    return Run("", facts | {"how": how(params)}, iterations, values, params)


def _hash_of_prompts(layout: Layout, values: pl.DataFrame) -> str:
    evaluated = values["prompt_id"].unique().to_list()
    rows = [
        placed.read(table, layout).filter(pl.col("prompt_id").is_in(evaluated)).select(columns).sort(columns).rows()
        for table, columns in ((PROMPTS, ["prompt_id", "prompt"]), (QRELS, ["prompt_id", "doc_id", "relevance"]))
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def kept_runs(layout: Layout) -> list[Run]:
    """Return the kept runs, in the order of their names."""
    found = []
    for path in sorted(layout.kept("").glob("*/run.json")):
        content = read_json(path, f"ospo keep {path.parent.name}")
        made_by = f"ospo keep {path.parent.name}"
        values = parquet.read(path.parent / "values.parquet", KEPT_VALUES, made_by=made_by)
        try:
            facts = {name: str(content["facts"][name]) for name in ("metric", "retriever", "split", "how")}
            if "prompts" in content["facts"]:  # not in what was kept by earlier versions
                facts["prompts"] = str(content["facts"]["prompts"])
            iterations = [{name: float(each[name]) for name in ("tokens", "reward_calls")} for each in content["iterations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(path, "is not what `ospo keep` writes", found=error, remedy="delete its folder") from None
        made_with = content.get("params")
        found.append(Run(path.parent.name, facts, iterations, values, made_with if isinstance(made_with, dict) else {}))
    return found

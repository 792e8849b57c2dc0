"""One self-contained HTML page about everything that exists: evaluation, training, credit, wins and losses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import ospo_cli
from ospo_cli.errors import MissingInputError
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.group_game import GROUP_GAMES, shown_estimator
from ospo_cli.params import whole
from ospo_cli.params.whole import Params
from ospo_cli.report import staleness
from ospo_cli.report.evaluation_summary import read_summary
from ospo_cli.report.iteration_measures import measure_iteration
from ospo_cli.report.kept_files import comparison
from ospo_cli.report.page import render
from ospo_cli.report.plan_sections import compared
from ospo_cli.report.result_table import final_policy
from ospo_cli.report.rollout_groups import colour_scale, rollout_groups
from ospo_cli.report.warning_signs import warning_signs
from ospo_cli.report.wins_and_losses import wins_and_losses
from ospo_cli.tables import files, placed
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS
from ospo_cli.tables.audit import AUDIT, AUDIT_CURVES, GRADIENT_AUDIT
from ospo_cli.tables.declare import Table
from ospo_cli.tables.evaluate import COMPLETIONS, QUERY_METRICS
from ospo_cli.tables.plan import PLAN
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.tables.segment import SEGMENTS

_PREPARED = (DOCUMENTS, PROMPTS, QRELS, POOLS)
_ITERATION = (ROLLOUTS, SEGMENTS, REWARDS, ATTRIBUTIONS, INTERACTIONS)


def execute(layout: Layout, params: Params) -> dict[str, Any]:
    """Read what exists, write report.html; only the prepared tables must be there."""
    data = report(layout, params)
    page = render(data)
    files.write_text(layout.report(), page)
    crossed = [asdict(sign) for sign in data["signs"] if sign.is_crossed]
    files.write_json(layout.warnings(), crossed, ensure_ascii=False)
    names = [sign["name"] for sign in crossed]
    return {"report": str(layout.report()), "bytes": len(page.encode()), "iterations": len(data["iterations"]), "warnings": names}


def report(layout: Layout, params: Params) -> dict[str, Any]:
    """Return everything that the page shows, JSON-able but for the warning signs."""
    prepared = {table.name: placed.read(table, layout) for table in _PREPARED}
    summary = read_summary(layout) if layout.evaluation("summary.json").is_file() else None
    iterations, groups = [], []
    for iteration in range(1, params.train.iterations + 1):
        tables = {table.name: _table(layout, iteration, table) for table in _ITERATION}
        rollouts = tables["rollouts"]
        if rollouts is None:
            continue
        metrics = {
            stage: _json(layout.iteration(iteration, f"{stage}_metrics.json"), f"ospo {stage} --iter {iteration}") or {}
            for stage in ("rollout", "segment", "update")
        }
        iterations.append(measure_iteration(iteration, rollouts, tables["segments"], tables["rewards"], metrics, params.retrieval.folding))
        share = max(1, params.report.rollouts // max(1, params.train.iterations))
        chosen = _chosen(sorted(set(rollouts["prompt_id"].to_list())), share, params.train.seed, iteration)
        groups += [group | {"iteration": iteration} for group in rollout_groups(chosen, prepared["prompts"], rollouts, tables)]
    values = whole.to_mapping(params)
    counts = {
        "documents": prepared["documents"].height,
        "prompts": dict(sorted(prepared["prompts"].group_by("split").len().iter_rows())),
        "judgments": prepared["qrels"].height,
        "pool_candidates": prepared["pools"].height,
    }
    return {
        "title": params.report.title,
        "version": ospo_cli.__version__,
        "params": whole.to_sections(params),
        "defaults": whole.to_sections(Params()),
        "card": _json(layout.prepared("card.json"), "ospo prepare-data"),
        "counts": counts,
        "files": [_fingerprint(layout, layout.prepared(f"{table.name}.parquet")) for table in _PREPARED],
        "summary": summary,
        "iterations": iterations,
        "signs": warning_signs(iterations, params.rollout.max_new_tokens, summary["prompts"] if summary else None),
        "groups": groups,
        "shown_estimator": shown_estimator(params.attribute.estimator, params.score_coalitions.estimators),
        "audits": _audits(layout, params.train.iterations, values),
        "colour_scale": colour_scale(groups),
        "queries": _queries(layout, params.report.queries, prepared["prompts"], summary) if summary else [],
        "kept": comparison(layout, params),
        "plan": plan_and_actual(layout, values),
    }


def plan_and_actual(layout: Layout, present: staleness.Values) -> dict[str, Any] | None:
    """Return what `ospo plan` expected beside what each stage took when it last ran; None without a plan."""
    if not layout.plan("plan.parquet").is_file():
        return None
    planned = placed.read(PLAN, layout)
    facts = _json(layout.plan("plan.json"), "ospo plan") or {}
    changed = [
        f"{section}.{name}"
        for section, values in facts.get("params", {}).items()
        for name, value in values.items()
        if section != "report" and present.get(section, {}).get(name) != value
    ]
    labels = {(stage, k): f"{stage}@{k}" if k else stage for stage, k in planned.select("stage", "iteration").iter_rows()}
    records = {key: _json(layout.plan(f"actual/{label}.json"), f"ospo {key[0]}") for key, label in labels.items()}
    actual = {key: record for key, record in records.items() if record is not None}
    return {"rows": compared(planned.iter_rows(named=True), actual), "changed": changed}


def _queries(layout: Layout, most: int, prompts: pl.DataFrame, summary: dict[str, Any]) -> list[dict[str, Any]]:
    final = final_policy(summary)
    bases = ["raw-query"] if final == "policy-000" else ["policy-000", "raw-query"]
    metrics = placed.read(QUERY_METRICS, layout)
    chosen = metrics.filter(
        (pl.col("retriever") == summary["training_retriever"])
        & (pl.col("metric") == summary["metric"])
        & pl.col("decoding").is_in(["none", "greedy"])
        & pl.col("system").is_in(["raw-query", "policy-000", final])
    )
    completions = placed.read(COMPLETIONS, layout)
    values, shown = chosen.select("prompt_id", "system", "metric_value"), max(1, most // (2 * len(bases)))
    return [wins_and_losses(values, completions, prompts, final, base, shown) for base in bases]


def _audits(layout: Layout, iterations: int, values: staleness.Values) -> list[dict[str, Any]]:
    """Return what `ospo audit` found, by iteration: tables whose inputs still are what they were, and for others what has changed."""
    found = []
    for iteration in range(1, iterations + 1):
        audit = _standing(layout, values, iteration, AUDIT)
        if audit is not None and not audit["changed"]:
            audit["curves"] = placed.read(AUDIT_CURVES, layout, iteration).to_dicts()
            named = {row["estimator"] for row in audit["rows"]}
            audit["order"] = [name for name in (*ESTIMATORS, *GROUP_GAMES) if name in named]
        gradients = _standing(layout, values, iteration, GRADIENT_AUDIT)
        if audit is not None or gradients is not None:
            found.append({"iteration": iteration, "audit": audit, "gradients": gradients})
    return found


def _standing(layout: Layout, values: staleness.Values, iteration: int, table: Table) -> dict[str, Any] | None:
    """Return an audit's metrics, what has changed since, and its rows where nothing has; None where there is none."""
    metrics = _json(layout.iteration(iteration, f"{table.name}_metrics.json"), table.command(iteration))
    if metrics is None:
        return None
    tables, inputs = metrics.get("tables"), metrics.get("inputs")
    if not isinstance(tables, dict) or not isinstance(inputs, dict):
        return {"metrics": metrics, "changed": [f"{table.name}_metrics.json, which does not say what it was computed from,"]}
    changed = staleness.changed(layout, values, tables | inputs)
    rows = [] if changed else placed.read(table, layout, iteration).to_dicts()
    return {"metrics": metrics, "changed": changed, "rows": rows}


def _chosen(prompt_ids: list[str], count: int, seed: int, iteration: int) -> list[str]:
    if len(prompt_ids) <= count:
        return prompt_ids
    order = np.argsort(seeding.uniforms(seed, [f"report:{iteration}:{prompt_id}" for prompt_id in prompt_ids], 1)[:, 0], kind="stable")
    return sorted(prompt_ids[index] for index in order[:count])


def _table(layout: Layout, iteration: int, table: Table) -> pl.DataFrame | None:
    try:
        return placed.read(table, layout, iteration)
    except MissingInputError:
        return None


def _json(path: Path, made_by: str) -> dict[str, Any] | None:
    return files.read_json(path, made_by) if path.is_file() else None


def _fingerprint(layout: Layout, path: Path) -> dict[str, Any]:
    return {"path": path.relative_to(layout.root).as_posix(), "bytes": path.stat().st_size, "sha256": files.sha256_of(path)}

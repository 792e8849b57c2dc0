"""Before anything runs: how many completions, texts, steps, seconds and bytes each stage will take, from a short calibration here."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from ospo_cli.graph import runner
from ospo_cli.graph.dvc_lock import DvcLock
from ospo_cli.graph.nodes import Node
from ospo_cli.instruments.plan.calibration import Measures, calibrate
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report.number_text import count, plain, short
from ospo_cli.report.plan_sections import HEADER, STAGES, cells, total
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import files, parquet
from ospo_cli.tables.plan import PLAN

_SUMMED = (("seconds", 1.0), ("cpu_seconds", 1.0), ("bytes", 1e6))

_Row = tuple[str, int, int, str, int, float, float, int, int]


def plan(layout: Layout, params: Params) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Calibrate; return table plan and the facts behind it. Nothing of the project is written but data/plan."""
    layout.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plan-", dir=layout.cache) as folder, contextlib.redirect_stderr(io.StringIO()):
        measures = calibrate(layout, layout.cache / Path(folder).name, params)
    made_by = {(made.stage, made.iteration or 0): by for made, by in _existing(layout, params)}
    rows = [
        (*row, found, bool(made_by[row[0], row[1]]))
        for row, found in _with_found(expected(measures, params), measures)
        if (row[0], row[1]) in made_by
    ]
    table = pl.DataFrame(rows, schema=PLAN.schema, orient="row")
    parquet.write(table, layout.plan("plan.parquet"), PLAN)
    by = list(made_by.values())
    facts = dataclasses.asdict(measures) | {
        "params": to_mapping(params),
        "made_by": {name: by.count(name) for name in sorted(set(by) - {""})},
    }
    files.write_json(layout.plan("calibration.json"), facts)
    return table, facts


def _existing(layout: Layout, params: Params) -> Iterator[tuple[Node, str]]:
    """Yield every stage and whose records hold its results: ospo run's, dvc repro's alone, or nobody's (empty: it would run again)."""
    lock, stale = DvcLock(layout.root), set[str]()
    for made, state in runner.outlook(layout, params):
        by = "ospo run" if state == "up to date" else ""
        if not by and not stale & set(made.inputs) and lock.is_current(made):
            by = "dvc repro"
        if not by:
            stale.update(made.outputs, made.metrics)
        yield made, by


def would_run_again(layout: Layout, params: Params) -> str | None:
    """Return the first command up to evaluate that would run again under these parameters; None where the results are theirs."""
    return next((made.command for made, by in _existing(layout, params) if not by and made.stage != "report"), None)


def _with_found(rows: Iterator[_Row], measures: Measures) -> Iterator[tuple[_Row, int | None]]:
    """Yield the rows, and how many of their texts the store holds: null where that is not known or nothing is looked up."""
    for row in rows:
        share = {("score-queries", 0): measures.raw_queries_found, ("score-coalitions", 1): measures.texts_found}.get((row[0], row[1]))
        if share is None or (row[0] == "score-coalitions" and measures.answers_from != "rollouts 001"):
            yield row, None
            continue
        cost, found = measures.costs[row[0]], round(share * row[2])
        # What is found costs a look-up, a few millionths of a second.
        saved = cost.unit_seconds * found, cost.unit_cpu_seconds * found
        yield (*row[:5], max(row[5] - saved[0], 0.0), max(row[6] - saved[1], 0.0), *row[7:]), found


def print_plan(table: pl.DataFrame, facts: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print a line per stage, all iterations together, the sums, and what they rest on."""
    output = Terminal(stream if stream is not None else sys.stdout)
    header = ["stage", "runs", "up to date", "units a run", "of what", "tokens a run", "s a run", "s", "CPU s", "MB written", "MB memory"]
    rows = []
    for (stage,), own in table.sort("iteration").group_by(["stage"], maintain_order=True):
        first, todo = own.row(0, named=True), own.filter(~pl.col("is_current"))
        sums = [short(todo[name].sum() / scale) for name, scale in _SUMMED]
        counts = [str(own.height), str(own.height - todo.height), count(first["units"]), first["unit"], count(first["tokens"])]
        rows.append([str(stage), *counts, short(first["seconds"]), *sums, short(first["peak_bytes"] / 1e6)])
    order = {stage: place for place, stage in enumerate(STAGES)}
    rows.sort(key=lambda row: order[row[0]])
    todo = table.filter(~pl.col("is_current"))
    sums = [short(todo[name].sum() / scale) for name, scale in _SUMMED]
    peak = short((todo["peak_bytes"].max() or 0) / 1e6)  # type: ignore[operator]
    rows.append(["to do", str(todo.height), "", "", "", "", "", *sums, peak])
    output.grid(header, rows, numbers=[name for name in header if name not in ("stage", "of what")])
    output.line()
    output.line(
        f"A completion: {plain(facts['completion_tokens'], 1)} tokens after {plain(facts['prompt_tokens'], 1)} of the prompt, "
        f"{plain(facts['coalitions'], 1)} coalitions, {plain(facts['distinct_texts'], 1)} distinct texts (from {facts['answers_from']})."
    )
    output.line(_store_in_words(facts))
    further = facts["params"]["rollout"]["further_rounds"]
    if further:
        output.line(
            f"Rollouts of the first round are planned; as many prompts again as there are rollout groups of equal rewards follow, "
            f"up to {count(further)} times (rollout.further_rounds)."
        )
    if facts["made_by"]:
        made = ", ".join(f"{number} by {name}" for name, number in facts["made_by"].items())
        output.line(f"Up to date: {made}. `ospo run` skips what it or a command of its stages made, `dvc repro` what stands in dvc.lock.")
    output.line(f"A model of {count(facts['weights'])} weights. Calibrated in {short(facts['seconds'])} s; other work here counts in.")


def _store_in_words(facts: dict[str, Any]) -> str:
    share = facts["texts_found"]
    if share is None:
        return "Store of values: nothing is looked up for the reward; computing is cheaper there (docs/store.md), or store.values is never."
    whose = "iteration 1's own texts" if facts["answers_from"] == "rollouts 001" else f"texts from {facts['answers_from']}"
    return (
        f"Store of values: it holds {share:.0%} of {whose} for this reward; how many of the texts still to be sampled it will hold is not "
        "known, and they are planned as computed."
    )


def print_actual(found: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print plan against actual, for the stages that ran."""
    output = Terminal(stream if stream is not None else sys.stdout)
    if found["changed"]:
        output.line(f"The plan was made for other parameters: {', '.join(found['changed'][:8])}.", style="yellow")
    rows = [cells(row) for row in [*found["rows"], total(found["rows"])]]
    output.grid(list(HEADER), rows, numbers=HEADER[1:])


def expected(measures: Measures, params: Params) -> Iterator[_Row]:
    """Yield (stage, iteration, units, unit, tokens, seconds, cpu_seconds, bytes, peak_bytes) for every stage of the loop."""
    from ospo_cli.stages.warm_start import planned_steps

    costs, settings, update = measures.costs, params.rollout, params.update
    yield "prepare-data", 0, measures.prompts, "prompts", 0, *costs["prepare-data"].of(0)
    yield "score-queries", 0, measures.prompts, "queries", 0, *costs["score-queries"].of(measures.prompts)
    steps = planned_steps(measures.teacher_pairs, params.warm_start)
    pair = measures.prompt_tokens + measures.completion_tokens
    batch = min(params.warm_start.batch_size, measures.teacher_pairs)
    warm, titles = costs["warm-start"].of(steps), costs["score-coalitions"].of(measures.judged_titles)
    if measures.judged_titles:
        warm = _added(warm, (*titles[:2], 0, titles[3]))
    yield "warm-start", 0, steps, "steps", round(steps * batch * pair), *warm
    groups = min(settings.prompts_per_iteration, measures.train_prompts)
    rollouts = groups * settings.group_size
    tokens = rollouts * measures.completion_tokens
    texts = rollouts * measures.distinct_texts
    places = (tokens + groups * measures.prompt_tokens) * update.epochs
    for iteration in range(1, params.train.iterations + 1):
        sampling = _added(costs["rollout"].of(tokens), costs["rollout: prompt"].of(groups))
        yield "rollout", iteration, rollouts, "completions", round(tokens), *sampling
        yield "segment", iteration, rollouts, "answers", 0, *costs["segment"].of(rollouts)
        yield "score-coalitions", iteration, round(texts), "distinct texts", 0, *costs["score-coalitions"].of(texts)
        yield "attribute", iteration, rollouts, "answers", 0, *costs["attribute"].of(rollouts)
        steps = update.epochs * -(-groups // update.groups_per_step)
        yield "update", iteration, steps, "steps", round(tokens * update.epochs), *costs["update"].of(places)
    yield _evaluation(measures, params)
    yield "report", 0, params.train.iterations, "iterations", 0, *costs["report"].of(params.train.iterations)


def _evaluation(measures: Measures, params: Params) -> _Row:
    costs, policies, prompts = measures.costs, len(params.evaluated_iterations), measures.evaluated_prompts
    completions = policies * prompts * (1 + params.evaluate.samples)
    tokens = completions * measures.completion_tokens
    sampling = dataclasses.replace(costs["rollout"], seconds=0.0, cpu_seconds=0.0, unit_bytes=0.0)
    read = policies * prompts  # greedy and sampled together
    systems = policies + 1 + bool(params.evaluate.oracle_edits)
    parts = [sampling.of(tokens), costs["rollout: prompt"].of(read), costs["evaluate: load"].of(policies)]
    parts += [costs["evaluate: rank"].of(completions + 2 * prompts), costs["evaluate: run"].of(systems * prompts)]
    if params.evaluate.oracle_edits:
        parts.append(costs["evaluate: oracle"].of(prompts))
    return "evaluate", 0, completions, "completions", round(tokens), *_added(*parts)


def _added(*parts: tuple[float, float, int, int]) -> tuple[float, float, int, int]:
    """Return seconds, processor seconds and bytes in all, and the largest memory."""
    seconds, cpu, size, peak = zip(*parts, strict=True)
    return sum(seconds), sum(cpu), sum(size), max(peak)

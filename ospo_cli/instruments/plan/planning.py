"""What a run will take: exact counts of its work, times what a unit took in the last run here, or in a small sample where there is none."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.graph import runner
from ospo_cli.graph.declared import Node
from ospo_cli.graph.standing import standing
from ospo_cli.instruments.plan.sample import ORACLE, Record, Scratch, sampled
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report.number_text import count, short
from ospo_cli.report.plan_sections import HEADER, UNITS, cells, total
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import files, parquet
from ospo_cli.tables.plan import PLAN
from ospo_cli.tables.prepared import PROMPTS, QRELS

# Parameters that change how many units a stage has, and hardly what one of them takes.
FREE = {
    "train.seed", "warm_start.steps", "warm_start.max_epochs", "rollout.prompts_per_iteration", "rollout.group_size",
    "rollout.further_rounds", "update.groups_per_step", "update.max_groups", "evaluate.max_prompts", "evaluate.bootstrap",
}  # fmt: skip
# Stage -> what its time grows with, by its name among the counts of the stage's result.
_GROWS = {
    "prepare-data": "prompts", "score-queries": "prompts", "warm-start": "steps", "segment": "answers", "evaluate": "completions",
    "report": "iterations", ORACLE: "prompts",
}  # fmt: skip
_SUMMED = (("seconds", 1.0), ("cpu_seconds", 1.0), ("bytes", 1e6))


def plan(layout: Layout, params: Params) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return table plan and the facts behind it; write both to data/plan, and nothing else of the project."""
    made_by = list(standing(layout, params))
    records = {made.stage: recorded(layout, made, params) for made, _ in made_by}
    layout.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plan-", dir=layout.cache) as folder, contextlib.redirect_stderr(io.StringIO()):
        scratch = Scratch(layout.root, layout.cache / Path(folder).name)
        missing, found = [stage for stage, runs in records.items() if not runs], dict[str, list[Record]]()
        if made_by[0][1] and records["prepare-data"]:
            shutil.copytree(layout.prepared(""), scratch.prepared(""))
        else:
            found["prepare-data"] = [runner.measured(made_by[0][0], scratch, params)[1]]
        exact = counts(scratch, params)
        if set(missing) - {"prepare-data"}:
            found |= sampled(layout, scratch, params)
        records |= {stage: runs for stage, runs in found.items() if stage in missing or (stage == ORACLE and "evaluate" in missing)}
    rows = [
        (made.stage, made.iteration or 0, *_expected(made.stage, exact, records), "sample" if made.stage in missing else "run", bool(by))
        for made, by in made_by
    ]
    table = pl.DataFrame(rows, schema=PLAN.schema, orient="row")
    parquet.write(table, layout.plan("plan.parquet"), PLAN)
    owners = [by for _, by in made_by if by]
    facts = exact | {"params": to_mapping(params), "made_by": {name: owners.count(name) for name in sorted(set(owners))}}
    files.write_json(layout.plan("plan.json"), facts)
    return table, facts


def counts(layout: Layout, params: Params) -> dict[str, int]:
    """Return what the parameters and the prepared tables fix: exact, but for what is named `most`, which a run can stay below."""
    from ospo_cli.stages.warm_start import planned_steps, teacher_pairs

    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS)
    train = prompts.filter(pl.col("split") == "train")
    settings, warm, update = params.rollout, params.warm_start, params.update
    if warm.teacher == "judgments":
        relevant = parquet.read(layout.prepared("qrels.parquet"), QRELS).filter(pl.col("relevance") > 0)
        pairs = min(train.join(relevant, on="prompt_id", how="semi").height, warm.steps * warm.batch_size)
    else:
        pairs = teacher_pairs(layout, params, prompts).height
    groups, evaluated = min(settings.prompts_per_iteration, train.height), prompts.filter(pl.col("split") == params.evaluate.split).height
    evaluated = min(evaluated, params.evaluate.max_prompts or evaluated)
    answers = evaluated * len(params.evaluated_iterations) * (1 + params.evaluate.samples)
    return {
        "prompts": prompts.height,
        "train_prompts": train.height,
        "evaluated_prompts": evaluated,
        "warm_start_steps": planned_steps(pairs, warm),
        "rollouts": groups * settings.group_size,
        "most_tokens": groups * settings.group_size * settings.max_new_tokens,
        "most_update_tokens": groups * settings.group_size * settings.max_new_tokens * update.epochs,
        "most_update_steps": update.epochs * -(-min(groups, update.max_groups or groups) // update.groups_per_step),
        "evaluated_answers": answers,
        "most_evaluated_tokens": answers * settings.max_new_tokens,
        "iterations": params.train.iterations,
    }


def recorded(layout: Layout, made: Node, params: Params) -> list[Record]:
    """Return the records of a stage's last runs, one per iteration: those of the same parameters but FREE, that found no finished work."""
    present, found = _weighty(runner.section_values(made, params)), []
    for path in sorted(layout.plan("actual").glob(f"{made.stage}.json" if made.iteration is None else f"{made.stage}@*.json")):
        with contextlib.suppress(OspoError):
            record = files.read_json(path)
            if "params" in record and _weighty(record["params"]) == present and not record["counts"].get("reused_values"):
                found.append(record)
    return found


def _weighty(sections: Mapping[str, Any]) -> Any:
    flat: dict[str, Any] = {}
    for section, value in sections.items():
        flat |= {f"{section}.{name}": own for name, own in value.items()} if isinstance(value, dict) else {section: value}
    return json.loads(json.dumps({name: value for name, value in flat.items() if name not in FREE}))


def _expected(stage: str, exact: Mapping[str, int], records: Mapping[str, Sequence[Record]]) -> tuple[Any, ...]:
    """Return units, unit, most tokens, seconds, processor seconds, bytes and peak memory of one run of a stage."""
    grows, tokens = {
        "prepare-data": ("prompts", ""), "score-queries": ("prompts", ""), "warm-start": ("warm_start_steps", ""),
        "rollout": ("rollouts", "most_tokens"), "update": ("rollouts", "most_update_tokens"), "report": ("iterations", ""),
        "evaluate": ("evaluated_answers", "most_evaluated_tokens"),
    }.get(stage, ("rollouts", ""))  # fmt: skip
    units, own = exact[grows], records[stage]
    took = _cost(stage, own, units)
    if stage == "evaluate" and ORACLE in records:
        took = [one + other for one, other in zip(took, _cost(ORACLE, records[ORACLE], exact["evaluated_prompts"]), strict=True)]
    if stage == "score-coalitions":
        units = round(units * sum(each["counts"]["distinct_values"] for each in own) / sum(_work(stage, each) for each in own))
    elif stage == "update":
        units = exact["most_update_steps"]
    peak = max(record["peak_bytes"] for record in own)
    return (units, UNITS[stage][0], exact.get(tokens, 0), took[0], took[1], round(took[2]), peak)


def _work(stage: str, record: Record) -> float:
    return max(float(record["counts"][_GROWS.get(stage, "rollouts")]), 1.0)


def _cost(stage: str, records: Sequence[Record], units: float) -> list[float]:
    """Return seconds, processor seconds and bytes of so many units.

    Two runs of unlike size are the sample's: their difference is the units', the rest is fixed. Runs of a loop are alike: the median of
    what a unit took in each is taken times the units.
    """
    few, many = records[0], records[-1]
    small, large, took = _work(stage, few), _work(stage, many), {}
    for name in ("cpu_seconds", "bytes"):
        if large > 1.5 * small:
            slope = max(many[name] - few[name], 0.0) / (large - small)
            took[name] = max(many[name] - slope * large, 0.0) + slope * units
        else:
            took[name] = statistics.median(record[name] / _work(stage, record) for record in records) * units
    # Other work on the machine stretches runs unevenly: the difference is taken of processor seconds alone.
    stretched = sum(record["seconds"] for record in records) / max(sum(record["cpu_seconds"] for record in records), 1e-9)
    return [took["cpu_seconds"] * stretched, took["cpu_seconds"], took["bytes"]]


def print_plan(table: pl.DataFrame, facts: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print a line per stage, all iterations together, the sums, and what they rest on."""
    output, todo = Terminal(stream if stream is not None else sys.stdout), table.filter(~pl.col("is_current"))
    words = ["stage", "of what", "rate from"]
    header = [words[0], "runs", "up to date", "units a run", words[1], "most tokens", words[2], "s a run", "s", "CPU s", "MB", "MB memory"]
    rows = []
    for stage, (unit, _, _) in UNITS.items():
        if (own := table.filter(pl.col("stage") == stage)).height:
            first, left = own.row(0, named=True), todo.filter(pl.col("stage") == stage)
            told = [str(own.height), str(own.height - left.height), count(first["units"]), unit, count(first["tokens"]), first["rate_from"]]
            rows.append([stage, *told, short(first["seconds"]), *_sums(left), short(first["peak_bytes"] / 1e6)])
    rows.append(["to do", str(todo.height), *[""] * 6, *_sums(todo), short(max([0, *todo["peak_bytes"]]) / 1e6)])
    output.grid(header, rows, numbers=[name for name in header if name not in words])
    output.line(f"\nPrompts: {count(facts['train_prompts'])} to train on, {count(facts['evaluated_prompts'])} to evaluate.")
    further = facts["params"]["rollout"]["further_rounds"]
    if further:
        output.line(
            "Rollouts of the first round are planned; as many prompts again as there are rollout groups of equal rewards follow, "
            f"up to {count(further)} times (rollout.further_rounds)."
        )
    if facts["made_by"]:
        made = ", ".join(f"{number} by {name}" for name, number in facts["made_by"].items())
        output.line(f"Up to date: {made}. `ospo run` skips what it or a command of its stages made, `dvc repro` what stands in dvc.lock.")


def _sums(rows: pl.DataFrame) -> list[str]:
    return [short(float(rows[name].sum()) / scale) for name, scale in _SUMMED]


def print_actual(found: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print plan against actual, for the stages that ran."""
    output = Terminal(stream if stream is not None else sys.stdout)
    if found["changed"]:
        output.line(f"The plan was made for other parameters: {', '.join(found['changed'][:8])}.", style="yellow")
    output.grid(list(HEADER), [cells(row) for row in [*found["rows"], total(found["rows"])]], numbers=HEADER[1:])

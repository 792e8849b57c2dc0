"""Plan against actual: what each stage was expected to take, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ospo_cli.report.number_text import count, short

# Stage, in the order of the work -> its unit, and the names of its units and its tokens among the counts of its result.
UNITS = {
    "prepare-data": ("prompts", "prompts", ""),
    "score-queries": ("queries", "prompts", ""),
    "warm-start": ("steps", "steps", ""),
    "rollout": ("completions", "rollouts", "tokens"),
    "segment": ("answers", "answers", ""),
    "score-coalitions": ("distinct texts", "distinct_values", ""),
    "attribute": ("answers", "rollouts", ""),
    "update": ("steps", "optimizer_steps", "tokens"),
    "evaluate": ("completions", "completions", ""),
    "report": ("iterations", "iterations", ""),
}
HEADER = ("stage", "runs", "units", "planned", "tokens", "at most", "seconds", "planned", "ratio", "CPU s", "planned", "MB", "planned")
_SUMMED = ("units", "tokens", "seconds", "cpu_seconds")
Row = dict[str, Any]


def compared(planned: Iterable[Mapping[str, Any]], actual: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[Row]:
    """Return one row per stage, in the order of the work: sums over the runs that both have, and the ratio of actual to planned seconds.

    Args:
        planned: rows of table plan.
        actual: (stage, iteration) -> the runner's record of it.

    A stage of which no run was recorded has actual numbers of None.
    """
    rows: dict[str, Row] = {}
    for each in sorted(planned, key=lambda each: list(UNITS).index(each["stage"])):
        stage = each["stage"]
        zero: Row = {f"planned_{name}": 0 for name in (*_SUMMED, "peak_bytes")} | dict.fromkeys((*_SUMMED, "peak_bytes", "ratio"))
        row = rows.setdefault(stage, {"stage": stage, "unit": each["unit"], "runs": 0, "planned_runs": 0} | zero)
        row["planned_runs"] += 1
        if (record := actual.get((stage, each["iteration"]))) is None:
            continue
        row["runs"] += 1
        counted = dict(zip(("units", "tokens"), (record.get("counts", {}).get(name) for name in UNITS[stage][1:]), strict=True))
        for name, value in (counted | {name: record[name] for name in _SUMMED[2:]}).items():
            if value is not None:
                row[name], row[f"planned_{name}"] = (row[name] or 0) + value, row[f"planned_{name}"] + each[name]
        for name, value in (("peak_bytes", record["peak_bytes"]), ("planned_peak_bytes", each["peak_bytes"])):
            row[name] = max(row[name] or 0, value)
        row["ratio"] = row["seconds"] / row["planned_seconds"] if row["planned_seconds"] > 0 else None
    return list(rows.values())


def total(rows: Sequence[Row]) -> Row:
    """Return the sums over the stages that ran."""
    done = [row for row in rows if row["runs"]]
    sums = {name: sum(row[name] for row in done) for name in ("runs", "seconds", "planned_seconds", "cpu_seconds", "planned_cpu_seconds")}
    return {"stage": "all of these", "ratio": sums["seconds"] / sums["planned_seconds"] if sums["planned_seconds"] > 0 else None} | sums


def cells(row: Row) -> list[str]:
    """Return the texts of one row, in the order of HEADER."""
    if not row["runs"]:
        return [row["stage"], "0", *[""] * (len(HEADER) - 2)]
    pairs: dict[str, list[Any]] = {name: [row.get(name), row.get(f"planned_{name}")] for name in (*_SUMMED, "peak_bytes")}
    counted = [count(number) if pairs[name][0] else "" for name in ("units", "tokens") for number in pairs[name]]
    memory = [short(number / 1e6) if pairs["peak_bytes"][0] else "" for number in pairs["peak_bytes"]]
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return [row["stage"], str(row["runs"]), *counted, *map(short, pairs["seconds"]), ratio, *map(short, pairs["cpu_seconds"]), *memory]


def section(plan: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the table of plan and actual; None where `ospo plan` was not asked, or no stage has run since."""
    if plan is None or not any(row["runs"] for row in plan["rows"]):
        return None
    return {"header": HEADER, "rows": [cells(row) for row in [*plan["rows"], total(plan["rows"])]], "changed": plan["changed"]}

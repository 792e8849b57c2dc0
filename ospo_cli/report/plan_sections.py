"""Plan against actual: what each stage was expected to take, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ospo_cli.report.number_text import count, short

STAGES = (
    "prepare-data", "score-queries", "warm-start", "rollout", "segment", "score-coalitions", "attribute", "update", "evaluate", "report",
)  # fmt: skip
_MEGABYTE = 1e6
Row = dict[str, Any]


def compared(planned: Iterable[Mapping[str, Any]], actual: Mapping[tuple[str, int], Mapping[str, float]]) -> list[Row]:
    """Return one row per stage, in the order of the work: sums over the runs that both have, and the ratio of actual to planned seconds.

    Args:
        planned: rows of table plan.
        actual: (stage, iteration) -> seconds, cpu_seconds, peak_bytes, and units and tokens where the stage counts them.

    A stage of which no run was recorded has actual numbers of None.
    """
    rows: dict[str, Row] = {}
    for each in planned:
        row = rows.setdefault(
            each["stage"],
            {"stage": each["stage"], "unit": each["unit"], "runs": 0, "planned_runs": 0, "ratio": None}
            | dict.fromkeys(("planned_seconds", "planned_cpu_seconds", "planned_units", "planned_tokens", "planned_peak_bytes"), 0)
            | dict.fromkeys(("seconds", "cpu_seconds", "units", "tokens", "peak_bytes")),
        )
        row["planned_runs"] += 1
        done = actual.get((each["stage"], each["iteration"]))
        if done is None:
            continue
        row["runs"] += 1
        for name in ("seconds", "cpu_seconds"):
            row[f"planned_{name}"] += each[name]
            row[name] = (row[name] or 0.0) + done[name]
        row["planned_peak_bytes"] = max(row["planned_peak_bytes"], each["peak_bytes"])
        row["peak_bytes"] = max(row["peak_bytes"] or 0, done["peak_bytes"])
        for name in ("units", "tokens"):
            if done.get(name) is not None:
                row[f"planned_{name}"] += each[name]
                row[name] = (row[name] or 0) + done[name]
    for row in rows.values():
        row["ratio"] = row["seconds"] / row["planned_seconds"] if row["runs"] and row["planned_seconds"] > 0 else None
    return sorted(rows.values(), key=lambda row: STAGES.index(row["stage"]))


def total(rows: Sequence[Row]) -> Row:
    """Return the sums over the stages that ran."""
    done = [row for row in rows if row["runs"]]
    sums = {name: sum(row[name] for row in done) for name in ("seconds", "planned_seconds", "cpu_seconds", "planned_cpu_seconds")}
    ratio = sums["seconds"] / sums["planned_seconds"] if sums["planned_seconds"] > 0 else None
    return {"stage": "all of these", "runs": sum(row["runs"] for row in done), "ratio": ratio} | sums


HEADER = ("stage", "runs", "units", "planned", "tokens", "planned", "seconds", "planned", "ratio", "CPU s", "planned", "MB", "planned")


def cells(row: Row) -> list[str]:
    """Return the texts of one row, in the order of HEADER."""
    if not row["runs"]:
        return [row["stage"], "0", *[""] * (len(HEADER) - 2)]
    units = [count(row["units"]), count(row["planned_units"])] if row.get("units") else ["", ""]
    tokens = [count(row["tokens"]), count(row["planned_tokens"])] if row.get("tokens") else ["", ""]
    memory = [short(row[name] / _MEGABYTE) for name in ("peak_bytes", "planned_peak_bytes")] if row.get("peak_bytes") else ["", ""]
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    seconds = [short(row["seconds"]), short(row["planned_seconds"]), ratio, short(row["cpu_seconds"]), short(row["planned_cpu_seconds"])]
    return [row["stage"], str(row["runs"]), *units, *tokens, *seconds, *memory]


def section(plan: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the table of plan and actual; None where `ospo plan` was not asked, or no stage has run since."""
    if plan is None or not any(row["runs"] for row in plan["rows"]):
        return None
    return {"header": HEADER, "rows": [cells(row) for row in [*plan["rows"], total(plan["rows"])]], "changed": plan["changed"]}

"""The experiment's page: curves with bands over seeds, tables, differences as bars over all tasks. One file, no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ospo_cli.instruments.experiment.analysis import CURVE_POINTS, Compared, Row, ToLevel, curve
from ospo_cli.maths.over_trainings import TrainingDifference
from ospo_cli.report import pages
from ospo_cli.report.charts import Drawing, Frame, Line, interval_bar, line_chart, nice_ticks

_FOLDER = Path(__file__).resolve().parent
_COLOURS = 10
_UNITS = {"tokens": ("1,000 tokens sampled", 1e3), "reward_calls": ("1,000 texts scored", 1e3), "cpu_seconds": ("CPU minutes", 60.0)}


def render(data: dict[str, Any]) -> str:
    """Return the page; equal data gives equal bytes."""
    tasks = [_task(task) for task in data["tasks"]]
    forest = _forest([each for task in data["tasks"] for each in _against_reference(task)])
    content = {
        "file": data["file"], "text": data["text"], "absent": data["absent"], "tasks": tasks, "forest": forest, "along": data["along"],
        "points": CURVE_POINTS, "nav": [*((task["id"], task["name"]) for task in tasks), ("forest", "All tasks"), ("file", "File")],
    }  # fmt: skip
    return pages.render(_FOLDER / "page.html", content, styles=[_FOLDER / "page.css"])


def _task(task: dict[str, Any]) -> dict[str, Any]:
    rows: list[Row] = task["rows"]
    decodings = rows[0].decodings()
    compared = {(each.method, each.decoding, each.other): each for each in task["compared"]}
    shown = [_row(row, place, decodings, task["reference"], compared) for place, row in enumerate(rows)]
    levels = [{"method": row.method, "cells": [_of(found, row.method) for found in task["levels"].values()]} for row in rows[1:]]
    anchors = [(name, float(rows[0].means(system, decoding).mean())) for name, system, decoding in _anchors(rows[0])]
    return {
        "id": "task-" + "".join(character if character.isascii() and character.isalnum() else "-" for character in task["task"].lower()),
        "name": task["task"], "reference": task["reference"], "decodings": decodings, "rows": shown, "anchors": anchors,
        "levels": levels, "charts": [_chart(rows, along) for along in _UNITS if not _is_unknown(rows, along)],
    }  # fmt: skip


def _row(row: Row, place: int, decodings: list[str], reference: str, compared: dict[tuple[str, str, str], Compared]) -> dict[str, Any]:
    cells = []
    for decoding in decodings:
        means = row.means("final", decoding)
        deviation = float(means.std(ddof=1)) if len(means) > 1 else None
        others = [(other, compared.get((row.method, decoding, other))) for other in (reference, "raw query")]
        apart = [(name, _shown(each)) for name, each in others if each]
        cells.append({"mean": float(means.mean()), "deviation": deviation, "apart": apart})
    return {
        "method": row.method, "style": f"r{place % _COLOURS}", "rate": row.rate, "seeds": len(row.seeds), "cells": cells,
        "entropy": float(row.along("entropy")[:, -1].mean()), "earned": float(row.along("mean_reward")[:, -1].mean()),
        "tokens": float(row.along("tokens").sum(axis=1).mean()), "reward_calls": float(row.along("reward_calls").sum(axis=1).mean()),
    }  # fmt: skip


def _of(found: list[ToLevel], method: str) -> ToLevel | None:
    return next((each for each in found if each.method == method), None)


def _anchors(row: Row) -> list[tuple[str, str, str]]:
    found = [("raw query", "raw query", "none"), *((f"warm start, {name}", "warm start", name) for name in row.decodings())]
    return [each for each in [*found, ("oracle", "oracle", "none")] if len(row.value(each[1], each[2], row.seeds[0]))]


def _shown(each: Compared) -> dict[str, Any]:
    found = each.found
    return {
        "mean": found.mean, "low": found.low, "high": found.high, "p": found.p_value, "holm": each.adjusted_p,
        "detectable": found.detectable,
        "over": f"{each.seeds} seeds" if isinstance(found, TrainingDifference) else "prompts alone",
    }  # fmt: skip


def _is_unknown(rows: list[Row], along: str) -> bool:
    return any((values != values).any() for values in (row.along(along) for row in rows))


def _chart(rows: list[Row], along: str) -> Drawing:
    label, unit = _UNITS[along]
    lines = []
    for place, row in enumerate(rows):
        points = [(spent / unit, mean, low, high) for spent, mean, low, high in curve(row, along)]
        lines.append(Line((row.method,), f"r{place % _COLOURS}", points if len(row.seeds) > 1 else [point[:2] for point in points]))
    longest = max(point[0] for line in lines for point in line.points)
    ticks = [tick for tick in nice_ticks(0, longest) if tick <= longest]
    return line_chart(lines, Frame(f"mean reward of the rollouts by {label}", label, ticks_at=ticks, margin_right=170))


def _against_reference(task: dict[str, Any]) -> list[tuple[str, Compared]]:
    return [(task["task"], each) for each in task["compared"] if each.other == task["reference"]]


def _forest(found: list[tuple[str, Compared]]) -> list[dict[str, Any]]:
    """Return a bar per task, method and decoding, on one scale that holds 0."""
    if not found:
        return []
    reach = max(max(abs(each.found.low), abs(each.found.high)) for _, each in found) or 1.0
    rows = []
    for task, each in found:
        cell = {"mean": each.found.mean, "low": each.found.low, "high": each.found.high}
        label = (
            f"{each.method}, {each.decoding}, minus {each.other}: {each.found.mean:+.3f} [{each.found.low:+.3f}, {each.found.high:+.3f}]"
        )
        bar = interval_bar(cell, (-reach, reach), "greedy" if each.decoding == "greedy" else "sampled", label)
        rows.append({"task": task, "method": each.method, "decoding": each.decoding, "bar": bar} | _shown(each))
    return rows

"""The lab's page: which rule for which length, where rules converge, how good their gradients are. One file, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ospo_cli.instruments.lab.tables import (
    AXES,
    CAUTION,
    along,
    answer,
    best_rule_of_the_middle,
    best_rules,
    by_rule,
    convergence_columns,
    estimators_of,
    lengths,
    problem_label,
    safest_rule,
)
from ospo_cli.report import pages
from ospo_cli.report.charts import Drawing, Frame, Level, Line, line_chart

_FOLDER = Path(__file__).resolve().parent
_COLOURS = 10
_AXIS_NAMES = {
    "segments": "segments, n",
    "group_size": "completions per rollout group, G",
    "noise": "noise, in standard deviations of the reward",
}
Points = Sequence[tuple[float, float]]
Figure = dict[str, Any]


def render(data: dict[str, Any]) -> str:
    """Return the page; equal data gives equal bytes."""
    sections = {
        "rules": ("Which rule", _which_rule(data)),
        "convergence": ("Convergence", _convergence(data)),
        "quality": ("Gradients", _quality(data)),
        "estimators": ("Estimators", _estimators(data)),
        "limits": ("Limits", CAUTION),
    }
    nav = [(identity, name) for identity, (name, content) in sections.items() if content is not None]
    facts = {"command": data["command"], "seeds": data["seeds"], "root of random numbers": data["seed"], "estimator": data["estimator"]}
    content = {identity: shown for identity, (_, shown) in sections.items()} | {"data": data, "nav": nav, "facts": facts}
    return pages.render(_FOLDER / "page.html", content, styles=[_FOLDER / "page.css"])


def _which_rule(data: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for n in lengths(data):
        best = best_rules(data, n)
        cells = [answer(best[kind]) if kind in best else "–" for kind in data["interactions"]]
        rows.append({"n": n, "cells": cells, "safest": safest_rule(data, n)})
    return rows


def _convergence(data: dict[str, Any]) -> dict[str, Any] | None:
    if not data["convergence"]:
        return None
    steps, columns, figures = data["convergence"][0]["steps"], convergence_columns(data), []
    for problem, outside in columns:
        best = next(row["best_reward"] for row in data["convergence"] if row["problem"] == problem)
        lines: dict[str, list[tuple[float, float]]] = {rule: [] for rule in data["rules"]}
        for row in sorted(data["curves"], key=lambda row: row["step"]):
            if (row["problem"], row["outside"]) == (problem, outside):
                lines[row["rule"]].append((row["step"], row["expected_reward"]))
        ticks = [tick for tick in (0, 1, 10, 100, 1000, 10_000, 100_000) if tick <= steps]
        name = problem_label(problem, outside)
        frame = Frame(f"expected reward by step, {name}", "step", height=340, is_log=True, ticks_at=ticks, digits=2)
        meaning = f"{data['problems'][problem]} (G = {data['group_sizes'][problem]})"
        figures.append(_figure(name, meaning, _merged(data["rules"], lines), frame, [Level("", best)]))
    cells = {(row["rule"], row["problem"], row["outside"]): row for row in data["convergence"]}
    rows = {rule: [cells[rule, *column] for column in columns] for rule in data["rules"]}
    return {"steps": steps, "figures": figures, "heads": [problem_label(*column) for column in columns], "rows": rows}


def _quality(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return figures and tables of each kind of interaction, one per axis along which something was measured."""
    kinds = []
    for interaction, meaning in data["interactions"].items():
        figures, tables = [], []
        for axis in AXES:
            found = by_rule(along(data, interaction, axis), axis)
            values = sorted({value for cells in found.values() for value in cells})
            if not values or (len(values) < 2 and axis != "segments"):
                continue
            lines = {rule: [(value, cells[value]["cosine"]) for value in values] for rule, cells in found.items()}
            fixed = _fixed(data, axis)
            frame = Frame(f"cosine by {axis}, {interaction}", AXES[axis], height=360, is_log=axis != "noise", digits=2)
            figures.append(_figure(f"{interaction}: cosine by {_AXIS_NAMES[axis]}", fixed, _merged(data["rules"], lines), frame))
            heads = [f"{AXES[axis]} = {value:g}" for value in values]
            rows = {rule: [cells[value] for value in values] for rule, cells in found.items()}
            tables.append({"name": f"{interaction} by {_AXIS_NAMES[axis]}, {fixed}", "heads": heads, "rows": rows})
        if figures:
            kinds.append({"name": interaction, "meaning": meaning, "figures": figures, "tables": tables})
    return kinds


def _estimators(data: dict[str, Any]) -> list[list[Figure]] | None:
    names = estimators_of(data)
    if len(names) < 2:
        return None
    kinds = []
    for interaction in data["interactions"]:
        rule = best_rule_of_the_middle(data, interaction)
        if rule is None:
            continue
        figures = []
        for axis in ("segments", "noise"):
            cells = {name: by_rule(along(data, interaction, axis, name), axis).get(rule, {}) for name in names}
            lines = {name: [(value, row["cosine"]) for value, row in found.items()] for name, found in cells.items()}
            if len(lines[names[0]]) < 2:
                continue
            label = f"estimators by {axis}, {interaction}"
            frame = Frame(label, AXES[axis], margin_right=190, is_log=axis != "noise", digits=2)
            figures.append(_figure(f"{interaction}, rule {rule}", _fixed(data, axis), _merged(names, lines), frame))
        kinds.append(figures)
    return kinds


def _fixed(data: dict[str, Any], axis: str) -> str:
    return ", ".join(f"{AXES[key]} = {value:g}" for key, value in data["middle"].items() if key != axis)


def _merged(order: Sequence[str], lines: Mapping[str, Points]) -> list[Line]:
    """Return one line for all names whose points are equal to three digits; colours go by the place in `order`."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, points in lines.items():
        if points:
            groups.setdefault(tuple((x, round(y, 3)) for x, y in points), []).append(name)
    found = []
    for names in groups.values():
        index = order.index(names[0])
        style = f"r{index % _COLOURS}" + (" more" if index >= _COLOURS else "")
        found.append(Line(tuple(names), style, lines[names[0]]))
    return found


def _figure(name: str, meaning: str, lines: Sequence[Line], frame: Frame, levels: Sequence[Level] = ()) -> Figure:
    chart: Drawing = line_chart(lines, frame, levels)
    return {"name": name, "meaning": meaning, "chart": chart, "equal": [" = ".join(line.names) for line in lines if len(line.names) > 1]}

"""What the section about the audits shows: can the credit be trusted? Measured outside the graph, shown while its inputs are unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ospo_cli.report.charts import Drawing, Frame, Line, line_chart
from ospo_cli.report.number_text import count, interval, plain, short

RANDOM_ORDERS = "random orders"
# (column, check, measure, meaning); a retriever's leave-one-out columns follow.
_COLUMNS = (
    ("gap", "efficiency", "mean gap", "mean |sum of shares − value of the answer|: 0 is right"),
    ("null", "null player", "mean |share|", "|share| of a word that no product holds: 0 is right"),
    ("copy", "symmetry", "mean difference", "difference of a segment and its copy: 0 is right"),
    ("moves", "position", "spread", "how much a share moves with the order of the segments: 0 is right under a bag of words"),
    ("AUC", "filler", "AUC", "how often a word of a relevant product outranks one of none; chance is .5"),
    ("rank", "rank", "Spearman with exact Shapley", "rank correlation with exact Shapley values"),
    ("cover", "calibration", "coverage", "how often the 95 % interval of a sampled estimate holds the exact value"),
    ("cost", "cost", "coalitions", "coalitions per rollout"),
)
# (column, measure, meaning); `progress` and `saving` are at the groups per step in use.
GRADIENT_COLUMNS = (
    ("B", "noise scale", "noise scale: rollout groups in a step that has as much noise as signal"),
    (
        "direction",
        "direction",
        "cosine of the expected gradient with the expected reward's own (uniform, normalize none): below 1 is bias",
    ),
    ("floor", "floor", "what B would be if every prompt's own gradient were exact"),
    (
        "progress",
        "progress",
        "squared direction over 1 + B/groups: what a step of so many groups gains, where the exact gradient gains 1",
    ),
    ("saving", "saving", "part of GRPO's rollouts that is not needed for the same progress, in such steps"),
)
_STYLES = ("greedy", "sampled", "start", "plain", "reference")
_CURVES = (("deletion", "leave", "lower is better"), ("insertion", "enter", "higher is better"))
PER_STEP = ("progress", "saving")
Cell = dict[str, Any]


def audit(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the audits of all iterations that have one: what changed since (`stale`), or what was found."""
    return [_iteration(found, data["params"]["attribute"], data["shown_estimator"]) for found in data["audits"]]


def _iteration(found: dict[str, Any], settings: dict[str, Any], for_people: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"iteration": found["iteration"], "stale": [], "audit": None, "gradients": None}
    for name, label, option in (("audit", "audit", ""), ("gradients", "gradient audit", " --gradients")):
        content = found[name]
        if content is not None and content["changed"]:
            command = f"ospo audit --iter {found['iteration']}{option}"
            shown["stale"].append({"name": label, "changed": content["changed"], "command": command})
        elif content is not None:
            shown[name] = _audit(content, settings["estimator"], for_people) if name == "audit" else _gradients(content, settings)
    return shown


def _audit(content: dict[str, Any], configured: str, for_people: str | None) -> dict[str, Any]:
    known = {row["estimator"] for row in content["curves"]}
    drawn = [name for name in dict.fromkeys([configured, for_people or "", "shapley", "leave-one-out", "alone"]) if name in known][:4]
    names = [*drawn, RANDOM_ORDERS]
    styles = dict(zip(drawn, _STYLES, strict=False)) | {RANDOM_ORDERS: "reference"}
    return {
        "metrics": content["metrics"],
        "styles": {name: styles[name] for name in names},
        "curves": [(verb, better, _curve(content["curves"], curve, names, styles)) for curve, verb, better in _CURVES],
        "table": _estimators(content, configured),
    }


def _curve(rows: list[Cell], curve: str, names: Sequence[str], styles: dict[str, str]) -> Drawing:
    points = {name: [(row["part"], row["value"]) for row in rows if (row["curve"], row["estimator"]) == (curve, name)] for name in names}
    frame = Frame(f"{curve} curves", "part of the segments", height=280, margin_right=0, ticks_at=(0, 0.2, 0.4, 0.6, 0.8, 1))
    return line_chart([Line((name,), styles[name], points[name]) for name in names], frame)


def _estimators(content: dict[str, Any], configured: str) -> dict[str, Any]:
    cells = {(row["estimator"], row["check"], row["measure"]): row for row in content["rows"]}
    unseen = sorted({row["measure"] for row in content["rows"] if row["check"] == "leave-one-out"})
    columns = [*_COLUMNS, *((name, "leave-one-out", name, f"rank correlation with leave-one-out under {name}") for name in unseen)]
    rows = []
    for name in content["order"]:
        line = []
        for column, check, measure, _ in columns:
            row = cells.get((name, check, measure))
            value = row["value"] if row else None
            told = f"{interval(row)}, {count(row['n'])} rollouts" if row and row["low"] is not None else ""
            line.append({"text": short(value) if column == "cost" else plain(value), "note": "", "told": told})
        rows.append({"name": name, "note": "", "is_final": name == configured, "cells": line})
    heads = ["estimator", *(column for column, *_ in columns)]
    return {"heads": heads, "rows": rows, "meanings": [(column, meaning) for column, _, _, meaning in columns]}


def _gradients(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    rows, metrics = [], content["metrics"]
    for method, found in by_progress(content["rows"], metrics["groups_per_step"]).items():
        cells = [found[measure, metrics["groups_per_step"] if measure in PER_STEP else 0] for _, measure, _ in GRADIENT_COLUMNS]
        line = [{"text": told(row, with_error=False), "note": "", "told": told(row)} for row in cells]
        is_own = method[1] == settings["rule"] and method[0] in (settings["estimator"], "any")
        name, note = (method[0], method[2]) if method[1] == "none" else (method[1], f"{method[0]}, {method[2]}")  # a group game has no rule
        rows.append({"name": name, "note": note, "is_final": is_own, "cells": line})
    heads = ["rule or group game", *(name for name, _, _ in GRADIENT_COLUMNS)]
    return {
        "metrics": metrics,
        "table": {"heads": heads, "rows": rows, "meanings": [(name, meaning) for name, _, meaning in GRADIENT_COLUMNS]},
    }


def by_progress(rows: list[Cell], groups: int) -> dict[tuple[str, str, str], dict[tuple[str, int], Cell]]:
    """Return (estimator, rule, normalize) -> (measure, groups) -> row of all tokens, most progress in steps of `groups` first."""
    found: dict[tuple[str, str, str], dict[tuple[str, int], Cell]] = {}
    for row in rows:
        if row["tokens"] == "all":
            found.setdefault((row["estimator"], row["rule"], row["normalize"]), {})[row["measure"], row["groups"]] = row
    return dict(sorted(found.items(), key=lambda item: -(item[1]["progress", groups]["value"] or 0.0)))


def told(row: Cell, with_error: bool = True) -> str:
    """Return a value of table gradient_audit, with its standard error; a noise scale that is not there has no signal."""
    if row["value"] is None:
        return "no signal" if row["measure"] == "noise scale" else "–"
    write = short if row["measure"] in ("noise scale", "floor") else plain
    has_error = with_error and row["standard_error"] is not None
    return write(row["value"]) + (f" ± {write(row['standard_error'])}" if has_error else "")

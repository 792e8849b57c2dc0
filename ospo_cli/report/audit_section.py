"""What the section about the audits shows: can the credit be trusted? Measured outside the graph, shown while its inputs are unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ospo_cli.report.charts import Drawing, Frame, Line, line_chart
from ospo_cli.report.number_text import count, interval, plain, short, signed

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
_GRADIENT_COLUMNS = (
    ("agree", "agreement", "cosine of the gradients of both halves"),
    ("with GRPO", "agreement with GRPO", "cosine with GRPO’s gradient of the other half"),
    ("error", "scaled error", "squared error against it under the best scale; 1: nothing shared"),
    ("direction", "direction", "cosine of the expected gradient with GRPO’s: below 1 is bias"),
)
_STYLES = ("greedy", "sampled", "start", "plain", "reference")
_CURVES = (("deletion", "leave", "lower is better"), ("insertion", "enter", "higher is better"))
Cell = dict[str, Any]


def audit(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the audits of all iterations that have one: what changed since (`stale`), or what was found."""
    return [_iteration(found, data["params"]["attribute"]) for found in data["audits"]]


def _iteration(found: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"iteration": found["iteration"], "stale": [], "audit": None, "gradients": None}
    for name, label, option in (("audit", "audit", ""), ("gradients", "gradient audit", " --gradients")):
        content = found[name]
        if content is not None and content["changed"]:
            command = f"ospo audit --iter {found['iteration']}{option}"
            shown["stale"].append({"name": label, "changed": content["changed"], "command": command})
        elif content is not None:
            shown[name] = _audit(content, settings["estimator"]) if name == "audit" else _gradients(content, settings["rule"])
    return shown


def _audit(content: dict[str, Any], configured: str) -> dict[str, Any]:
    known = {row["estimator"] for row in content["curves"]}
    names = [name for name in dict.fromkeys([configured, "shapley", "leave-one-out", "alone", RANDOM_ORDERS]) if name in known]
    styles = dict(zip([name for name in names if name != RANDOM_ORDERS], _STYLES[:4], strict=False)) | {RANDOM_ORDERS: "reference"}
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


def _gradients(content: dict[str, Any], configured: str) -> dict[str, Any]:
    by_method: dict[tuple[str, str], dict[str, Cell]] = {}
    for row in content["rows"]:
        by_method.setdefault((row["estimator"], row["rule"]), {})[row["measure"]] = row
    rows = []
    for (estimator, rule), found in sorted(by_method.items(), key=lambda item: -item[1]["agreement with GRPO"]["value"]):
        line = []
        for _, measure, _ in _GRADIENT_COLUMNS:
            row = found[measure]
            line.append({"text": plain(row["value"]), "note": "", "told": interval(row) if row["low"] is not None else ""})
        line.insert(2, _over_uniform(found["agreement with GRPO"], rule))
        rows.append({"name": rule, "note": estimator, "is_final": rule == configured, "cells": line})
    heads = ["rule", "agree", "with GRPO", "over GRPO", "error", "direction"]
    table = {"heads": heads, "rows": rows, "meanings": [(name, meaning) for name, _, meaning in _GRADIENT_COLUMNS]}
    return {"metrics": content["metrics"], "table": table}


def _over_uniform(row: Cell, rule: str) -> Cell:
    if rule == "uniform":
        return {"text": "–", "note": "", "told": ""}
    difference = {"low": row["over_low"], "high": row["over_high"]}
    return {"text": signed(row["over_uniform"]), "note": f"{interval(difference, with_sign=True)}, p = {row['p_value']:.4f}", "told": ""}

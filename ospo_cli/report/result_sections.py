"""What the sections about the evaluation show: headline, learning curves, metrics by retriever, wins and losses per query."""

from __future__ import annotations

from typing import Any

from ospo_cli.report import gated_systems, verdict_text
from ospo_cli.report.charts import Drawing, Frame, Level, Line, interval_bar, line_chart, nice_ticks, split_bar
from ospo_cli.report.number_text import count, interval, plain
from ospo_cli.report.result_table import final_policy, result_rows
from ospo_cli.report.system_names import decoding_label, metric_label, system_label

_LOSSES = 8  # worst losses on the page
_STYLES = {"raw-query": "reference", "oracle": "reference", "policy-000": "start"}
_AGAINST = ("entropy", "divergence")  # of the policies, nats per token
_WIDE, _NARROW, _SMALL = (1040, 360, 150), (380, 300, 104), (470, 250, 112)  # width, height, room for names


def verdict(data: dict[str, Any]) -> dict[str, Any]:
    """Return what decides: the verdict in words, who gains and who loses, the worst losses, and which candidate is best."""
    summary = data["summary"]
    if summary is None:
        return {"sentences": []}
    found = summary["against_raw_query"]
    parts = [("better", found["better"]["count"]), ("equal", found["equal"]), ("worse", found["worse"]["count"])]
    return {
        "sentences": verdict_text.sentences(summary),
        "bar": split_bar(parts, "queries better, equal, worse"),
        "losses": verdict_text.losses(summary, _LOSSES),
        "choice": verdict_text.choice_rows(summary),
        "gated": gated_systems.rows(summary),
    }


def result(data: dict[str, Any]) -> dict[str, Any]:
    """Return every system with its interval on one scale, and the headroom; empty where nothing is evaluated."""
    summary = data["summary"]
    if summary is None:
        return {}
    rows = result_rows(summary)
    cells = [cell for row in rows for cell in (row["greedy"], row["sampled"]) if cell]
    ticks = nice_ticks(min(cell["low"] for cell in cells), max(cell["high"] for cell in cells))
    span = (ticks[0], ticks[-1])
    for row in rows:
        shown = row["greedy"] or row["sampled"]
        told = f"{row['label']}: {plain(shown['mean'])} {interval(shown)}"
        row["bar"] = interval_bar(shown, span, _STYLES.get(row["system"], "greedy"), told)
        to_warm_start = shown.get("to_warm_start") if row["system"] != "raw-query" else None
        row["to"] = {"raw query": shown.get("to_raw_query"), "warm start": to_warm_start}
        row["is_final"] = row["system"] == final_policy(summary)
    return {"rows": rows, "has_samples": any(row["sampled"] for row in rows), "span": span, "headroom": _headroom(summary)}


def _headroom(summary: dict[str, Any]) -> list[dict[str, Any]]:
    found, items = summary.get("headroom") or {}, []
    if part := found.get("last_rollouts"):
        where = f"best of {part['group_size']} rollouts, iteration {part['iteration']}, {count(part['prompts'])} train prompts"
        items.append({"where": where} | part)
    if part := found.get("final_samples"):
        where = f"best of {part['group_size']} samples of the final policy, {count(part['prompts'])} held-out prompts"
        items.append({"where": where} | part)
    return items


def curves(data: dict[str, Any]) -> dict[str, Any] | None:
    """Return learning curves: large ones for the training retriever, small ones for those the policy never saw."""
    summary = data["summary"]
    if summary is None:
        return None
    training = summary["training_retriever"]
    others = [name for name in summary["retrievers"] if name != training]
    return {
        "wide": _chart(summary, training, *_WIDE),
        "narrow": _chart(summary, training, *_NARROW),
        "sharpness": _sharpness(summary)
        | {"charts": [(name, _chart(summary, training, *_SMALL, name)) for name in _AGAINST if summary["sharpness"]]},
        "small": [(name, _chart(summary, name, *_SMALL)) for name in others],
    }


def _sharpness(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a row per policy: its value by decoding, the best of its samples, its entropy and its divergence from the warm start."""
    training, metric = summary["training_retriever"], summary["metric"]
    decodings = sorted({decoding for system in summary["sharpness"] for decoding in summary["values"][system]})
    rows = [
        {
            "label": system_label(system),
            "own_best": summary["choice"].get("decodings", {}).get(system),
            "cells": [(name, summary["values"][system].get(name, {}).get(training, {}).get(metric)) for name in decodings],
            "best_of": measures.get("best_of_samples"),
            **{name: measures[name] for name in ("entropy", "divergence")},
        }
        for system, measures in summary["sharpness"].items()
    ]
    return {"heads": [decoding_label(name) for name in decodings], "rows": rows}


def _chart(summary: dict[str, Any], retriever: str, width: int, height: int, margin_right: int, against: str = "iteration") -> Drawing:
    """Return the policies' values by iteration, or by a measure of sharpness."""
    values, metric = summary["values"], summary["metric"]
    policies = [system for system in summary["systems"] if system.startswith("policy-")]
    if against == "iteration":
        places = {system: float(system.removeprefix("policy-")) for system in policies}
    else:
        places = {system: round(summary["sharpness"][system][against], 2) for system in policies if system in summary["sharpness"]}
    lines = []
    for decoding in ("greedy", "sampled"):
        points = sorted(
            (place, cell["mean"], cell["low"], cell["high"])
            for system, place in places.items()
            if (cell := values[system].get(decoding, {}).get(retriever, {}).get(metric))
        )
        if points:
            lines.append(Line((decoding,), decoding, points))
    references = [system for system in ("raw-query", "oracle") if system in values]
    levels = [Level(_label(summary, system, [retriever]), values[system]["none"][retriever][metric]["mean"]) for system in references]
    label = f"{metric_label(metric)} by {against}, {retriever}"
    zero = "" if against == "entropy" else "warm start"
    return line_chart(lines, Frame(label, against, width, height, margin_right, zero=zero), levels)


def _label(summary: dict[str, Any], system: str, retrievers: list[str]) -> str:
    """Return a system's label; beside other retrievers' values the oracle is named by the one that its edits were scored with."""
    training = summary["training_retriever"]
    return f"oracle of {training}" if system == "oracle" and retrievers != [training] else system_label(system)


def methods(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a table per metric, the headline metric first: a row per system and decoding, a cell per retriever."""
    summary = data["summary"]
    if summary is None:
        return []
    metrics = {metric for by in summary["values"].values() for at in by.values() for of in at.values() for metric in of}
    tables = []
    for metric in sorted(metrics, key=lambda name: (name != summary["metric"], name)):
        rows = [
            {
                "label": _label(summary, system, summary["retrievers"]),
                "decoding": "" if decoding == "none" else decoding_label(decoding),
                "cells": [by_retriever.get(retriever, {}).get(metric) for retriever in summary["retrievers"]],
            }
            for system in summary["systems"]
            for decoding, by_retriever in sorted(summary["values"][system].items())
        ]
        tables.append({"metric": metric, "rows": rows})
    return tables


def queries(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return wins and losses with a bar of how many prompts are better, equal and worse."""
    label = "prompts better, equal, worse"
    return [found | {"bar": split_bar([(name, found[name]) for name in ("better", "equal", "worse")], label)} for found in data["queries"]]

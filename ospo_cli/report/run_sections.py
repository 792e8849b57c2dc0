"""What was run: header with the numbers that matter, parameters, card of the data, hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ospo_cli.report.kept_runs import how
from ospo_cli.report.markup import escape, isolated, tag
from ospo_cli.report.number_text import count, interval, plain, signed
from ospo_cli.report.result_table import metric_label, result_rows

_FIELD = 600


def header(data: dict[str, Any]) -> str:
    """Return title, the result in one sentence, four numbers, and what was run in one line."""
    summary = data["summary"]
    parts = [f"<h1>{escape(data['title'], 200)}</h1>"]
    if summary is None:
        parts.append("<p class='claim'>Nothing is evaluated yet.</p>")
    else:
        rows = {row["system"]: row for row in result_rows(summary)}
        final = [system for system in summary["systems"] if system.startswith("policy-")][-1]
        parts += [f"<p class='claim'>{_claim(summary, rows, final)}</p>", _tiles(summary, rows, final)]
    parts.append(_facts(data))
    return "".join(parts)


def _claim(summary: Mapping[str, Any], rows: Mapping[str, Any], final: str) -> str:
    metric = escape(metric_label(summary["metric"]))
    last = rows[final]["greedy"] or rows[final]["sampled"]
    warm = last.get("to_warm_start")
    place = f"on {count(summary['prompts'])} held\u2011out prompts"
    if warm is None:
        return f"The warm start reaches {metric} {plain(last['mean'])} {place}."
    raw = last.get("to_raw_query")
    worse = f" The raw query is better still, by {plain(-raw['mean'])}." if raw is not None and raw["high"] < 0 else ""
    if warm["low"] > 0:
        return f"Training raised {metric} by {plain(warm['mean'])} over the warm start {place}.{worse}"
    if warm["high"] < 0:
        return f"Training lowered {metric} by {plain(-warm['mean'])} against the warm start {place}.{worse}"
    return f"No difference to the warm start is shown {place}: {metric} {signed(warm['mean'])} {interval(warm, with_sign=True)}.{worse}"


def _tiles(summary: Mapping[str, Any], rows: Mapping[str, Any], final: str) -> str:
    tiles = []
    for system in dict.fromkeys(["raw-query", "policy-000", final, "oracle"]):
        if system not in rows:
            continue
        cell, label = rows[system]["greedy"] or rows[system]["sampled"], rows[system]["label"]
        name = f"{label}, the final policy" if system == final and system != "policy-000" else label
        content = f"<dt>{escape(name)}</dt><dd>{plain(cell['mean'])}<small>{interval(cell)}</small></dd>"
        tiles.append(tag("div", content, class_="final" if system == final else None))
    return tag("dl", "".join(tiles), class_="tiles", aria_label=metric_label(summary["metric"]))


def _facts(data: dict[str, Any]) -> str:
    params, counts = data["params"], data["counts"]
    scoring = params["score_coalitions"]
    prompts = ", ".join(f"{count(number)} {escape(split)}" for split, number in counts["prompts"].items())
    facts = [
        ("data", escape(params["prepare_data"]["source"])),
        ("documents", count(counts["documents"])),
        ("prompts", prompts),
        ("candidates", f"{count(counts['pool_candidates'])} in pools" if counts["pool_candidates"] else "whole catalogue"),
        ("reward", f"{escape(metric_label(scoring['metric']))}, {escape(scoring['retriever'])}, {escape(scoring['composition'])}"),
        ("learned from", escape(how(params))),
        ("rollouts", _sampled(data["iterations"])),
        ("seed", str(params["train"]["seed"])),
    ]
    return tag("dl", "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts), class_="facts")


def _sampled(iterations: list[dict[str, Any]]) -> str:
    if not iterations:
        return "none"
    most = iterations[-1]
    return f"{count(most['groups'])} prompts × {count(most['rollouts'] // max(1, most['groups']))} × {len(iterations)} iterations"


def run(data: dict[str, Any]) -> str:
    """Return parameters (changed ones marked), the card of the data and the hashes of the prepared tables."""
    lead = "Parameters, the source of the data, and hashes of the tables. Values that differ from the defaults are marked."
    parts = [f"<h2>What was run</h2><p class='lead'>{lead}</p>", tag("div", _parameters(data), class_="parameters")]
    if data["card"] is not None:
        parts.append(tag("details", "<summary>Card of the data</summary>" + _tree(data["card"]), open=True))
    rows = "".join(
        tag(
            "tr",
            tag("th", f"<code>{escape(file['path'])}</code>", scope="row")
            + tag("td", count(file["bytes"]), class_="number")
            + tag("td", f"<code>{file['sha256']}</code>"),
        )
        for file in data["files"]
    )
    head = "<thead><tr><th scope='col'>Table</th><th scope='col' class='number'>bytes</th><th scope='col'>SHA-256</th></tr></thead>"
    table = tag(
        "div",
        f"<table class='files'>{head}<tbody>{rows}</tbody></table>",
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label="Hashes",
    )
    parts.append(tag("details", "<summary>Prepared tables</summary>" + table))
    return "".join(parts)


def footer(data: dict[str, Any]) -> str:
    """Return the last line."""
    return f"<p>Made by <code>ospo report</code> {escape(data['version'])}. One file, no outside address.</p>"


def _parameters(data: dict[str, Any]) -> str:
    blocks = []
    for section, values in data["params"].items():
        defaults = data["defaults"].get(section, {})
        items = []
        for name, value in values.items():
            is_changed = defaults.get(name) != value
            title = f"default: {_plain(defaults.get(name))}" if is_changed else None
            items.append(
                tag(
                    "div",
                    tag("dt", escape(name)) + tag("dd", isolated(_plain(value), _FIELD)),
                    class_="changed" if is_changed else None,
                    title=title,
                )
            )
        blocks.append(tag("div", f"<h3>{escape(section)}</h3><dl>{''.join(items)}</dl>"))
    return "".join(blocks)


def _tree(value: object, depth: int = 0) -> str:
    if isinstance(value, Mapping) and depth < 6:
        rows = "".join(
            f"<div><dt>{isolated(name, _FIELD)}</dt><dd>{_tree(content, depth + 1)}</dd></div>"
            for name, content in sorted(value.items(), key=lambda item: str(item[0]))
        )
        return f"<dl class='tree'>{rows}</dl>" if rows else "–"
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value) and depth < 6:
        return "<ul class='tree'>" + "".join(f"<li>{_tree(item, depth + 1)}</li>" for item in value[:50]) + "</ul>"
    return isolated(_plain(value), _FIELD)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else "(empty)"
        if value == ""
        else str(value)
    )

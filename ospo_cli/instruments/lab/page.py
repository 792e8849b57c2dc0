"""The lab's page: which rule for which length, where rules converge, how good their gradients are. One file, no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
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
from ospo_cli.report.charts import Level, Series, line_chart
from ospo_cli.report.markup import escape, tag
from ospo_cli.report.number_text import plain

_FOLDER = Path(__file__).resolve().parents[2] / "report"
_COLOURS = 10
_AXIS_NAMES = {
    "segments": "segments, n",
    "group_size": "completions per rollout group, G",
    "noise": "noise, in standard deviations of the reward",
}


def render(data: dict[str, Any]) -> str:
    """Return the page; equal data gives equal bytes."""
    style = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "lab.css"))
    sections = [
        ("rules", "Which rule", _which_rule(data)),
        ("convergence", "Convergence", _convergence(data)),
        ("quality", "Gradients", _quality(data)),
        ("estimators", "Estimators", _estimators(data)),
        ("limits", "Limits", _limits()),
    ]
    shown = [(identity, name, content) for identity, name, content in sections if content]
    links = "".join(tag("a", escape(name), href=f"#{identity}") for identity, name, _ in shown)
    body = "".join(tag("section", content, id=identity) for identity, _, content in shown)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>ospo lab</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#rules">Skip to the result</a>\n'
        f'<header class="top"><div class="page">{_header(data)}</div></header>\n'
        f'<nav aria-label="Sections"><div class="page">{links}</div></nav>\n<main class="page">\n{body}\n</main>\n'
        f'<footer class="page"><p>Made by <code>ospo lab</code> {escape(data["version"])}. One file, no outside address.</p></footer>\n'
        "</body>\n</html>\n"
    )


def _header(data: dict[str, Any]) -> str:
    facts = {"command": data["command"], "seeds": data["seeds"], "root of random numbers": data["seed"], "estimator": data["estimator"]}
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value, 300)}</dd></div>" for name, value in facts.items())
    claim = "Rules of credit on small decision problems, before any policy is trained."
    return f"<h1>ospo lab</h1><p class='claim'>{claim}</p><dl class='facts'>{items}</dl>"


def _which_rule(data: dict[str, Any]) -> str:
    middle = data["middle"]
    lead = (
        "The rule whose gradient, estimated from one rollout group, points best along the exact one: its mean cosine, its gain over "
        "<em>uniform</em> (GRPO) with the paired standard error, and the rules that cannot be told from it. "
        f"G = {middle['group_size']}, noise {middle['noise']:g}. The last column takes the rule whose smallest cosine over all kinds is "
        "largest."
    )
    rows = []
    for n in lengths(data):
        best, safe = best_rules(data, n), safest_rule(data, n)
        cells = [tag("td", escape(answer(best[kind])) if kind in best else "–") for kind in data["interactions"]]
        last = "–" if safe is None else f"<b>{escape(safe[0])}</b> {plain(safe[1], 2)}"
        rows.append(tag("tr", tag("th", f"{n}", scope="row") + "".join(cells) + tag("td", last)))
    heads = ["n", *data["interactions"], "best in the worst kind"]
    head = tag("tr", "".join(tag("th", escape(name), scope="col") for name in heads))
    kinds = "".join(f"<li><em>{escape(name)}</em>: {escape(meaning)}</li>" for name, meaning in data["interactions"].items())
    table = tag("div", tag("table", tag("thead", head) + tag("tbody", "".join(rows)), class_="answer"), class_="scroll")
    return f"<h2>Which rule for answers of my length</h2><p class='lead'>{lead}</p>{table}<ul class='note'>{kinds}</ul>"


def _convergence(data: dict[str, Any]) -> str:
    if not data["convergence"]:
        return ""
    steps = data["convergence"][0]["steps"]
    lead = (
        f"Expected reward J along {steps} steps of {data['step_size']:g} on the <em>exact</em> expected gradient: every rollout group "
        "with its probability, nothing is sampled. The dotted line is the best J that a policy can reach. How fast is step size too "
        "(all rules take the same one); where a rule ends is not."
    )
    figures = []
    for problem, outside in convergence_columns(data):
        rows = [row for row in data["curves"] if (row["problem"], row["outside"]) == (problem, outside)]
        best = next(row["best_reward"] for row in data["convergence"] if row["problem"] == problem)
        lines: dict[str, list[tuple[float, float]]] = {rule: [] for rule in data["rules"]}
        for row in sorted(rows, key=lambda row: row["step"]):
            lines[row["rule"]].append((row["step"], row["expected_reward"]))
        series = _merged(data, lines)
        ticks = [tick for tick in (0, 1, 10, 100, 1000, 10_000, 100_000) if tick <= steps]
        name = problem_label(problem, outside)
        chart = line_chart(
            series, f"expected reward by step, {name}", "step", is_log=True, ticks_at=ticks, level=Level("best", best), height=340
        )
        meaning = f"{data['problems'][problem]} (G = {data['group_sizes'][problem]})"
        figures.append(_figure(name, meaning, chart, series))
    return f"<h2>Convergence</h2><p class='lead'>{lead}</p>{tag('div', ''.join(figures), class_='pair')}{_convergence_table(data)}"


def _convergence_table(data: dict[str, Any]) -> str:
    columns = convergence_columns(data)
    cells = {(row["rule"], row["problem"], row["outside"]): row for row in data["convergence"]}
    body = []
    for rule in data["rules"]:
        line = []
        for column in columns:
            row = cells[rule, *column]
            reached = row["steps_to_level"]
            content = f"{plain(row['end_reward'])} <small>{'–' if reached is None else reached}</small>"
            line.append(tag("td", content, class_="short" if reached is None else None, title=_pace(row)))
        body.append(tag("tr", tag("th", escape(rule), scope="row") + "".join(line)))
    heads = "".join(tag("th", escape(name), scope="col") for name in ("rule", *(problem_label(*column) for column in columns)))
    note = (
        f"J at the end, and steps to {data['level']:.0%} of the best J (– where it is not reached and held: orange). Hover for steps to "
        "95 % of the rule's own end and for the length of its first gradient."
    )
    table = tag("table", tag("thead", tag("tr", heads)) + tag("tbody", "".join(body)), class_="values")
    return f"{tag('div', table, class_='scroll')}<p class='note'>{note}</p>"


def _pace(row: dict[str, Any]) -> str:
    own = "never rises" if row["steps_to_95"] is None else f"{row['steps_to_95']} steps to 95 % of its own way"
    return f"{own}; first gradient {row['first_gradient']:.3g}"


def _quality(data: dict[str, Any]) -> str:
    lead = (
        "Cosine between the gradient estimated from one rollout group and the exact one, mean over seeds: no learning rate enters. "
        "<em>Blue</em> in the tables: the best, or not to be told from it (paired differences, 5 % over all rules together). Beside each "
        "cosine its standard error, then the optimally scaled squared error (0 perfect, 1 as good as no gradient)."
    )
    parts = [f"<h2>Quality of the gradient</h2><p class='lead'>{lead}</p>"]
    for interaction, meaning in data["interactions"].items():
        figures, tables = [], []
        for axis in AXES:
            found = by_rule(along(data, interaction, axis), axis)
            values = sorted({value for cells in found.values() for value in cells})
            if not values or (len(values) < 2 and axis != "segments"):
                continue
            series = _merged(data, {rule: [(value, cells[value]["cosine"]) for value in values] for rule, cells in found.items()})
            fixed = ", ".join(f"{AXES[key]} = {value:g}" for key, value in data["middle"].items() if key != axis)
            chart = line_chart(series, f"cosine by {axis}, {interaction}", AXES[axis], is_log=axis != "noise", height=360)
            figures.append(_figure(f"{interaction}: cosine by {_AXIS_NAMES[axis]}", fixed, chart, series))
            tables.append(
                tag(
                    "details",
                    tag("summary", f"{escape(interaction)} by {_AXIS_NAMES[axis]}, {fixed}") + _quality_table(found, values, axis),
                )
            )
        if figures:
            parts.append(f"<h3>{escape(interaction)} <small>{escape(meaning)}</small></h3>")
            parts.append(tag("div", "".join(figures), class_="pair") + "".join(tables) + "<br>")
    return "".join(parts)


def _quality_table(found: dict[str, dict[Any, dict[str, Any]]], values: Sequence[Any], axis: str) -> str:
    body = []
    for rule, cells in found.items():
        line = []
        for value in values:
            row = cells[value]
            content = f"{plain(row['cosine'])} <small>± {row['cosine_standard_error']:.3f}, {plain(row['squared_error'], 2)}</small>"
            line.append(tag("td", content, class_="tied" if row["is_tied"] else None))
        body.append(tag("tr", tag("th", escape(rule), scope="row") + "".join(line)))
    heads = "".join(tag("th", escape(name), scope="col") for name in ("rule", *(f"{AXES[axis]} = {value:g}" for value in values)))
    return tag("div", tag("table", tag("thead", tag("tr", heads)) + tag("tbody", "".join(body)), class_="values"), class_="scroll")


def _estimators(data: dict[str, Any]) -> str:
    names = estimators_of(data)
    if len(names) < 2:
        return ""
    middle = data["middle"]
    parts = []
    for interaction in data["interactions"]:
        rule = best_rule_of_the_middle(data, interaction)
        if rule is None:
            continue
        figures = []
        for axis in ("segments", "noise"):
            lines = {}
            for name in names:
                cells = by_rule(along(data, interaction, axis, name), axis).get(rule, {})
                lines[name] = [(value, row["cosine"]) for value, row in cells.items()]
            if len(next(iter(lines.values()))) < 2:
                continue
            series = _merged({"rules": names}, lines)
            fixed = ", ".join(f"{AXES[key]} = {value:g}" for key, value in middle.items() if key != axis)
            chart = line_chart(
                series, f"estimators by {axis}, {interaction}", AXES[axis], is_log=axis != "noise", height=320, margin_right=190
            )
            figures.append(_figure(f"{interaction}, rule {rule}", fixed, chart, series))
        parts.append(tag("div", "".join(figures), class_="pair"))
    lead = (
        "The same rule with the shares of each estimator, exact where that takes at most 256 coalitions and sampled beyond. Noise falls on "
        "every value by itself, so what reads more coalitions averages more of it: estimators at their own cost, not at one cost."
    )
    return f"<h2>Estimators</h2><p class='lead'>{lead}</p>{''.join(parts)}"


def _limits() -> str:
    items = "".join(tag("li", escape(line)) for line in CAUTION)
    return f"<h2>What may be concluded</h2><ul class='caution'>{items}</ul>"


def _merged(data: dict[str, Any], lines: dict[str, list[tuple[float, float]]]) -> list[Series]:
    """Return one series per distinct line, with the names of all that are equal to three digits; colours go by the rule."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, points in lines.items():
        if points:
            groups.setdefault(tuple((x, round(y, 3)) for x, y in points), []).append(name)
    found = []
    for names in groups.values():
        index = data["rules"].index(names[0])
        style = f"r{index % _COLOURS}" + (" more" if index >= _COLOURS else "")
        found.append(Series(tuple(names), style, tuple(lines[names[0]])))
    return found


def _figure(name: str, meaning: str, chart: str, series: Sequence[Series]) -> str:
    equal = [" = ".join(each.names) for each in series if len(each.names) > 1]
    note = f"<p class='note'>Equal: {escape('; '.join(equal))}</p>" if equal else ""
    return tag("figure", f"<figcaption>{escape(name)}<small>{escape(meaning)}</small></figcaption>{chart}{note}")

"""Sections about the evaluation: headline, learning curves, methods by retriever and metric, wins and losses per query."""

from __future__ import annotations

from typing import Any

from ospo_cli.report.charts import Curve, Level, interval_bar, learning_chart, nice_ticks
from ospo_cli.report.markup import escape, isolated, tag
from ospo_cli.report.number_text import count, interval, p_value, plain, signed
from ospo_cli.report.result_table import metric_label, result_rows
from ospo_cli.report.system_names import system_label

_STYLES = {"raw-query": "reference", "oracle": "reference", "policy-000": "start"}
_DECODINGS = {"greedy": "greedy", "sampled": "sampled"}


def result(data: dict[str, Any]) -> str:
    """Return the headline: every system with its interval on one scale, the gaps that have to show, the headroom."""
    summary = data["summary"]
    if summary is None:
        return _head("Result", "Nothing is evaluated yet: <code>ospo evaluate</code> writes the comparison that belongs here.")
    metric = metric_label(summary["metric"])
    lead = (
        f"{escape(metric)} over {count(summary['prompts'])} held-out prompts of split <em>{escape(summary['split'])}</em>, ranked by "
        f"<em>{escape(summary['training_retriever'])}</em>, the retriever of the reward. Brackets and bars are {_level(summary)} bootstrap "
        f"intervals over prompts ({count(summary['resamples'])} resamples); differences are paired."
    )
    return _head("Result", lead) + _headline_table(summary) + tag("div", _gaps(summary) + _headroom(summary), class_="columns")


def _headline_table(summary: dict[str, Any]) -> str:
    rows = result_rows(summary)
    cells = [cell for row in rows for cell in (row["greedy"], row["sampled"]) if cell]
    ticks = nice_ticks(min(cell["low"] for cell in cells), max(cell["high"] for cell in cells))
    span = (ticks[0], ticks[-1])
    final = [system for system in summary["systems"] if system.startswith("policy-")][-1]
    body, has_samples = [], any(row["sampled"] for row in rows)
    for row in rows:
        style = _STYLES.get(row["system"], "greedy")
        shown = row["greedy"] or row["sampled"]
        told = f"{row['label']}: {plain(shown['mean'])} {interval(shown)}"
        columns = [
            tag("th", escape(row["label"]), scope="row"),
            tag("td", interval_bar(shown["mean"], shown["low"], shown["high"], span, style, told), class_="graphic"),
            tag("td", _estimate(row["greedy"]), class_="number", data_label="greedy" if row["sampled"] else "as it is"),
            tag("td", _estimate(row["sampled"]), class_="number" + ("" if row["sampled"] else " none"), data_label="sampled")
            if has_samples
            else "",
            _difference_cell(shown.get("to_raw_query"), "to raw query"),
            _difference_cell(shown.get("to_warm_start") if row["system"] != "raw-query" else None, "to warm start"),
        ]
        body.append(tag("tr", "".join(columns), class_="final" if row["system"] == final else None))
    axis = tag("span", plain(span[0], 2)) + tag("span", plain(span[1], 2))
    heads = ["System", tag("div", axis, class_="axis"), "greedy", *(["sampled"] if has_samples else []), "Δ raw query", "Δ warm start"]
    head = "".join(
        tag("th", name if index == 1 else escape(name), scope="col", class_="number" if index > 1 else None)
        for index, name in enumerate(heads)
    )
    return tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(body)), class_="headline")


def _estimate(cell: dict[str, Any] | None) -> str:
    return f"<b>{plain(cell['mean'])}</b> <small>{interval(cell)}</small>" if cell else "–"


def _difference_cell(cell: dict[str, Any] | None, label: str) -> str:
    if cell is None:
        return tag("td", "–", class_="number none", data_label=label)
    content = f"<b class='{_direction(cell)}'>{signed(cell['mean'])}</b> <small>{interval(cell, with_sign=True)}</small>"
    return tag("td", content, class_="number", data_label=label, title=p_value(cell["p_value"]))


def _direction(cell: dict[str, Any]) -> str:
    return "up" if cell["low"] > 0 else "down" if cell["high"] < 0 else "unclear"


def _gaps(summary: dict[str, Any]) -> str:
    items = []
    for gap in summary["gaps"]:
        verdict = {"up": "shown", "down": "reversed", "unclear": "not shown"}[_direction(gap)]
        name = f"{escape(system_label(gap['better']))} over {escape(system_label(gap['worse']))}"
        number = f"<b>{signed(gap['mean'])}</b> <small>{interval(gap, with_sign=True)}, {p_value(gap['p_value'])}</small>"
        mark = tag("span", verdict, class_=f"verdict {_direction(gap)}")
        items.append(tag("li", f"{mark}<span>{name} <small>{escape(gap['decoding'])}</small></span><span class='number'>{number}</span>"))
    note = "A gap is <em>shown</em> when its interval lies above 0. p: two-sided sign-flip test over prompts, uncorrected."
    return tag("div", f"<h3>Gaps</h3><ul class='gaps'>{''.join(items)}</ul><p class='note'>{note}</p>")


def _headroom(summary: dict[str, Any]) -> str:
    found, items = summary.get("headroom") or {}, []
    if "last_rollouts" in found:
        part = found["last_rollouts"]
        where = f"best of {part['group_size']} rollouts, iteration {part['iteration']}, {count(part['prompts'])} train prompts"
        items.append((where, part["best"], part["mean"]))
    if "final_samples" in found:
        part = found["final_samples"]
        items.append(
            (
                f"best of {part['group_size']} samples of the final policy, {count(part['prompts'])} held-out prompts",
                part["best"],
                part["mean"],
            )
        )
    if not items:
        return ""
    rows = []
    for where, best, mean in items:
        number = f"<b>{plain(best['mean'])}</b> <small>{interval(best)}; mean {plain(mean['mean'])}</small>"
        rows.append(tag("li", f"<span>{escape(where)}</span><span class='number'>{number}</span>"))
    note = (
        "Best of G is what the policy can already sample but does not yet prefer. The oracle searches with the judgments in hand: "
        "greedy single-word edits of the raw query with words of relevant products, scored by the training retriever. It is a lower bound."
    )
    return tag("div", f"<h3>Headroom</h3><ul class='gaps plain'>{''.join(rows)}</ul><p class='note'>{note}</p>")


def curves(data: dict[str, Any]) -> str:
    """Return learning curves: a large one for the training retriever, small ones for those the policy never saw."""
    summary = data["summary"]
    if summary is None:
        return ""
    training, metric = summary["training_retriever"], metric_label(summary["metric"])
    others = [name for name in summary["retrievers"] if name != training]
    lead = f"{escape(metric)} by iteration; bands are {_level(summary)} intervals. The policy is rewarded by {escape(training)} alone."
    label = f"{metric} by iteration, {training}"
    large = tag("figure", _chart(summary, training, label, 1040, 360, 150), class_="wide") + tag(
        "figure", _chart(summary, training, label, 380, 300, 104), class_="narrow"
    )
    small = "".join(
        tag(
            "figure",
            tag("figcaption", f"{escape(name)} <small>never seen in training</small>")
            + _chart(summary, name, f"{metric} by iteration, {name}", 470, 250, 112),
        )
        for name in others
    )
    keys = (("greedy", "greedy"), ("sampled", "sampled"), ("level", "raw query, oracle"))
    legend = tag("p", " ".join(f"<span class='key {style}'></span>{name}" for style, name in keys), class_="legend")
    return _head("Learning curves", lead) + legend + large + (tag("div", small, class_="multiples") if small else "")


def _chart(summary: dict[str, Any], retriever: str, label: str, width: int, height: int, margin: int) -> str:
    values, metric = summary["values"], summary["metric"]
    policies = [system for system in summary["systems"] if system.startswith("policy-")]
    lines = []
    for decoding in ("greedy", "sampled"):
        points = [
            (float(system.removeprefix("policy-")), cell["mean"], cell["low"], cell["high"])
            for system in policies
            if (cell := values[system].get(decoding, {}).get(retriever, {}).get(metric))
        ]
        if points:
            lines.append(Curve(decoding, decoding, tuple(points)))
    levels = [
        Level(system_label(system), values[system]["none"][retriever][metric]["mean"])
        for system in ("raw-query", "oracle")
        if system in values
    ]
    return learning_chart(lines, levels, label, width, height, margin)


def methods(data: dict[str, Any]) -> str:
    """Return every system, decoding, retriever and metric; the headline metric open, the others folded."""
    summary = data["summary"]
    if summary is None:
        return ""
    names = sorted({metric for by in summary["values"].values() for at in by.values() for of in at.values() for metric in of})
    names.sort(key=lambda name: name != summary["metric"])
    lead = (
        "The first retriever gave the reward, the others never did. Beside each mean its interval; below it the paired difference to the "
        "raw query (r) and to the warm start (w), coloured where its interval excludes 0."
    )
    tables = [
        tag("details", tag("summary", escape(metric_label(name))) + _metric_table(summary, name), open=name == summary["metric"])
        for name in names
    ]
    return _head("Methods and retrievers", lead) + "".join(tables)


def _metric_table(summary: dict[str, Any], metric: str) -> str:
    training = summary["training_retriever"]
    head = tag("th", "System", scope="col") + "".join(
        tag("th", f"{escape(name)}<small>{'reward' if name == training else 'unseen'}</small>", scope="col", class_="number")
        for name in summary["retrievers"]
    )
    rows = []
    for system in summary["systems"]:
        for decoding, by_retriever in sorted(summary["values"][system].items()):
            name = escape(system_label(system)) + (f" <small>{decoding}</small>" if decoding in _DECODINGS else "")
            cells = "".join(
                tag("td", _metric_cell(by_retriever.get(retriever, {}).get(metric)), class_="number") for retriever in summary["retrievers"]
            )
            rows.append(tag("tr", tag("th", name, scope="row") + cells))
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(rows)), class_="methods")
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"{metric_label(metric)} by system and retriever")


def _metric_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    parts = [f"<b>{plain(cell['mean'])}</b> <small>{interval(cell)}</small>"]
    differences = [(mark, cell[key]) for mark, key in (("r", "to_raw_query"), ("w", "to_warm_start")) if key in cell]
    if differences:
        told = " ".join(
            tag(
                "span",
                f"{mark} <i class='{_direction(found)}'>{signed(found['mean'])}</i>",
                title=f"{interval(found, with_sign=True)}, {p_value(found['p_value'])}",
            )
            for mark, found in differences
        )
        parts.append(f"<small class='differences'>{told}</small>")
    return "".join(parts)


def queries(data: dict[str, Any]) -> str:
    """Return the largest gains and losses per query: the final policy (greedy) against the warm start, and against the raw query."""
    if not data["queries"]:
        return ""
    summary = data["summary"]
    lead = (
        f"What single prompts gained and lost by the final policy's greedy answers, {escape(metric_label(summary['metric']))} under "
        f"{escape(summary['training_retriever'])}. What training did stands against the warm start."
    )
    return _head("Wins and losses", lead) + "".join(_compared_queries(found) for found in data["queries"])


def _compared_queries(found: dict[str, Any]) -> str:
    shares = [(name, found[name]) for name in ("better", "equal", "worse")]
    bars, start = [], 0.0
    for name, number in shares:
        width = 100 * number / max(1, sum(number for _, number in shares))
        bars.append(tag("rect", tag("title", f"{name}: {number}"), x=f"{start:.3f}", width=f"{width:.3f}", height="10", class_=name))
        start += width
    label = "prompts better, equal, worse"
    split = tag("svg", "".join(bars), viewBox="0 0 100 10", preserveAspectRatio="none", role="img", aria_label=label, class_="split")
    words = " · ".join(f"<span><b>{count(number)}</b> {name}</span>" for name, number in shares)
    parts = [f"<div class='against'><h3>Against the {escape(system_label(found['base']))}</h3><p>{words}</p></div>", split]
    for name, rows in (("Largest gains", found["wins"]), ("Largest losses", found["losses"])):
        parts.append(f"<h4>{name}</h4>" + (_query_table(rows) if rows else "<p class='note'>None.</p>"))
    return "".join(parts)


def _query_table(rows: list[dict[str, Any]]) -> str:
    names = ["Query", "raw", "warm", "final", "Δ", "What the retriever got"]
    head = "".join(tag("th", name, scope="col", class_="number" if 0 < index < 5 else None) for index, name in enumerate(names))
    body = []
    for row in rows:
        direction = "up" if row["difference"] > 0 else "down"
        numbers = "".join(tag("td", plain(row[name], 2), class_="number", data_label=name) for name in ("raw", "warm", "final"))
        difference = tag("td", f"<b class='{direction}'>{signed(row['difference'], 2)}</b>", class_="number", data_label="Δ")
        answer = isolated(row["answer"], 400) if row["answer"] else "<span class='note'>(empty)</span>"
        query = tag("th", isolated(row["query"], 240), scope="row", title=f"prompt {row['prompt_id']}")
        body.append(tag("tr", query + numbers + difference + tag("td", answer, class_="answer")))
    return tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(body)), class_="queries")


def _head(title: str, lead: str) -> str:
    return f"<h2>{escape(title)}</h2><p class='lead'>{lead}</p>"


def _level(summary: dict[str, Any]) -> str:
    return f"{round(100 * summary['level'])}%"

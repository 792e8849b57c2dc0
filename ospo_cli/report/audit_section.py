"""Section about the audits: can the credit be trusted, measured outside the graph, and only shown as long as its inputs stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ospo_cli.report.charts import Series, line_chart
from ospo_cli.report.markup import escape, tag
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


def audit(data: dict[str, Any]) -> str:
    """Return the audits of all iterations that have one; a stale one is named and not shown."""
    parts = [_iteration(found, data["params"]["attribute"]) for found in data["audits"]]
    if not parts:
        return ""
    lead = (
        "Every estimator on the same rollouts, with <em>all</em> their coalitions evaluated, against properties that have a right answer "
        "(<code>ospo audit</code>), and the gradients of two halves of large rollout groups (<code>ospo audit --gradients</code>)."
    )
    return f"<h2>Audit of credit</h2><p class='lead'>{lead}</p>{''.join(parts)}"


def _iteration(found: dict[str, Any], settings: dict[str, Any]) -> str:
    parts = []
    for name, content in (("audit", found["audit"]), ("gradient audit", found["gradients"])):
        if content is None:
            continue
        if content["changed"]:
            command = f"ospo audit --iter {found['iteration']}" + (" --gradients" if name == "gradient audit" else "")
            parts.append(_stale(name, content["changed"], command))
        elif name == "audit":
            parts.append(_curves(content, settings["estimator"]) + _estimators(content, settings["estimator"]))
        else:
            parts.append(_gradients(content, settings["rule"]))
    return f"<h3>Iteration {found['iteration']}</h3>{''.join(parts)}"


def _stale(name: str, changed: Sequence[str], command: str) -> str:
    shown = ", ".join(f"<code>{escape(each, 200)}</code>" for each in changed[:4]) + (
        f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    )
    return (
        f"<p class='stale'><b>The {escape(name)} is stale</b> and not shown: {shown} changed since. "
        f"<code>{escape(command)}</code> makes it anew.</p>"
    )


def _curves(content: dict[str, Any], configured: str) -> str:
    rows, metrics = content["curves"], content["metrics"]
    known = {row["estimator"] for row in rows}
    names = [name for name in dict.fromkeys([configured, "shapley", "leave-one-out", "alone", RANDOM_ORDERS]) if name in known]
    styles = dict(zip([name for name in names if name != RANDOM_ORDERS], _STYLES[:4], strict=False)) | {RANDOM_ORDERS: "reference"}
    figures = []
    for curve, better in (("deletion", "lower is better"), ("insertion", "higher is better")):
        lines = [
            Series(
                (name,),
                styles[name],
                tuple((row["part"], row["value"]) for row in rows if (row["curve"], row["estimator"]) == (curve, name)),
            )
            for name in names
        ]
        verb = "leave" if curve == "deletion" else "enter"
        chart = line_chart(
            lines, f"{curve} curves", "part of the segments", is_log=False, height=280, ticks_at=(0, 0.2, 0.4, 0.6, 0.8, 1), is_named=False
        )
        caption = f"<figcaption>Segments {verb}, largest share first <small>mean value of what is there; {better}</small></figcaption>"
        figures.append(tag("figure", caption + chart))
    keys = "".join(tag("span", "", class_=f"key {styles[name]}") + tag("span", escape(name)) for name in names)
    lead = (
        f"{count(metrics['audited'])} of {count(metrics['eligible'])} fit rollouts, {count(metrics['evaluated_texts'])} texts. A good "
        "estimator’s curve falls fastest where its best segments leave, and rises fastest where they enter; random orders are the control."
    )
    return f"<p class='note'>{lead}</p><div class='legend'>{keys}</div><div class='multiples'>{''.join(figures)}</div>"


def _estimators(content: dict[str, Any], configured: str) -> str:
    cells = {(row["estimator"], row["check"], row["measure"]): row for row in content["rows"]}
    unseen = sorted({row["measure"] for row in content["rows"] if row["check"] == "leave-one-out"})
    columns = [*_COLUMNS, *((name, "leave-one-out", name, f"rank correlation with leave-one-out under {name}") for name in unseen)]
    body = []
    for name in content["order"]:
        line = []
        for column, check, measure, _ in columns:
            row = cells.get((name, check, measure))
            value = None if row is None else row["value"]
            told = f"{interval(row)}, {count(row['n'])} rollouts" if row is not None and row["low"] is not None else None
            line.append(tag("td", short(value) if column == "cost" else plain(value), class_="number", title=told))
        body.append(tag("tr", tag("th", escape(name), scope="row") + "".join(line), class_="final" if name == configured else None))
    return _table(["estimator", *(column for column, *_ in columns)], body, [(column, meaning) for column, _, _, meaning in columns])


def _gradients(content: dict[str, Any], configured: str) -> str:
    by_method: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in content["rows"]:
        by_method.setdefault((row["estimator"], row["rule"]), {})[row["measure"]] = row
    body = []
    for (estimator, rule), found in sorted(by_method.items(), key=lambda item: -item[1]["agreement with GRPO"]["value"]):
        line = [tag("th", f"{escape(rule)} <small>{escape(estimator)}</small>", scope="row")]
        for column, measure, _ in _GRADIENT_COLUMNS:
            row = found[measure]
            told = interval(row) if row["low"] is not None else None
            line.append(tag("td", plain(row["value"]), class_="number", title=told))
            if column == "with GRPO":
                difference = None if rule == "uniform" else {"low": row["over_low"], "high": row["over_high"]}
                content_ = (
                    "–" if difference is None
                    else f"{signed(row['over_uniform'])} <small>{interval(difference, with_sign=True)}, p = {row['p_value']:.4f}</small>"
                )  # fmt: skip
                line.append(tag("td", content_, class_="number"))
        body.append(tag("tr", "".join(line), class_="final" if rule == configured else None))
    metrics = content["metrics"]
    lead = (
        f"Gradients of {count(metrics['prompts'])} prompts, two halves of {metrics['group_size'] // 2} rollouts each, over "
        f"{count(metrics['trained_weights'])} weights; <em>uniform</em> is GRPO. No learning rate enters."
    )
    heads = ["rule", "agree", "with GRPO", "over GRPO", "error", "direction"]
    meanings = [(name, meaning) for name, _, meaning in _GRADIENT_COLUMNS]
    return f"<p class='note apart'>{lead}</p>{_table(heads, body, meanings)}"


def _table(heads: Sequence[str], body: Sequence[str], meanings: Sequence[tuple[str, str]]) -> str:
    head = "".join(tag("th", escape(name), scope="col", class_="number" if index else None) for index, name in enumerate(heads))
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(body)), class_="methods audit")
    notes = "; ".join(f"<em>{escape(name)}</em> {escape(meaning)}" for name, meaning in meanings)
    scroll = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Audit")
    return f"{scroll}<p class='note'>{notes}. Hover for intervals.</p>"

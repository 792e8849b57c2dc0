"""Sections about the training: warnings with thresholds, diagnostics by iteration, the browser of rollouts."""

from __future__ import annotations

from typing import Any

from ospo_cli.report.charts import trend
from ospo_cli.report.iteration_measures import MEASURES, Measure
from ospo_cli.report.markup import escape, tag
from ospo_cli.report.number_text import count, plain, short, signed

LEVELS = 4  # steps of colour on each side of 0


def warnings(data: dict[str, Any]) -> str:
    """Return every check with what was found and its threshold, crossed ones first."""
    signs = data["signs"]
    if not data["iterations"] and data["summary"] is None:
        return ""
    crossed = sum(bool(sign.is_crossed) for sign in signs)
    lead = "No threshold is crossed." if not crossed else f"{crossed} of {len(signs)} checks crossed their threshold."
    items = []
    for sign in sorted(signs, key=lambda sign: {True: 0, None: 1, False: 2}[sign.is_crossed]):
        state, word = {True: ("crossed", "warning"), False: ("fine", "fine"), None: ("unknown", "not measured")}[sign.is_crossed]
        advice = f"<p>Try: {escape(sign.advice)}.</p>" if sign.is_crossed else ""
        found = f"<p><b>{escape(sign.found)}</b></p>" if sign.is_crossed is not None else ""
        threshold = f"<p class='note'>Threshold: {escape(sign.threshold)}.</p>"
        content = f"<h3>{escape(sign.name)} <span class='state'>{word}</span></h3>{found}{threshold}{advice}"
        items.append(tag("li", content, class_=state))
    return f"<h2>Warnings</h2><p class='lead'>{lead}</p><ul class='signs'>{''.join(items)}</ul>"


def training(data: dict[str, Any]) -> str:
    """Return small multiples of every measure that was taken, and the numbers behind them."""
    rows = data["iterations"]
    if not rows:
        return ""
    last = rows[-1]
    lead = (
        f"Each iteration samples {count(last['rollouts'])} completions for {count(last['groups'])} prompts from the policy before it. "
        "Every panel has its own scale; the number is the last iteration's, the change is against the first."
    )
    panels, flat = [], []
    shown = [measure for measure in MEASURES if any(row[measure.name] is not None for row in rows)]
    for measure in shown:
        values = [(row["iteration"], row[measure.name]) for row in rows]
        known = [value for _, value in values if value is not None]
        if len(known) > 1 and max(known) == min(known):
            flat.append(f"{escape(measure.label.lower())} <b>{_measured(known[-1], measure)}</b>")
            continue
        moved = known[-1] - known[0]
        change = (
            ""
            if len(known) < 2
            else f"<small>{signed(100 * moved, 1)} points</small>"
            if measure.is_share
            else f"<small>{signed(moved)}</small>"
        )
        head = f"<h3>{escape(measure.label)}</h3><p class='big'>{_measured(known[-1], measure)} {change}</p>"
        meaning = f"<p class='note'>{escape(measure.meaning)}</p>"
        panels.append(tag("div", head + trend(values, f"{measure.label} by iteration") + meaning, class_="panel"))
    unchanged = f"<p class='note flat'>The same in every iteration: {', '.join(flat)}.</p>" if flat else ""
    head = tag("th", "Measure", scope="col") + "".join(tag("th", str(row["iteration"]), scope="col", class_="number") for row in rows)
    body = "".join(
        tag(
            "tr",
            tag("th", escape(measure.label), scope="row")
            + "".join(tag("td", _measured(row[measure.name], measure), class_="number") for row in rows),
        )
        for measure in shown
    )
    table = tag("table", tag("thead", tag("tr", head)) + tag("tbody", body), class_="methods")
    numbers = tag(
        "details",
        "<summary>All numbers</summary>"
        + tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Measures by iteration"),
    )
    return f"<h2>Training</h2><p class='lead'>{lead}</p><div class='panels'>{''.join(panels)}</div>{unchanged}{numbers}"


def credit(data: dict[str, Any]) -> str:
    """Return the frame of the rollout browser; its rows are drawn by the page's script from the data block."""
    groups = data["groups"]
    if not groups:
        return ""
    settings = data["params"]["attribute"]
    scale = data["colour_scale"]
    lead = (
        f"The answers of one prompt side by side, best reward first. Each segment is coloured by its share of the reward (estimator "
        f"<em>{escape(settings['estimator'])}</em>); hover or focus it for the share and for the advantage that rule "
        f"<em>{escape(settings['rule'])}</em> gave to its tokens. {count(len(groups))} rollout groups, chosen by seed."
    )
    steps = "".join(tag("span", "", class_="swatch", data_level=level) for level in range(-LEVELS, LEVELS + 1))
    legend = (
        f"<div class='scale'><span>{signed(-scale)}</span>{steps}<span>{signed(scale)} of reward</span>"
        "<span class='note'>blue, underlined: earned · orange, dotted: cost · grey: next to nothing</span></div>"
    )
    iterations = sorted({group["iteration"] for group in groups})
    options = "<option value=''>all iterations</option>" + "".join(tag("option", f"iteration {k}", value=k) for k in iterations)
    controls = (
        f"<form class='filters' id='filters'><label>Iteration <select name='iteration'>{options}</select></label>"
        "<label class='grow'>Prompt or answer <input name='text' type='search' placeholder='text to look for' autocomplete='off'></label>"
        "<label class='check'><input name='numbers' type='checkbox'> numbers on the words</label></form>"
    )
    frame = (
        "<div class='browser' id='browser'><div class='list' id='group-list' role='listbox' aria-label='Rollout groups' tabindex='0'></div>"
        "<div class='group' id='group' aria-live='polite'></div></div><div class='tip' id='tip' role='tooltip' hidden></div>"
        "<noscript><p class='note'>The browser of rollouts needs JavaScript; the rest of this page does not. "
        "<code>ospo inspect attributions --rollout ID</code> paints a rollout's credit in the terminal.</p></noscript>"
    )
    return f"<h2>Credit</h2><p class='lead'>{lead}</p>{legend}{controls}{frame}"


def _measured(value: float | None, measure: Measure) -> str:
    if value is not None and measure.is_share:
        return f"{100 * value:.1f}%"
    return short(value) if value is None or abs(value) >= 1 or value == 0 else (plain(value) if abs(value) >= 0.001 else short(value))

"""Section and terminal lines about runs side by side."""

from __future__ import annotations

from typing import Any

from ospo_cli.report.markup import escape, tag, visible
from ospo_cli.report.number_text import count, interval, p_value, plain, signed

_NAME = 80
OWN = "this run"


def section(found: dict[str, Any] | None) -> str:
    """Return the tables; empty where no run was put by."""
    if found is None:
        return ""
    lead = (
        "Runs that <code>ospo keep</code> put by, on the same held-out prompts. Differences are to this run, paired by prompt; p: "
        "two-sided sign-flip test, uncorrected. At equal tokens and at equal reward calls (texts scored) every run stands where it had "
        "spent what the thriftiest spent in all; between two evaluated policies values are interpolated linearly."
    )
    parts = [f"<h2>Runs side by side</h2><p class='lead'>{lead}</p>"]
    for table in found["tables"]:
        parts.append(f"<h3>{escape(_heading(table))}</h3>{_table(table)}")
    parts += [f"<p class='note'>{escape(_otherwise(run), 1000)}.</p>" for run in found["set_otherwise"]]
    parts += [f"<p class='note'>Left out: {escape(run['name'], _NAME)}: {escape(run['reason'])}.</p>" for run in found["left_out"]]
    return "".join(parts)


def _otherwise(run: dict[str, Any], most: int = 12) -> str:
    names = run["names"]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{run['name']} and {OWN} differ in {', '.join(names[:most])}{more}"


def _heading(table: dict[str, Any]) -> str:
    if not table["what"]:
        return "At the end"
    return f"At {count(round(table['place']))} " + ("generated tokens" if table["what"] == "tokens" else "reward calls")


def _table(table: dict[str, Any]) -> str:
    spent = ("tokens", "reward_calls") if not table["what"] else ()
    heads = ("Run", "learned from", *(name.replace("_", " ") for name in spent), "greedy", "Δ", "sampled", "Δ")
    head = "".join(tag("th", escape(name), scope="col", class_="number" if place > 1 else None) for place, name in enumerate(heads))
    body = []
    for row in table["rows"]:
        cells = [tag("th", escape(row["name"] or OWN, _NAME), scope="row"), tag("td", escape(row["how"], _NAME))]
        cells += [tag("td", count(round(row[name])), class_="number") for name in spent]
        for decoding in ("greedy", "sampled"):
            cell = row[decoding]
            if cell is None:
                cells += [tag("td", "–", class_="number none")] * 2
                continue
            cells.append(tag("td", f"<b>{plain(cell['mean'])}</b><br><small>{interval(cell)}</small>", class_="number"))
            gap = cell.get("to_own")
            text = "–"
            if gap is not None:
                text = f"{signed(gap['mean'])} <small>{p_value(gap['p_value'])}<br>{interval(gap, with_sign=True)}</small>"
            cells.append(tag("td", text, class_="number" + ("" if gap else " none")))
        body.append(tag("tr", "".join(cells), class_=None if row["name"] else "final"))
    made = tag("table", tag("thead", tag("tr", head)) + tag("tbody", "".join(body)), class_="kept")
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=_heading(table))


def lines(found: dict[str, Any]) -> list[str]:
    """Return the comparison as plain lines for a terminal."""
    told = []
    for table in found["tables"]:
        told += ["", _heading(table).replace("\u202f", ",")]
        for row in table["rows"]:
            cells = []
            for decoding in ("greedy", "sampled"):
                if (cell := row[decoding]) is not None:
                    gap = cell.get("to_own")
                    shown = f" ({gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}], p {gap['p_value']:.4f})" if gap else ""
                    cells.append(f"{decoding} {cell['mean']:.3f}{shown}")
            spent = f"{row['tokens']:,.0f} tokens, {row['reward_calls']:,.0f} calls"
            told.append(f"  {visible(row['name'] or OWN):<16} {visible(row['how']):<28} {spent:<34} {'  '.join(cells)}")
    told += ["", *(visible(_otherwise(run)) for run in found["set_otherwise"])] if found["set_otherwise"] else []
    return told + [f"left out: {visible(run['name'])}: {run['reason']}" for run in found["left_out"]]

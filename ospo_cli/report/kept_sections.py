"""Section and terminal lines about runs side by side."""

from __future__ import annotations

from typing import Any

from ospo_cli.report.number_text import count
from ospo_cli.text.visible import visible

OWN = "this run"


def section(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the tables with their headings and the remarks below them; None where no run was put by."""
    if found is None:
        return None
    tables = [{"heading": _heading(table), "at_end": not table["what"], "rows": table["rows"]} for table in found["tables"]]
    return {"own": OWN, "tables": tables, "differ": [_otherwise(run) for run in found["set_otherwise"]], "left_out": found["left_out"]}


def _otherwise(run: dict[str, Any], most: int = 12) -> str:
    names = run["names"]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{run['name']} and {OWN} differ in {', '.join(names[:most])}{more}"


def _heading(table: dict[str, Any]) -> str:
    if not table["what"]:
        return "At the end"
    return f"At {count(round(table['place']))} " + ("generated tokens" if table["what"] == "tokens" else "reward calls")


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

"""Section and terminal lines about runs side by side."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from ospo_cli.report.number_text import count
from ospo_cli.report.terminal import Terminal
from ospo_cli.text.visible import visible

OWN = "this run"


def section(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the tables with their headings and the remarks below them; None where no run was kept."""
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


def print_comparison(found: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print the comparison; names of runs and of what they learned from are made visible."""
    output = Terminal(stream if stream is not None else sys.stdout)
    header = ["run", "learned from", "tokens", "calls", "greedy", "sampled"]
    for table in found["tables"]:
        output.line(_heading(table).replace("\u202f", ","), style="bold")
        rows = []
        for row in table["rows"]:
            spent = [f"{row[name]:,.0f}" for name in ("tokens", "reward_calls")]
            rows.append([visible(row["name"] or OWN), visible(row["how"]), *spent, _estimate(row["greedy"]), _estimate(row["sampled"])])
        output.grid(header, rows, ("tokens", "calls"))
        output.line()
    for run in found["set_otherwise"]:
        output.line(visible(_otherwise(run)))
    for run in found["left_out"]:
        output.line(f"left out: {visible(run['name'])}: {run['reason']}")


def _estimate(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    gap = cell.get("to_own")
    return f"{cell['mean']:.3f}" + (f" ({gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}], p {gap['p_value']:.4f})" if gap else "")

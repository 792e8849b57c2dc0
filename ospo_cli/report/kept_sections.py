"""Section and terminal lines about runs side by side."""

from __future__ import annotations

from typing import Any, TextIO

from ospo_cli.report.number_text import count, signed
from ospo_cli.report.terminal import Terminal
from ospo_cli.text.visible import visible

OWN = "this run"
NAMED = 12  # parameters in which a run differs


def section(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the tables with their headings and the remarks below them; None where no run was kept."""
    if found is None:
        return None
    tables = [{"heading": _heading(table), "at_end": not table["what"], "rows": table["rows"]} for table in found["tables"]]
    seeds = found["over_seeds"]
    return {
        "own": OWN,
        "tables": tables,
        "over_seeds": seeds and _seed_rows(seeds),
        "differ": [_otherwise(run) for run in found["set_otherwise"]],
        "left_out": found["left_out"],
    }


def _otherwise(run: dict[str, Any]) -> str:
    names = run["names"]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{run['name']} and {OWN} differ in {', '.join(names[:NAMED])}{more}"


def _seed_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ways of training with their names, and in words what each difference rests on."""
    rows = []
    for row in found["rows"]:
        cells = {decoding: dict(row[decoding]) if row[decoding] else None for decoding in ("greedy", "sampled")}
        for cell in cells.values():
            if cell and "to_own" in cell:
                by_seed = ", ".join(signed(value) for value in cell["to_own"]["by_seed"])
                cell["rests_on"] = f"{cell['to_own']['degrees']:.3g} degrees of freedom; by seed {by_seed}"
        rows.append(row | cells | {"name": ", ".join(name or OWN for name in row["names"]), "seeds": ", ".join(map(str, row["seeds"]))})
    return rows


def _heading(table: dict[str, Any]) -> str:
    if not table["what"]:
        return "At the end"
    return f"At {count(round(table['place']))} " + ("generated tokens" if table["what"] == "tokens" else "reward calls")


def print_comparison(found: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print the comparison; names of runs and of what they learned from are made visible."""
    output = Terminal(stream)
    header = ["run", "learned from", "tokens", "calls", "greedy", "sampled"]
    for table in found["tables"]:
        output.line(_heading(table).replace("\u202f", ",") + ", over prompts, for these trained policies", style="bold")
        rows = []
        for row in table["rows"]:
            spent = [f"{row[name]:,.0f}" for name in ("tokens", "reward_calls")]
            rows.append([visible(row["name"] or OWN), visible(row["how"]), *spent, _estimate(row["greedy"]), _estimate(row["sampled"])])
        output.grid(header, rows, ("tokens", "calls"))
        output.line()
    if found["over_seeds"]:
        output.line("Over seeds and prompts: what other trainings would give", style="bold")
        seeds_header = ["runs", "learned from", "seeds", "greedy", "sampled"]
        output.grid(seeds_header, [_seed_line(row) for row in _seed_rows(found["over_seeds"])])
        output.line()
    for run in found["set_otherwise"]:
        output.line(visible(_otherwise(run)))
    for run in found["left_out"]:
        output.line(f"left out: {visible(run['name'])}: {run['reason']}")


def _seed_line(row: dict[str, Any]) -> list[str]:
    cells = []
    for decoding in ("greedy", "sampled"):
        cell, text = row[decoding], ""
        if cell is not None:
            text = f"{cell['mean']:.3f}" + ("" if cell["deviation"] is None else f" ± {cell['deviation']:.3f}")
            text += _gap(cell)
        cells.append(text)
    return [visible(row["name"]), visible(row["how"]), row["seeds"], *cells]


def _estimate(cell: dict[str, Any] | None) -> str:
    return "" if cell is None else f"{cell['mean']:.3f}" + _gap(cell)


def _gap(cell: dict[str, Any]) -> str:
    gap = cell.get("to_own")
    if gap is None:
        return ""
    return f" ({gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}], p {gap['p_value']:.4f}, Holm {gap['p_holm']:.4f})"

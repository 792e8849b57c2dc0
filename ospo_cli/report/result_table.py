"""The final table on the terminal: raw query, warm start, each iteration, oracle."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from ospo_cli.report.system_names import system_label

# Above this p an interval that leaves out 0 shows nothing: a bootstrap of few prompts is too narrow.
_CHANCE = 0.05


def print_result(summary: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print the headline metric of every system with intervals, then the gaps; colours on a terminal, plain columns elsewhere."""
    stream = stream if stream is not None else sys.stdout
    heading, header, rows = _headline(summary)
    gaps = [_gap_line(gap) for gap in summary["gaps"]]
    if stream.isatty():
        _print_rich(stream, heading, header, rows, summary["gaps"])
        return
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
    stream.write("\n".join([heading, "", *lines, *(["", *gaps] if gaps else [])]) + "\n")


def result_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per system: its label and the cells of the headline metric by decoding (None where there is none)."""
    rows = []
    for system in summary["systems"]:
        cells = {
            decoding: by_retriever.get(summary["training_retriever"], {}).get(summary["metric"])
            for decoding, by_retriever in summary["values"][system].items()
        }
        rows.append(
            {
                "system": system,
                "label": system_label(system),
                "greedy": cells.get("greedy") or cells.get("none"),
                "sampled": cells.get("sampled"),
            }
        )
    return rows


def final_policy(summary: Mapping[str, Any]) -> str:
    """Return the system that is the last policy."""
    return max(str(system) for system in summary["systems"] if system.startswith("policy-"))


def metric_label(metric: str) -> str:
    """Return the usual spelling of a metric's name."""
    return metric.replace("ndcg", "nDCG").replace("mrr", "MRR")


def _headline(summary: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    metric = metric_label(summary["metric"])
    place = f"{metric} on {summary['prompts']} {summary['split']} prompts, {summary['training_retriever']}"
    heading = f"{place}, {round(summary['level'] * 100)} % bootstrap intervals"
    header = ["system", "greedy or as it is", "sampled", "greedy - raw query"]
    rows = []
    for row in result_rows(summary):
        difference = row["greedy"].get("to_raw_query") if row["greedy"] else None
        rows.append([row["label"], _interval(row["greedy"]), _interval(row["sampled"]), _difference(difference)])
    return heading, header, rows


def _interval(cell: dict[str, Any] | None) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" if cell else ""


def _difference(cell: dict[str, Any] | None) -> str:
    return f"{cell['mean']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]" if cell else ""


def _gap_line(gap: dict[str, Any]) -> str:
    names = f"{system_label(gap['better'])} - {system_label(gap['worse'])} ({gap['decoding']})"
    line = f"{names}: {_difference(gap)}, p = {gap['p_value']:.4f}"
    if gap["low"] <= 0 <= gap["high"]:
        return f"{line}  (0 is in the interval)"
    if gap["p_value"] > _CHANCE:
        return f"{line}  (0 is outside the interval, but signs by chance give as much: not shown)"
    return line if gap["low"] > 0 else f"{line}  (below 0)"


def _print_rich(stream: TextIO, heading: str, header: list[str], rows: list[list[str]], gaps: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    table = Table(box=box.SIMPLE_HEAD, title=Text(heading), title_justify="left")
    for position, name in enumerate(header):
        table.add_column(Text(name), justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        is_reference = row[0] in ("raw query", "oracle")
        table.add_row(*(Text(cell) for cell in row), style="dim" if is_reference else "")
    console.print(table)
    for gap in gaps:
        console.print(Text(_gap_line(gap), style="green" if gap["low"] > 0 and gap["p_value"] <= _CHANCE else "yellow"))

"""The final table on the terminal: raw query, warm start, each iteration, oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from ospo_cli.report import verdict_text
from ospo_cli.report.system_names import metric_label, system_label
from ospo_cli.report.terminal import Terminal
from ospo_cli.report.verdict import CHANCE
from ospo_cli.text.visible import visible

_LOSSES = 5  # worst losses that are printed


def print_result(summary: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print the verdict with the worst losses, then the headline metric of every system with intervals, and the gaps."""
    output = Terminal(stream)
    style = {"better": "bold green", "worse": "bold red"}.get(summary["against_raw_query"]["answer"], "bold yellow")
    output.line(visible(_plain_spaces(verdict_text.claim(summary))), style=style)
    for sentence in verdict_text.sentences(summary):
        output.line(visible(_plain_spaces(sentence)))
    found = verdict_text.losses(summary, _LOSSES)
    if found:
        output.line("Worst losses (all in wins_and_losses.csv):")
    for row in found:
        change = f"{row['raw']:.2f} to {row['value']:.2f}"
        output.line(f"  {change}  {visible(row['query'], 60)} -> {visible(row['rewrite'], 80) or '(empty)'}")
    output.line()
    place = f"{metric_label(summary['metric'])} on {summary['prompts']} {summary['split']} prompts, {summary['training_retriever']}"
    output.line(
        f"{place}, {round(summary['level'] * 100)} % intervals over prompts, for these policies; raw query and oracle are not decoded",
        style="bold",
    )
    output.line()
    header, rows = ["system", "greedy", "sampled", "greedy - raw query"], []
    for row in result_rows(summary):
        difference = row["greedy"].get("to_raw_query") if row["greedy"] else None
        rows.append([row["label"], _interval(row["greedy"]), _interval(row["sampled"]), _difference(difference)])
    output.grid(header, rows, header[1:])
    if summary["gaps"]:
        output.line()
    for gap in summary["gaps"]:
        output.line(_gap_line(gap), style="green" if gap["low"] > 0 and gap["p_value"] <= CHANCE else "yellow")


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


def _plain_spaces(text: str) -> str:
    """Return the text with ordinary spaces and hyphens, which every terminal can show."""
    return text.replace("\u202f", ",").replace("\u2011", "-")


def _interval(cell: dict[str, Any] | None) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" if cell else ""


def _difference(cell: dict[str, Any] | None) -> str:
    return f"{cell['mean']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]" if cell else ""


def _gap_line(gap: dict[str, Any]) -> str:
    names = f"{system_label(gap['better'])} - {system_label(gap['worse'])} ({gap['decoding']})"
    line = f"{names}: {_difference(gap)}, p = {gap['p_value']:.4f}, Holm {gap['p_holm']:.4f}"
    if gap["low"] <= 0 <= gap["high"]:
        return f"{line}  (0 is in the interval)"
    if gap["p_value"] > CHANCE:
        return f"{line}  (0 is outside the interval, but signs by chance give as much: not shown)"
    return line if gap["low"] > 0 else f"{line}  (below 0)"

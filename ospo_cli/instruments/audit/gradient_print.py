"""The gradient audit on the terminal: one grid of methods, one of kinds of tokens."""

from __future__ import annotations

from typing import Any, TextIO

import polars as pl

from ospo_cli.credit.token_kinds import KINDS
from ospo_cli.report.audit_section import GRADIENT_COLUMNS, by_progress, told
from ospo_cli.report.number_text import plain
from ospo_cli.report.terminal import Terminal


def print_result(table: pl.DataFrame, metrics: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print both grids, most progress first, and what each column means; ± is one standard error."""
    output = Terminal(stream)
    in_use = metrics["groups_per_step"]
    output.line(
        f"{metrics['prompts']} {'prompts, two rollout groups each,' if metrics['fresh'] else 'rollout groups'} of {metrics['group_size']}, "
        f"{metrics['trained_weights']} weights; {metrics['silent_prompts']} silent (equal rewards); ± one standard error",
        style="bold",
    )
    methods = by_progress(table.to_dicts(), in_use)
    steps = sorted(groups for measure, groups in next(iter(methods.values())) if measure == "progress")
    columns = [("noise scale", 0), ("direction", 0), ("floor", 0), *(("progress", groups) for groups in steps), ("saving", in_use)]
    header = ["estimator", "rule", "normalize", "B", "direction", "floor", *(f"progress@{groups}" for groups in steps), f"saving@{in_use}"]
    output.grid(header, [[*method, *(told(cells[column]) for column in columns)] for method, cells in methods.items()], numbers=header[3:])
    output.line()
    _print_kinds(output, table, list(methods))
    output.line()
    for name, _, meaning in GRADIENT_COLUMNS:
        output.line(f"{name}: {meaning}", style="dim")
    if metrics["projection_error"]:
        told_error = f"a squared length is off by {metrics['projection_error']:.1%} (standard deviation)"
        output.line(f"gradients were projected onto {metrics['vector_size']} numbers: {told_error}", style="dim")


def _print_kinds(output: Terminal, table: pl.DataFrame, methods: list[tuple[str, str, str]]) -> None:
    """Print noise scale and both directions of the gradient that comes from some tokens alone."""
    key = ("estimator", "rule", "normalize", "tokens", "measure")
    cells = {tuple(row[name] for name in key): row for row in table.filter(pl.col("tokens") != "all").iter_rows(named=True)}
    kinds = [kind for kind in KINDS if (*methods[0], kind, "noise scale") in cells]

    def cell(method: tuple[str, str, str], kind: str) -> str:
        scale, *along = (cells[*method, kind, measure] for measure in ("noise scale", "direction", "direction, same tokens"))
        if scale["value"] is None:
            return told(scale)
        shown = ("–" if each["value"] is None else plain(each["value"], 2) for each in along)
        return f"{told(scale)} ({', '.join(shown)})"

    output.line("from some tokens alone: B (direction, and that against the true gradient of the same tokens)", style="bold")
    grid = [[*method, *(cell(method, kind) for kind in kinds)] for method in methods]
    output.grid(["estimator", "rule", "normalize", *kinds], grid, numbers=kinds)

"""The measures of the audit: from what they are taken, table audit, and the grid of them on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.maths import seeding
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.group_game import GROUP_GAMES
from ospo_cli.maths.statistics import Resamples
from ospo_cli.report.number_text import plain, short
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables.audit import AUDIT


@dataclass(frozen=True)
class Measure:
    """A number of the table: where it comes from, and its column on the terminal ("" has none)."""

    check: str
    measure: str
    source: str
    column: str
    meaning: str
    is_largest: bool = False


def measures_of(unseen: Sequence[str]) -> list[Measure]:
    """Return the measures in order, one of them per retriever that gave no reward."""
    return [
        Measure("efficiency", "mean gap", "gap", "", "|sum of shares - (v(N) - v(empty))|"),
        Measure("efficiency", "largest gap", "gap", "gap", "largest |sum of shares - (v(N) - v(empty))|; right: 0", True),
        Measure("null player", "mean |share|", "null", "", "|share| of an appended word that no document holds"),
        Measure(
            "null player", "largest |share|", "null", "null", "largest |share| of an appended word that changes nothing; right: 0", True
        ),
        Measure("symmetry", "mean difference", "copy", "", "|share of the last segment - share of its appended copy|"),
        Measure("symmetry", "largest difference", "copy", "copy", "largest difference of a segment and its appended copy; right: 0", True),
        Measure("position", "slope", "slope", "slope", "share in the last place minus share in the first, same segment; no bias: 0"),
        Measure(
            "position", "spread", "spread", "moves", "standard deviation of a segment's share over the orders of the segments; no bias: 0"
        ),
        Measure(
            "filler", "AUC", "auc", "AUC", "how often an injected word of a judged product outranks one of none, ties half; chance: .5"
        ),
        Measure("deletion", "area", "deletion", "", "mean value while segments leave, largest share first"),
        Measure(
            "deletion",
            "minus random orders",
            "deletion control",
            "delete",
            "mean value while segments leave, largest share first, minus that of random orders; lower is better",
        ),
        Measure("insertion", "area", "insertion", "", "mean value while segments enter, largest share first"),
        Measure(
            "insertion",
            "minus random orders",
            "insertion control",
            "insert",
            "mean value while segments enter, largest share first, minus that of random orders; higher is better",
        ),
        Measure("rank", "Spearman with exact Shapley", "rank", "rank", "rank correlation of the shares with exact Shapley values"),
        Measure(
            "calibration",
            "coverage",
            "coverage",
            "cover",
            "estimates of score_coalitions.orders sampled orders whose 95 % interval holds the exact value; right: .95",
        ),
        Measure("calibration", "error/spread", "ratio", "se/sd", "standard error over the true spread of sampled estimates; right: 1"),
        *(
            Measure(
                "leave-one-out", name, f"unseen {name}", name, f"rank correlation with leave-one-out under {name}, which gave no reward"
            )
            for name in unseen
        ),
        Measure("cost", "coalitions", "cost", "cost", "coalitions that a rollout needs for the exact value"),
        Measure("cost", "sampled coalitions", "sampled cost", "", "distinct coalitions of score_coalitions.orders sampled orders"),
    ]


def audit_table(found: dict[str, list[dict[str, float]]], measures: Sequence[Measure], seed: int, bootstrap: int) -> pl.DataFrame:
    """Return table audit: means with 95 % bootstrap intervals over the rollouts for which a measure is defined; largest values without.

    Args:
        found: estimator -> per rollout, source -> number; absent or NaN where it is not defined.
        measures: the rows of each estimator.
        seed: root seed.
        bootstrap: number of resamples.
    """
    resamples: dict[int, Resamples] = {}

    def interval(values: NDArray[np.float64]) -> tuple[float, float, float]:
        if len(values) not in resamples:
            resamples[len(values)] = Resamples(len(values), bootstrap, seeding.generator(seed, "audit bootstrap"))
        return resamples[len(values)].mean(values)

    rows: list[tuple[Any, ...]] = []
    for name, by_rollout in found.items():
        for measure in measures:
            values = np.array([each[measure.source] for each in by_rollout if not np.isnan(each.get(measure.source, np.nan))])
            cells: tuple[float | None, ...] = (None, None, None)
            if len(values):
                cells = (float(values.max()), None, None) if measure.is_largest else interval(values)
            rows.append((name, measure.check, measure.measure, *cells, len(values)))
    return pl.DataFrame(rows, schema=AUDIT.schema, orient="row")


def print_result(table: pl.DataFrame, metrics: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print one grid, estimators as rows and checks as columns, and what each column means."""
    output = Terminal(stream)
    unseen = table.filter(pl.col("check") == "leave-one-out")["measure"].unique(maintain_order=True).to_list()
    shown = [measure for measure in measures_of(unseen) if measure.column]
    values = {(row["estimator"], row["check"], row["measure"]): row["value"] for row in table.iter_rows(named=True)}
    names = [name for name in (*ESTIMATORS, *GROUP_GAMES) if name in set(table["estimator"].to_list())]
    output.line(f"{metrics['audited']} of {metrics['eligible']} eligible rollouts, {metrics['evaluated_texts']} texts", style="bold")
    rows = []
    for name in names:
        cells = [(measure, values.get((name, measure.check, measure.measure))) for measure in shown]
        rows.append([name, *(short(value) if measure.is_largest or measure.check == "cost" else plain(value) for measure, value in cells)])
    columns = [measure.column for measure in shown]
    for first, last in _blocks(["estimator", *columns], rows, output.console.width if output.console is not None else None):
        output.grid(["estimator", *columns[first:last]], [[row[0], *row[1 + first : 1 + last]] for row in rows], numbers=columns)
    output.line()
    for measure in shown:
        output.line(f"{measure.column}: {measure.meaning}", style="dim")
    for example in metrics.get("examples", []):
        output.line()
        output.line(f"{example['query']} (mean rank correlation {plain(example['agreement'])})", style="bold")
        methods = [name for name in (*ESTIMATORS, *GROUP_GAMES) if name in example["shares"]]
        lines = [[text, *(plain(example["shares"][name][place]) for name in methods)] for place, text in enumerate(example["segments"])]
        output.grid(["segment", *methods], lines, numbers=methods)


def _blocks(header: list[str], rows: list[list[str]], width: int | None) -> list[tuple[int, int]]:
    """Return which columns after the first stand in one grid, so that a terminal of that width cuts none of them off."""
    if width is None:
        return [(0, len(header) - 1)]
    name, *widths = [3 + max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    blocks, first, used = [], 0, name
    for column, own in enumerate(widths):
        if used + own > width and column > first:
            blocks.append((first, column))
            first, used = column, name
        used += own
    return [*blocks, (first, len(widths))]

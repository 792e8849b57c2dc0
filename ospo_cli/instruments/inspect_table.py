"""Show a table: its columns with their meaning, counts, first rows; a rollout with its credit on the words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

import polars as pl

from ospo_cli.errors import MissingInputError, OspoError, first_line
from ospo_cli.layout import Layout
from ospo_cli.report.explanation import Interaction
from ospo_cli.report.explanation_text import interaction_line
from ospo_cli.report.number_text import plain
from ospo_cli.report.rollout_groups import colour_scale, rollout_groups
from ospo_cli.report.terminal import Terminal
from ospo_cli.tables import parquet, placed, reference
from ospo_cli.tables.attribute import ATTRIBUTIONS, INTERACTIONS
from ospo_cli.tables.declare import Table
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.close_names import closest, did_you_mean
from ospo_cli.text.visible import visible

_CREDIT_TABLES = (
    "rollouts", "segments", "rewards", "coalition_values", "spliced_values", "attributions", "interactions", "token_advantages",
)  # fmt: skip
_CELL = 36
_LINE = 120  # rows that need more are shown column by column
_RECORD = 160
_INTERACTIONS = 5  # strongest interactions of a rollout that are listed
_FEW = 5  # so many distinct texts are listed


def inspect(
    path_or_table_name: str, layout: Layout, iteration: int, rollout_id: str | None = None, rows: int = 8, stream: TextIO | None = None
) -> None:
    """Print a table's schema with meanings, counts and first rows; for tables of an iteration also a rollout with its credit.

    Args:
        path_or_table_name: name of a declared table, or a path to a Parquet file of one.
        layout: paths of the project.
        iteration: iteration of the table, from 1; a rollout id names its own.
        rollout_id: rollout to paint; None takes the best-rewarded one.
        rows: rows shown.
        stream: where to print; stdout by default. Colours only if it is a terminal.

    Raises:
        OspoError: no such table, file or rollout.
    """
    output = Terminal(stream)
    if rollout_id is not None and rollout_id[:3].isdecimal() and rollout_id[3:4] == ":":
        iteration = int(rollout_id[:3])
    path, table = _found(path_or_table_name, layout, iteration)
    frame = parquet.read(path, table, made_by=table.command(iteration))
    key = ", ".join(table.key)
    output.line(f"{table.name}: {table.meaning}", style="bold")
    output.line(f"{visible(str(path), 300)}: {frame.height:,} rows, key {key}", style="dim")
    output.line()
    output.grid(["column", "type", "values", "meaning"], [[*_described(frame, name), _meaning(table, name)] for name in frame.columns])
    if rollout_id is not None and "rollout_id" in frame.columns:
        frame = frame.filter(pl.col("rollout_id") == rollout_id)
    if rows and frame.height:
        output.line()
        _print_rows(frame.head(rows), output)
        if frame.height > rows:
            output.line(f"… {frame.height - rows:,} more", style="dim")
    if table.name in _CREDIT_TABLES and path == table.path(layout, iteration):
        _print_credit(layout, iteration, rollout_id, output)
    elif rollout_id is not None:
        raise OspoError(table.name, "holds no rollout to paint", remedy=f"name one of {', '.join(_CREDIT_TABLES)}")


def _found(name: str, layout: Layout, iteration: int) -> tuple[Path, Table]:
    if name in reference.TABLES:
        return _place(reference.TABLES[name], layout, iteration), reference.TABLES[name]
    path = Path(name)
    if path.suffix != ".parquet" and not path.exists():
        remedy = did_you_mean(name, reference.TABLES) or "name a table or a Parquet file"
        raise OspoError(name, "no such table or file", expected=", ".join(reference.TABLES), remedy=remedy)
    if path.stem in reference.TABLES:
        return path, reference.TABLES[path.stem]
    if not path.is_file():
        raise MissingInputError(path, "no such file", remedy="name a table or a Parquet file")
    try:
        columns = set(parquet.schema(path))
    except parquet.UNREADABLE as error:
        raise OspoError(path, "cannot be read as Parquet", found=first_line(error)) from None
    fits = [
        table
        for table in reference.TABLES.values()
        if table.schema.keys() <= columns and (table.extra is not None or table.schema.keys() == columns)
    ]
    if not fits:
        raise OspoError(path, "holds no declared table", found=", ".join(sorted(columns)), expected=", ".join(reference.TABLES))
    return path, max(fits, key=lambda table: len(table.columns))


def _place(table: Table, layout: Layout, iteration: int) -> Path:
    """Return the table's file; of a table that several runs or pairs of rewards have, the only one."""
    path = table.path(layout, iteration)
    within = path.parent.parent if path.parent.name == "*" else path.parent
    found = sorted(within.glob(path.relative_to(within).as_posix())) if "*" in str(path.relative_to(within)) else []
    if len(found) > 1:
        names = ", ".join(str(each) for each in found)
        raise OspoError(table.name, "several files hold it", found=names, remedy=f"name one: `ospo inspect {found[0]}`")
    return found[0] if found else path


def _meaning(table: Table, name: str) -> str:
    return next((column.meaning for column in table.columns if column.name == name), "further text field")


def _described(frame: pl.DataFrame, name: str) -> list[str]:
    """Return name, type and what values there are."""
    values, dtype = frame[name], frame.schema[name]
    kind = f"list of {str(dtype.inner).lower()}" if isinstance(dtype, pl.List) else str(dtype).lower()
    if not values.len():
        told = "none"
    elif isinstance(dtype, pl.List):
        least, most = _range(values.list.len())
        told = f"{least} to {most} long"
    elif dtype.is_numeric():
        low, high = _range(values)
        told = f"{low} to {high}" if dtype.is_integer() else f"{low:.4g} to {high:.4g}" if low is not None else "null"
    elif dtype == pl.Boolean:
        told = f"{float(values.mean() or 0.0):.1%} true"  # type: ignore[arg-type]
    else:
        distinct = values.drop_nulls().unique().sort().to_list() if values.n_unique() <= _FEW else []
        told = ", ".join(_cell(value, 20) or "(empty)" for value in distinct) or f"{values.n_unique():,} distinct"
    nulls = values.null_count()
    return [visible(name, 60), kind, told + (f", {nulls:,} null" if nulls else "")]


def _range(values: pl.Series) -> tuple[Any, Any]:
    return values.min(), values.max()


def _print_rows(frame: pl.DataFrame, output: Terminal) -> None:
    cells = [[_cell(value, _CELL) for value in row] for row in frame.iter_rows()]
    line = sum(2 + max(len(name), *(len(row[index]) for row in cells)) for index, name in enumerate(frame.columns))
    if line <= _LINE:
        output.grid(list(frame.columns), cells)
        return
    width = max(len(name) for name in frame.columns)
    for index, row in enumerate(frame.iter_rows()):
        if index:
            output.line()
        for name, value in zip(frame.columns, row, strict=True):
            output.line(f"{name.ljust(width)}  {_cell(value, _RECORD)}")


def _cell(value: object, limit: int) -> str:
    if value is None:
        return "null"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    shown = visible(text[: limit + 1], limit + 1)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _print_credit(layout: Layout, iteration: int, rollout_id: str | None, output: Terminal) -> None:
    rollouts = placed.read(ROLLOUTS, layout, iteration)
    others = {table.name: _optional(table, layout, iteration) for table in (SEGMENTS, REWARDS, ATTRIBUTIONS, INTERACTIONS)}
    chosen = _chosen(rollouts, others["rewards"], rollout_id, iteration)
    if chosen is None:
        return
    row = rollouts.row(by_predicate=pl.col("rollout_id") == chosen, named=True)
    prompts = placed.read(PROMPTS, layout)
    group = rollout_groups([row["prompt_id"]], prompts, rollouts, others, most=_INTERACTIONS)
    rollout = next(member for member in group[0]["rollouts"] if member["sample"] == row["sample_index"])
    reward = f"reward {plain(rollout['reward'])}, " if rollout["reward"] is not None else ""
    output.line()
    output.line(f"rollout {visible(chosen, 200)}: {reward}{rollout['tokens']} tokens, {rollout['finish']}", style="bold")
    output.line(f"query: {group[0]['query']}")
    if group[0]["history"]:
        output.line(f"history: {'; '.join(group[0]['history'])}")
    if group[0]["degenerate"]:
        output.line("degenerate group: all rewards are equal, no credit")
    output.painted(rollout["pieces"], colour_scale(group))
    missing = [table for table in (SEGMENTS, ATTRIBUTIONS) if others[table.name] is None]
    if missing:
        output.line(f"no credit yet: run `{missing[0].command(iteration)}`", style="dim")
    else:
        credited = others[ATTRIBUTIONS.name]
        has_share = credited is not None and credited["share"].null_count() < credited.height
        what = "share of the reward that each segment earned" if has_share else "what each segment gained over what the other answers say"
        output.line(f"numbers: {what} (blue) or cost (orange)", style="dim")
        if others["interactions"] is None:
            output.line(f"no interactions yet: run `{INTERACTIONS.command(iteration)}`", style="dim")
        elif rollout["interactions"]:
            output.line("together: what a window earns that no smaller one within earns")
            for first, last, begins, ends, dividend in rollout["interactions"]:
                each = Interaction(first, last, begins, ends, dividend)
                output.line(f"  {interaction_line(each)}")
        elif not group[0]["degenerate"]:
            output.line("together: no neighbours earn more or less together than apart")


def _optional(table: Table, layout: Layout, iteration: int) -> pl.DataFrame | None:
    return placed.read(table, layout, iteration) if table.path(layout, iteration).is_file() else None


def _chosen(rollouts: pl.DataFrame, rewards: pl.DataFrame | None, rollout_id: str | None, iteration: int) -> str | None:
    if rollout_id is not None:
        ids = rollouts["rollout_id"].to_list()
        if rollout_id not in ids:
            expected = ", ".join(closest(rollout_id, ids) or ids[:3]) + ", …"
            raise OspoError(rollout_id, f"no such rollout in iteration {iteration}", expected=expected)
        return rollout_id
    if rewards is None or not rewards.height:
        return rollouts["rollout_id"].min() if rollouts.height else None  # type: ignore[return-value]
    best = rewards.sort(["is_degenerate_group", "reward", "rollout_id"], descending=[False, True, False])
    return str(best["rollout_id"][0])

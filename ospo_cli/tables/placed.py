"""Tables at their places in a project: where a table lies, and which command makes it, is declared with the table."""

from __future__ import annotations

import polars as pl

from ospo_cli.layout import Layout
from ospo_cli.tables import parquet
from ospo_cli.tables.declare import Table


def read(table: Table, layout: Layout, iteration: int = 0) -> pl.DataFrame:
    """Return the project's table, of that iteration where it is made in each.

    Raises:
        MissingInputError: there is no such file; the remedy is the command that makes it.
        TableError: the file cannot be read or breaks the schema.
    """
    return parquet.read(table.path(layout, iteration), table, table.command(iteration))


def write(frame: pl.DataFrame, table: Table, layout: Layout, iteration: int = 0) -> None:
    """Check, sort by key and write the project's table, whole or not at all."""
    parquet.write(frame, table.path(layout, iteration), table)

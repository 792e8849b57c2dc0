"""How a table is declared: name, key, columns with type and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.layout import Layout


@dataclass(frozen=True)
class Column:
    """One column: polars type, meaning (axis, unit, index origin) and whether null is allowed."""

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Place:
    """Where a command puts its tables.

    Attributes:
        made_by: the command; `{iteration}` stands for the number of the iteration, which a command without it does not have.
        folder: name of the method of `Layout` that knows the folder.
        file: name of the file, `{table}` the table's; with a star where a person gives part of it.
    """

    made_by: str
    folder: str
    file: str = "{table}.parquet"


@dataclass(frozen=True)
class Table:
    """One table: unique key, declared columns, the type of further columns where these are allowed, and its place in a project."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    extra: pl.DataType | type[pl.DataType] | None = None
    extra_meaning: str = "a text field"
    place: Place | None = None

    @property
    def schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """Return column name -> polars type, in declared order."""
        return {column.name: column.dtype for column in self.columns}

    def path(self, layout: Layout, iteration: int = 0) -> Path:
        """Return the table's file in a project; raise OspoError where only a person knows it."""
        if self.place is None:
            raise OspoError(self.name, "has no place of its own", remedy="give the file's path")
        folder, file = getattr(layout, self.place.folder), self.place.file.format(table=self.name)
        found: Path = folder(iteration, file) if "{iteration}" in self.place.made_by else folder(file)
        return found

    def command(self, iteration: int = 0) -> str:
        """Return the command that makes the table, such as `ospo segment --iter 2`; empty where any may."""
        return self.place.made_by.format(iteration=iteration) if self.place else ""

    def empty(self) -> pl.DataFrame:
        """Return a frame of no rows with the declared columns."""
        return pl.DataFrame(schema=self.schema)

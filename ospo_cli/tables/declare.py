"""How a table is declared: name, key, columns with type and meaning."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Column:
    """One column: polars type, meaning (axis, unit, index origin) and whether null is allowed."""

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: unique key, declared columns, and the type of further columns where these are allowed."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    extra: pl.DataType | type[pl.DataType] | None = None
    extra_meaning: str = "a text field"

    @property
    def schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """Return column name -> polars type, in declared order."""
        return {column.name: column.dtype for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """Return a frame of no rows with the declared columns."""
        return pl.DataFrame(schema=self.schema)

"""The only reader and writer of Parquet: schema checked on both sides, sorted by key, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ospo_cli.errors import MissingInputError, TableError, first_line
from ospo_cli.tables.declare import Table
from ospo_cli.tables.files import replacing


def read(path: Path, table: Table, made_by: str = "") -> pl.DataFrame:
    """Return the checked table, columns in declared order; `made_by` is the command that makes the file.

    Raises:
        MissingInputError: there is no such file.
        TableError: the file cannot be read or breaks the schema.
    """
    if not path.is_file():
        remedy = f"run `{made_by}`" if made_by else None
        raise MissingInputError(path, "no such file", expected=f"table {table.name}", remedy=remedy)
    try:
        frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        remedy = f"delete it and run `{made_by}` again" if made_by else "restore the file"
        raise TableError(
            path, "cannot be read as Parquet", found=first_line(error), expected=f"table {table.name}", remedy=remedy
        ) from None
    return check(frame, table, where=path, made_by=made_by)


def rows_hash(frame: pl.DataFrame) -> str:
    """Return the SHA-256 (hex) of a frame's rows in order, names and types: texts, numbers and truth values without nulls."""
    digest = hashlib.sha256(repr((frame.height, list(frame.schema.items()))).encode())
    for column in frame.iter_columns():
        if column.null_count():
            raise ValueError(f"column {column.name} has nulls")
        if column.dtype == pl.String:
            digest.update(column.str.len_bytes().to_numpy().tobytes())
            digest.update("".join(column.to_list()).encode("utf-8", "surrogatepass"))
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest()


def read_undeclared(path: Path, what: str) -> pl.DataFrame:
    """Return a Parquet file of somebody else's making as it is; the caller checks its columns.

    Raises:
        MissingInputError: there is no such file.
        TableError: the file cannot be read.
    """
    if not path.is_file():
        raise MissingInputError(path, "no such file", expected=what)
    try:
        return pl.read_parquet(path, hive_partitioning=False, glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise TableError(path, "cannot be read as Parquet", found=first_line(error), expected=what) from None


def write(frame: pl.DataFrame, path: Path, table: Table, metadata: dict[str, str] | None = None) -> None:
    """Check, sort by key and write; equal frames give equal bytes, a failure leaves what was there before."""
    frame = _check_columns(frame, table, where=path).sort(table.key)
    _check_key(frame, table, where=path)
    with replacing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", compression_level=3, statistics=True, row_group_size=131_072, metadata=metadata)


def check(frame: pl.DataFrame, table: Table, where: object, made_by: str = "") -> pl.DataFrame:
    """Return the frame with columns in declared order; raise TableError where it breaks the table's declaration."""
    frame = _check_columns(frame, table, where, made_by)
    _check_key(frame, table, where, made_by)
    return frame


def _check_columns(frame: pl.DataFrame, table: Table, where: object, made_by: str = "") -> pl.DataFrame:
    remedy = f"run `{made_by}` again" if made_by else None
    place = f"{where}: table {table.name}"
    declared = table.schema
    missing = [name for name in declared if name not in frame.columns]
    if missing:
        raise TableError(
            place,
            f"column {missing[0]} is missing",
            found=", ".join(frame.columns) or "no columns",
            expected=", ".join(declared),
            remedy=remedy,
        )
    extra = [name for name in frame.columns if name not in declared]
    if extra and table.extra is None:
        raise TableError(place, "unknown column", found=extra[0], expected=", ".join(declared), remedy=remedy)
    for name in [*declared, *extra]:
        expected = declared.get(name, table.extra)
        if frame.schema[name] != expected:
            raise TableError(place, f"column {name} has the wrong type", found=frame.schema[name], expected=expected, remedy=remedy)
    for column in table.columns:
        series = frame[column.name]
        if not column.nullable and series.null_count():
            row = int(series.is_null().arg_true()[0])
            raise TableError(
                place, f"column {column.name} has nulls", found=f"{series.null_count()}, first in row {row}", expected="none", remedy=remedy
            )
        if series.dtype.is_float() and series.is_nan().any():
            row = int(series.is_nan().arg_true()[0])
            raise TableError(place, f"column {column.name} has NaN", found=f"first in row {row}", expected="numbers", remedy=remedy)
    return frame.select([*declared, *extra])


def _check_key(frame: pl.DataFrame, table: Table, where: object, made_by: str = "") -> None:
    if is_ascending(frame, table.key):  # as every file of ours: several times quicker than looking for equal rows
        return
    doubled = frame.select(table.key).filter(pl.struct(table.key).is_duplicated())
    if doubled.height:
        raise TableError(
            f"{where}: table {table.name}",
            "duplicate key",
            found=", ".join(f"{k}={v}" for k, v in doubled.sort(table.key).row(0, named=True).items()),
            expected="each key once",
            remedy=f"run `{made_by}` again" if made_by else None,
        )


def is_ascending(frame: pl.DataFrame, key: Sequence[str]) -> bool:
    """Tell whether every row's key is above that of the row before it; not where a key is null."""
    if frame.height < 2:
        return True
    above = pl.lit(False)
    for name in reversed(key):
        own, before = pl.col(name), pl.col(name).shift(1)
        above = (own > before) | ((own == before) & above)
    return bool(frame.select(above.slice(1).fill_null(False).all()).item())

"""The only reader and writer of Parquet: schema checked on both sides, sorted by key, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import MissingInputError, TableError, first_line
from ospo_cli.tables.declare import Table
from ospo_cli.tables.files import replacing

# A column of constants packs without bound; 2³⁰ values are 8 GiB once they are read.
LARGEST_VALUES, LARGEST_VALUES_PER_BYTE = 1 << 30, 100
# What `load` raises: Arrow's errors are subclasses of these.
UNREADABLE = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    *(OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MemoryError),
)


def read(path: Path, table: Table, made_by: str = "") -> pl.DataFrame:
    """Return the checked table, columns in declared order; `made_by` is the command that makes the file.

    Raises:
        MissingInputError: there is no such file.
        TableError: the file cannot be read or breaks the schema.
    """
    if not path.is_file():
        remedy = f"run `{made_by}`" if made_by else None
        raise MissingInputError(path, "no such file", expected=f"table {table.name}", remedy=remedy)
    remedy = f"delete it and run `{made_by}` again" if made_by else "restore the file"
    return check(_loaded(path, f"table {table.name}", remedy), table, where=path, made_by=made_by)


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
    return _loaded(path, what)


def _loaded(path: Path, expected: str, remedy: str | None = None) -> pl.DataFrame:
    try:
        return load(path)
    except UNREADABLE as error:
        raise TableError(path, "cannot be read as Parquet", found=first_line(error), expected=expected, remedy=remedy) from None


def load(path: Path) -> pl.DataFrame:
    """Return what a Parquet file holds, whoever wrote it.

    Arrow's reader and not polars', which aborts the process on some damaged files.

    Raises:
        UNREADABLE: it is damaged, is no Parquet, or holds far more values than a file of its size should.
    """
    return _frame(_opened(path).read())


def schema(path: Path) -> pl.Schema:
    """Return the names and types of a Parquet file's columns; raises as `load`."""
    return _frame(_opened(path).schema_arrow.empty_table()).schema


def scan(path: Path) -> pl.LazyFrame:
    """Return a Parquet file's rows lazily, a group of them in memory at once; raises as `load`, also when it is collected."""
    from polars.io.plugins import register_io_source

    def batches(names: list[str] | None, predicate: pl.Expr | None, rows: int | None, size: int | None) -> Iterator[pl.DataFrame]:
        left = rows
        for batch in _opened(path).iter_batches(size or 1 << 16, columns=names):
            frame = _frame(batch).slice(0, left)
            left = None if left is None else left - frame.height
            frame = frame if names is None else frame.select(names)
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    return register_io_source(batches, schema=schema(path))


def _frame(rows: Any) -> pl.DataFrame:
    import pyarrow as pa

    if any(map(pa.types.is_fixed_size_list, rows.schema.types)):  # polars refuses a part of such lists where one of them is null
        rows = (rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows, rows.slice(0, 0)])).combine_chunks()
    rows.validate(full=True)  # texts that are no UTF-8, lists that end before they begin
    frame = pl.DataFrame(pl.from_arrow(rows.replace_schema_metadata(None)))  # where that is no text, polars panics
    frame.columns = rows.schema.names  # a column without a name gets none
    return frame


def _opened(path: Path) -> Any:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, page_checksum_verification=True)
    _ = file.schema_arrow.to_string(show_schema_metadata=False)  # likewise for the names of columns
    if any("decimal256" in str(kind) for kind in file.schema_arrow.types):  # polars panics
        raise NotImplementedError("decimals of more than 38 digits")
    # Equal values pack without bound: a file of kilobytes can stand for 10¹² rows.
    values, size = file.metadata.num_rows * max(file.metadata.num_columns, 1), path.stat().st_size
    if values > max(LARGEST_VALUES, LARGEST_VALUES_PER_BYTE * size):
        raise ValueError(
            f"{values:,} values in {size:,} bytes, far more than a file of its size should hold"
            f" (at most {LARGEST_VALUES_PER_BYTE} a byte beyond {LARGEST_VALUES:,})"
        )
    return file


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
    declared, present = table.schema, dict(frame.schema)  # of a frame, each look at it costs as many steps as there are columns
    missing = [name for name in declared if name not in present]
    if missing:
        raise TableError(
            place,
            f"column {missing[0]} is missing",
            found=", ".join(present) or "no columns",
            expected=", ".join(declared),
            remedy=remedy,
        )
    extra = [name for name in present if name not in declared]
    if extra and table.extra is None:
        raise TableError(place, "unknown column", found=extra[0], expected=", ".join(declared), remedy=remedy)
    for name in [*declared, *extra]:
        expected = declared.get(name, table.extra)
        if present[name] != expected:
            raise TableError(place, f"column {name} has the wrong type", found=present[name], expected=expected, remedy=remedy)
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

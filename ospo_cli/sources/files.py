"""Foreign files (Parquet, CSV, TSV, JSON lines) as frames; what is wrong with them is said with file and place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import polars as pl

from ospo_cli.errors import SourceError, first_line
from ospo_cli.sources import quoted_lines
from ospo_cli.tables.files import sha256_of

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
STRAY = ("__index_level_0__", "Unnamed: 0", "")  # what pandas leaves behind


def folder(root: Path, path: str, remedy: str) -> Path:
    """Return the data set's folder; raise SourceError where `path` is empty or there is no such folder."""
    if not path:
        raise SourceError("prepare_data.path", "is empty", expected="the folder of the data set", remedy=remedy)
    place = root / path
    if not place.is_dir():
        raise SourceError(place, "no such folder", expected="the folder of the data set (prepare_data.path)", remedy=remedy)
    return place


def find(place: Path, stem: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Return the one file `stem` + suffix in a folder, or None; raise SourceError where two would do."""
    found = []
    for path in (place / f"{stem}{suffix}" for suffix in suffixes):
        if path.is_dir():
            raise SourceError(path, "is a folder", expected="one file", remedy="join its part files into one")
        if path.is_symlink() and not path.exists():
            raise SourceError(path, "is a link to a file that is not there", found=path.readlink(), expected="the file itself")
        if path.is_file():
            found.append(path)
    if len(found) > 1:
        raise SourceError(
            place, f"two files for {stem}", found=", ".join(path.name for path in found), expected="one", remedy="take one of them away"
        )
    return found[0] if found else None


def require(place: Path, stem: str, suffixes: Sequence[str] = SUFFIXES, remedy: str | None = None) -> Path:
    """Return the one file `stem` + suffix in a folder; raise SourceError where there is none."""
    path = find(place, stem, suffixes)
    if path is None:
        present = ", ".join(sorted(entry.name for entry in place.iterdir())) or "an empty folder"
        raise SourceError(
            place, f"{stem} is missing", found=present, expected=" or ".join(f"{stem}{suffix}" for suffix in suffixes), remedy=remedy
        )
    return path


def hashes(paths: Iterable[Path], place: Path) -> dict[str, str]:
    """Return file name relative to the folder -> SHA-256, sorted by name."""
    return {path.relative_to(place).as_posix(): sha256_of(path) for path in sorted(paths)}


def scan(path: Path) -> pl.LazyFrame:
    """Return the rows of a Parquet or CSV file lazily, for files that do not fit in memory; every column of CSV is text."""
    try:
        if path.suffix == ".parquet":
            lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        else:
            lazy = pl.scan_csv(path, infer_schema=False, glob=False)  # strips a byte order mark
        return lazy.drop([name for name in lazy.collect_schema().names() if name in STRAY])
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise unreadable(path, error) from None


def collect(lazy: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Return the rows of a lazy frame over one file; raise SourceError that names the broken line where it can be found."""
    try:
        return lazy.collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise unreadable(path, error) from None


def read(
    path: Path, columns: Sequence[str] = (), separator: str | None = None, remedy: str | None = None, quoting: str = "standard"
) -> pl.DataFrame:
    """Return a file's rows; every column of CSV and TSV is text, so that leading zeros survive.

    Args:
        path: Parquet, CSV, TSV or JSON lines, told by its suffix.
        columns: names that must be there.
        separator: of a CSV file, where it is not what the suffix says.
        remedy: what helps where a column is missing.
        quoting: of CSV and TSV, as prepare_data.quoting.

    Raises:
        SourceError: the file cannot be read, a quote swallows lines, or the file lacks one of the columns.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise unreadable(path, ValueError("no bytes"))
    try:
        if path.suffix == ".jsonl":
            frame = _json_lines(path)
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
        else:
            return _delimited(path, columns, separator or ("\t" if path.suffix == ".tsv" else ","), remedy, quoting)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    frame = frame.drop([name for name in frame.columns if name in STRAY])
    check_columns(frame.columns, columns, path, remedy)
    return frame


def names(path: Path, quoting: str = "standard") -> list[str]:
    """Return the names of a file's columns, as `read` gives them."""
    if path.suffix in (".parquet", ".jsonl"):
        return read(path).columns if path.suffix == ".jsonl" else list(pl.read_parquet_schema(path))
    with open(path, encoding="utf-8-sig", newline="") as stream:
        return _header(stream, "\t" if path.suffix == ".tsv" else ",", quoting)


def _header(stream: TextIO, separator: str, quoting: str) -> list[str]:
    return next(csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL), [])


def _json_lines(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ndjson(_without_mark(path), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        if "supertype" not in str(error):
            raise
    # One name stands for values of several shapes: those become JSON, as text.
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line that is no object")
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        is_mixed = len({type(value) for value in values if value is not None}) > 1 or any(isinstance(value, dict) for value in values)
        as_text = [
            value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True) for value in values
        ]
        found[name] = pl.Series(name, as_text if is_mixed else values, strict=not is_mixed)
    return pl.DataFrame(list(found.values()))


def _without_mark(path: Path) -> Path | bytes:
    """Return the path, or the file's bytes without their byte order mark, which polars' reader of JSON lines does not know."""
    with open(path, "rb") as stream:
        return stream.read() if stream.read(3) == b"\xef\xbb\xbf" else path


def _delimited(path: Path, columns: Sequence[str], separator: str, remedy: str | None, quoting: str) -> pl.DataFrame:
    # Arrow's reader and not polars': a quote inside an unquoted field (5" screen) is text to it, and a short line an error.
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            names = _header(stream, separator, quoting)
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise SourceError(
                f"{path}: line 1", "column named twice", found=doubled[0], expected="each name once", remedy="rename one of them"
            )
        check_columns(names, columns, path, remedy)
        mended, records = quoted_lines.mended(path, separator, len(names)) if quoting == "standard" else (None, None)
        table = arrow.read_csv(
            path if mended is None else pa.BufferReader(mended),
            read_options=arrow.ReadOptions(block_size=1 << 26),
            parse_options=arrow.ParseOptions(
                delimiter=separator,
                newlines_in_values=quoting != "none",
                quote_char=False if quoting == "none" else '"',
                escape_char="\\" if quoting == "backslash" else False,
            ),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error, separator) from None
    if records is not None and len(names) > 1 and table.num_rows != records - 1:
        raise SourceError(
            path, "rows were lost while it was read", found=f"{table.num_rows} rows", expected=f"{records - 1}", remedy=quoted_lines.REMEDY
        )
    frame = pl.DataFrame(pl.from_arrow(table.select([name for name in names if name not in STRAY])))
    return frame.with_columns(pl.all().replace("\\N", None))  # how MySQL writes NULL


def check_columns(present: Sequence[str], needed: Sequence[str], path: Path, remedy: str | None = None) -> None:
    """Raise SourceError where a needed column is missing; says so when the separator looks wrong."""
    missing = [name for name in needed if name not in present]
    if not missing:
        return
    if path.suffix in (".csv", ".tsv") and len(present) == 1:
        other = next(
            (name for sign, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "bars")) if sign in present[0]), None
        )
        if other:
            remedy = f"the fields look separated by {other}; save it with commas as .csv or with tabs as .tsv"
    known = {name.strip().casefold(): name for name in present}
    near = known.get(missing[0].casefold())
    if near is not None:
        remedy = f"rename column {near!r} to {missing[0]!r}"
    raise SourceError(
        path, f"column {missing[0]} is missing", found=", ".join(present) or "no columns", expected=", ".join(needed), remedy=remedy
    )


def unreadable(path: Path, error: BaseException, separator: str | None = None) -> SourceError:
    """Return the error of a file that polars could not read, with the line at fault where it can be found."""
    kind = {".parquet": "Parquet", ".jsonl": "JSON lines"}.get(path.suffix, "delimited text")
    if not path.is_file():
        return SourceError(path, "no such file", expected=kind)
    if path.stat().st_size == 0:
        return SourceError(path, "is empty", found="0 bytes", expected=kind, remedy="restore the file")
    with open(path, "rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            return SourceError(
                path,
                "is a git-lfs pointer, not the file",
                expected=kind,
                remedy="run `git lfs pull` in the clone, or download the file itself",
            )
    where, found = str(path), first_line(error)
    if path.suffix == ".jsonl":
        where, found = _broken_json(path) or (where, found)
    elif path.suffix in (".csv", ".tsv"):
        where, found = _broken_line(path, separator or ("\t" if path.suffix == ".tsv" else ",")) or (where, found)
    remedy = (
        "the file was cut short or is of another kind: fetch or export it again"
        if path.suffix == ".parquet"
        else "mend the line or export the file again"
    )
    return SourceError(
        where, f"cannot be read as {kind}", found=found, expected=f"{kind} in UTF-8" if path.suffix != ".parquet" else kind, remedy=remedy
    )


def _broken_json(path: Path) -> tuple[str, str] | None:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line.decode("utf-8-sig"), parse_constant=_no_json) if line.strip() else {}
            except UnicodeDecodeError as error:
                return f"{path}: line {number}", f"bytes that are not UTF-8 ({error.reason})"
            except ValueError as error:
                return f"{path}: line {number}", str(error)
            except RecursionError:
                return f"{path}: line {number}", "lists or objects nested too deep"
            if not isinstance(row, dict):
                return f"{path}: line {number}", f"a JSON {type(row).__name__}, not an object"
    return None


def _no_json(constant: str) -> float:
    raise ValueError(f"{constant}, which is no JSON")


def _broken_line(path: Path, separator: str) -> tuple[str, str] | None:
    start = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=separator)
            width = len(next(rows, []))
            start = rows.line_num + 1
            for row in rows:
                if row and len(row) != width:
                    return f"{path}: line {start}", f"{len(row)} fields where the header has {width}"
                start = rows.line_num + 1
    except UnicodeDecodeError:
        with open(path, "rb") as binary:
            for number, line in enumerate(binary, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as failure:
                    return f"{path}: line {number}", f"bytes that are not UTF-8 ({failure.reason})"
    except csv.Error as error:
        return f"{path}: line {start}", str(error)
    return None

"""Foreign files (Parquet, CSV, TSV, JSON lines) as frames; what is wrong with them is said with file and place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from ospo_cli.errors import SourceError, first_line
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
    found = [place / f"{stem}{suffix}" for suffix in suffixes if (place / f"{stem}{suffix}").is_file()]
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


def read(path: Path, columns: Sequence[str] = (), separator: str | None = None, remedy: str | None = None) -> pl.DataFrame:
    """Return a file's rows; every column of CSV and TSV is text, so that leading zeros survive.

    Args:
        path: Parquet, CSV, TSV or JSON lines, told by its suffix.
        columns: names that must be there.
        separator: of a CSV file, where it is not what the suffix says.
        remedy: what helps where a column is missing.

    Raises:
        SourceError: the file cannot be read or lacks one of the columns.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise unreadable(path, ValueError("no bytes"))
    try:
        if path.suffix == ".jsonl":
            frame = pl.read_ndjson(_without_mark(path), infer_schema_length=None)
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
        else:
            return _delimited(path, columns, separator or ("\t" if path.suffix == ".tsv" else ","), remedy)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise unreadable(path, error) from None
    frame = frame.drop([name for name in frame.columns if name in STRAY])
    check_columns(frame.columns, columns, path, remedy)
    return frame


def _without_mark(path: Path) -> Path | bytes:
    """Return the path, or the file's bytes without their byte order mark, which polars' reader of JSON lines does not know."""
    with open(path, "rb") as stream:
        return stream.read() if stream.read(3) == b"\xef\xbb\xbf" else path


def _delimited(path: Path, columns: Sequence[str], separator: str, remedy: str | None) -> pl.DataFrame:
    # Arrow's reader and not polars': a quote inside an unquoted field (5" screen) is text to it, and a short line an error.
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            names = next(csv.reader(stream, delimiter=separator), [])
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise SourceError(
                f"{path}: line 1", "column named twice", found=doubled[0], expected="each name once", remedy="rename one of them"
            )
        check_columns(names, columns, path, remedy)
        table = arrow.read_csv(
            path,
            read_options=arrow.ReadOptions(block_size=1 << 26),
            parse_options=arrow.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        raise unreadable(path, error, separator) from None
    frame = pl.DataFrame(pl.from_arrow(table.select([name for name in names if name not in STRAY])))
    if frame.height and any("\n" in (value or "") for value in frame.row(-1)):
        _check_closed(path, separator)
    return frame


def _check_closed(path: Path, separator: str) -> None:
    """Raise SourceError where a quote is opened and never closed: the rest of the file would be one field."""
    start = 1
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=separator, strict=True)
        try:
            for _ in rows:
                start = rows.line_num + 1
        except csv.Error as error:
            if rows.line_num and "end of data" in str(error):
                raise SourceError(
                    f"{path}: line {start}",
                    "a quote is opened and never closed",
                    found="the end of the file",
                    expected='"',
                    remedy="close it, or double a quote that is text",
                ) from None


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

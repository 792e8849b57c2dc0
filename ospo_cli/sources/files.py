"""Foreign files (Parquet, CSV, TSV, JSON lines) as frames; what is wrong with them is said with file and place."""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import polars as pl

from ospo_cli.errors import SourceError, first_line
from ospo_cli.sources import json_lines, quoted_lines
from ospo_cli.sources.opened import is_packed, kind, open_bytes, open_text, parts, stem
from ospo_cli.tables import parquet
from ospo_cli.tables.files import sha256_of

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_PIECE = 1 << 24
_NO_TEXT = {
    b"\x1f\x8b": "gzip, so .gz belongs to its name",
    b"\x28\xb5\x2f\xfd": "Zstandard, so .zst belongs to its name",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip file or an Excel workbook",
}
_STRAY = re.compile(r"|__index_level_0__|Unnamed: 0(\.\d+)*")  # what pandas leaves behind, once for each time that it wrote the table


def folder(root: Path, path: str, remedy: str) -> Path:
    """Return the data set's folder; raise SourceError where `path` is empty or there is no such folder."""
    if not path:
        raise SourceError("prepare_data.path", "is empty", expected="the folder of the data set", remedy=remedy)
    place = root / path
    if not place.is_dir():
        raise SourceError(place, "no such folder", expected="the folder of the data set (prepare_data.path)", remedy=remedy)
    return place


def find(place: Path, name: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Return the one file `name` + suffix in a folder, or None; raise SourceError where two would do.

    Suffixes may be in capitals and followed by .gz or .zst; a folder of such a name stands for its part files.
    """
    found = []
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if stem(path).lower() != name.lower() or kind(path) not in suffixes:
            continue
        if path.is_symlink() and not path.exists():
            raise SourceError(path, "is a link to a file that is not there", found=path.readlink(), expected="the file itself")
        if path.is_dir():
            parts(path)
        elif not path.is_file():  # reading a pipe would wait for ever
            raise SourceError(path, "is no file", found="a pipe, a socket or a device", expected="a file, or a folder of part files")
        found.append(path)
    if len(found) > 1:
        raise SourceError(
            place, f"two files for {name}", found=", ".join(path.name for path in found), expected="one", remedy="take one of them away"
        )
    return found[0] if found else None


def require(place: Path, name: str, suffixes: Sequence[str] = SUFFIXES, remedy: str | None = None) -> Path:
    """Return the one file `name` + suffix in a folder, as `find`; raise SourceError where there is none."""
    path = find(place, name, suffixes)
    if path is None:
        present = ", ".join(sorted(entry.name for entry in place.iterdir())) or "an empty folder"
        raise SourceError(
            place, f"{name} is missing", found=present, expected=" or ".join(f"{name}{suffix}" for suffix in suffixes), remedy=remedy
        )
    return path


def hashes(paths: Iterable[Path], place: Path) -> dict[str, str]:
    """Return file name relative to the folder -> SHA-256, sorted by name."""
    return {path.relative_to(place).as_posix(): sha256_of(path) for path in sorted(paths)}


def scan(path: Path, quoting: str = "standard") -> pl.LazyFrame:
    """Return the rows of a Parquet or CSV file lazily, for files that do not fit in memory; every column of CSV is text.

    CSV with quotes or a second byte order mark is read as `read` does, which knows what they may be.
    """
    is_delicate = kind(path) != ".parquet" and (quoting == "backslash" or _is_delicate(path))
    if path.is_dir() or is_packed(path) or kind(path) == ".jsonl" or is_delicate:
        return read(path, quoting=quoting).lazy()
    try:
        if kind(path) == ".parquet":
            lazy = parquet.scan(path)
        else:
            # Strips a byte order mark.
            lazy = pl.scan_csv(path, infer_schema=False, glob=False, separator="\t" if kind(path) == ".tsv" else ",", null_values="\\N")
        return lazy.drop([name for name in lazy.collect_schema().names() if _STRAY.fullmatch(name)])
    except parquet.UNREADABLE as error:
        raise unreadable(path, error) from None


def _is_delicate(path: Path) -> bool:
    # By pieces, so that a file of any length passes in a second or so per gigabyte.
    held = b""
    with contextlib.suppress(OSError), open(path, "rb") as stream:  # the reader says why
        while piece := stream.read(_PIECE):
            if b'"' in piece or b"\n\xef\xbb\xbf" in held[-3:] + piece:
                return True
            held = piece
    return False


def collect(lazy: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Return the rows of a lazy frame over one file; raise SourceError that names the broken line where it can be found."""
    try:
        return lazy.collect(engine="streaming")
    except parquet.UNREADABLE as error:
        raise unreadable(path, error) from None


def read(
    path: Path, columns: Sequence[str] = (), separator: str | None = None, remedy: str | None = None, quoting: str = "standard"
) -> pl.DataFrame:
    """Return a file's rows; every column of CSV and TSV is text, so that leading zeros survive.

    Args:
        path: Parquet, CSV, TSV or JSON lines, told by its suffix; packed text; or a folder of part files, read by name.
        columns: names that must be there.
        separator: of a CSV file, where it is not what the suffix says.
        remedy: what helps where a column is missing.
        quoting: of CSV and TSV, as prepare_data.quoting.

    Raises:
        SourceError: the file cannot be read, a quote swallows lines, the file lacks one of the columns, or its parts differ in theirs.
    """
    if path.is_dir():
        return _joined(path, [(part, read(part, columns, separator, remedy, quoting)) for part in parts(path)])
    if kind(path) == ".parquet" and is_packed(path):
        raise SourceError(path, "is Parquet in another packing", expected="Parquet, which packs its own columns", remedy="unpack it")
    if path.is_file() and path.stat().st_size == 0:
        raise unreadable(path, ValueError("no bytes"))
    try:
        if kind(path) == ".jsonl":
            frame = json_lines.read(path)
        elif kind(path) == ".parquet":
            frame = parquet.load(path)
        else:
            return _delimited(path, columns, separator or ("\t" if kind(path) == ".tsv" else ","), remedy, quoting)
    except parquet.UNREADABLE as error:
        raise unreadable(path, error) from None
    frame = frame.drop([name for name in frame.columns if _STRAY.fullmatch(name)])
    check_columns(frame.columns, columns, path, remedy)
    return frame


def _joined(path: Path, frames: Sequence[tuple[Path, pl.DataFrame]]) -> pl.DataFrame:
    first = frames[0][1].columns
    for part, frame in frames:
        if frame.columns != first:
            raise SourceError(
                path, "its parts differ in their columns", found=f"{part.name}: {', '.join(frame.columns)}", expected=", ".join(first)
            )
    try:
        return pl.concat([frame for _, frame in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise SourceError(path, "its parts differ in the types of a column", found=first_line(error)) from None


def names(path: Path, quoting: str = "standard") -> list[str]:
    """Return the names of a file's columns, as `read` gives them; raise SourceError where the file cannot be read."""
    if path.is_dir():
        return names(parts(path)[0], quoting)
    if kind(path) in (".parquet", ".jsonl"):
        return read(path).columns if kind(path) == ".jsonl" else list(parquet.schema(path))
    try:
        with open_text(path) as stream:  # which decodes what lies behind the header too
            return _header(stream, "\t" if kind(path) == ".tsv" else ",", quoting)
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise unreadable(path, error) from None


def empty_values(path: Path) -> int:
    """Return how many fields of a CSV or TSV file, or of its parts, are `\\N`, which `read` takes for empty; 0 for other files."""
    if path.is_dir():
        return sum(map(empty_values, parts(path)))
    return quoted_lines.empty_values(path, "\t" if kind(path) == ".tsv" else ",") if kind(path) in (".csv", ".tsv") else 0


def _header(stream: TextIO, separator: str, quoting: str) -> list[str]:
    return next(csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL), [])


def _delimited(path: Path, columns: Sequence[str], separator: str, remedy: str | None, quoting: str) -> pl.DataFrame:
    # Arrow's reader and not polars': a quote inside an unquoted field (5" screen) is text to it, and a short line an error.
    import pyarrow as pa
    from pyarrow import csv as arrow

    try:
        with open_bytes(path) as binary:
            begin = binary.read(1 << 16)
        if b"\r" in begin and b"\n" not in begin:
            raise SourceError(path, "lines end in a carriage return alone", expected="line feeds", remedy="save it with line ends of today")
        with open_text(path) as stream:
            names = _header(stream, separator, quoting)
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            raise SourceError(
                f"{path}: line 1", "column named twice", found=doubled[0], expected="each name once", remedy="rename one of them"
            )
        check_columns(names, columns, path, remedy)
        mended, records = None, None
        if quoting == "standard":
            mended, records = quoted_lines.mended(path, separator, len(names))
        elif quoting == "backslash":
            mended = quoted_lines.unescaped(path, separator)
        table = arrow.read_csv(
            pa.BufferReader(mended) if mended is not None else open_bytes(path) if is_packed(path) else path,
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
    frame = pl.DataFrame(pl.from_arrow(table.select([name for name in names if not _STRAY.fullmatch(name)])))
    _check_joined(frame, path)
    # How MySQL writes NULL. Under `backslash` what reads \N now was written \\N, which is text.
    return frame.with_columns(pl.all().replace(quoted_lines.NULL if quoting == "backslash" else "\\N", None))


def _check_joined(frame: pl.DataFrame, path: Path) -> None:
    """Raise SourceError where a second file begins within this one: at a byte order mark, or at a copy of the header."""
    if not frame.width:
        return
    first = frame.to_series(0)
    begins = (first.str.strip_prefix("\ufeff") == frame.columns[0]).fill_null(False)
    if begins.any():
        begins = frame.select(pl.all_horizontal([pl.col(name).str.strip_prefix("\ufeff") == name for name in frame.columns])).to_series()
    begins = (begins | first.str.starts_with("\ufeff")).fill_null(False)
    if begins.any():
        row = int(begins.arg_true()[0]) + 1
        raise SourceError(
            f"{path}: row {row}",
            "another file begins here: files were joined end to end",
            found="a byte order mark" if first[row - 1].startswith("\ufeff") else "the header once more",
            expected="one header, in the first line",
            remedy="join the files without their headers and marks, or put them into a folder of this name as part files",
        )


def check_columns(present: Sequence[str], needed: Sequence[str], path: Path, remedy: str | None = None) -> None:
    """Raise SourceError where a needed column is missing; says so when the separator looks wrong."""
    missing = [name for name in needed if name not in present]
    if not missing:
        return
    if kind(path) in (".csv", ".tsv") and len(present) == 1:
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
    shape = {".parquet": "Parquet", ".jsonl": "JSON lines"}.get(kind(path), "delimited text")
    if not path.is_file():
        return SourceError(path, "no such file", expected=shape)
    if path.stat().st_size == 0:
        return SourceError(path, "is empty", found="0 bytes", expected=shape, remedy="restore the file")
    with open(path, "rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            return SourceError(
                path,
                "is a git-lfs pointer, not the file",
                expected=shape,
                remedy="run `git lfs pull` in the clone, or download the file itself",
            )
    where, found = str(path), first_line(error)
    if kind(path) == ".jsonl":
        where, found = json_lines.broken(path) or (where, found)
    elif kind(path) in (".csv", ".tsv"):
        where, found = _broken_line(path, separator or ("\t" if kind(path) == ".tsv" else ",")) or (where, found)
    remedy = "the file was cut short or is of another kind: fetch or export it again"
    if kind(path) != ".parquet":
        other = _other_encoding(path)
        remedy = f"export it as text in UTF-8: it looks like {other}" if other else "mend the line or export the file again"
    elif "more than one" in found or "more than once" in found:
        remedy = "rename one of the columns"
    return SourceError(
        where, f"cannot be read as {shape}", found=found, expected=f"{shape} in UTF-8" if kind(path) != ".parquet" else shape, remedy=remedy
    )


def _other_encoding(path: Path) -> str:
    """Return which encoding a text is in that is no UTF-8, or what it is in place of text; an empty text where it cannot be told."""
    with open_bytes(path) as stream:
        begin = stream.read(1 << 16)
    if other := next((name for magic, name in _NO_TEXT.items() if begin.startswith(magic)), ""):
        return other
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        begin.decode("utf-8")
    except UnicodeDecodeError as error:  # a letter that is cut at the end of what was read is none
        return "Latin-1 or Windows-1252" if error.start < len(begin) - 4 else ""
    return ""


def _broken_line(path: Path, separator: str) -> tuple[str, str] | None:
    start = 1
    try:
        with open_text(path) as stream:
            rows = csv.reader(stream, delimiter=separator)
            width = len(next(rows, []))
            start = rows.line_num + 1
            for row in rows:
                if row and len(row) != width:
                    return f"{path}: line {start}", f"{len(row)} fields where the header has {width}"
                start = rows.line_num + 1
    except UnicodeDecodeError:
        with open_bytes(path) as binary:
            for number, line in enumerate(binary, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as failure:
                    return f"{path}: line {number}", f"bytes that are not UTF-8 ({failure.reason})"
    except csv.Error as error:
        return f"{path}: line {start}", str(error)
    return None

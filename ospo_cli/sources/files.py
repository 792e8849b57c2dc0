"""Foreign files (Parquet, CSV, TSV, JSON lines) as frames; what is wrong with them is said with file and place."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import polars as pl

from ospo_cli.errors import SourceError, first_line
from ospo_cli.sources import quoted_lines
from ospo_cli.sources.opened import is_packed, kind, open_bytes, open_text, parts, stem
from ospo_cli.tables import parquet
from ospo_cli.tables.files import sha256_of

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
_LOOKED_THROUGH = 1000  # lines
_FIRST_ROWS = 100  # of JSON lines, in which objects within values are looked for before all are read
STRAY = ("__index_level_0__", "Unnamed: 0", "")  # what pandas leaves behind


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


def scan(path: Path) -> pl.LazyFrame:
    """Return the rows of a Parquet or CSV file lazily, for files that do not fit in memory; every column of CSV is text."""
    if path.is_dir() or is_packed(path) or kind(path) == ".jsonl":
        return read(path).lazy()
    try:
        if kind(path) == ".parquet":
            lazy = parquet.scan(path)
        else:
            lazy = pl.scan_csv(path, infer_schema=False, glob=False)  # strips a byte order mark
        return lazy.drop([name for name in lazy.collect_schema().names() if name in STRAY])
    except parquet.UNREADABLE as error:
        raise unreadable(path, error) from None


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
            frame = _json_lines(path)
        elif kind(path) == ".parquet":
            frame = parquet.load(path)
        else:
            return _delimited(path, columns, separator or ("\t" if kind(path) == ".tsv" else ","), remedy, quoting)
    except parquet.UNREADABLE as error:
        raise unreadable(path, error) from None
    frame = frame.drop([name for name in frame.columns if name in STRAY])
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
    """Return the names of a file's columns, as `read` gives them."""
    if path.is_dir():
        return names(parts(path)[0], quoting)
    if kind(path) in (".parquet", ".jsonl"):
        return read(path).columns if kind(path) == ".jsonl" else list(parquet.schema(path))
    with open_text(path) as stream:
        return _header(stream, "\t" if kind(path) == ".tsv" else ",", quoting)


def empty_values(path: Path) -> int:
    """Return how many fields of a CSV or TSV file, or of its parts, are `\\N`, which `read` takes for empty; 0 for other files."""
    if path.is_dir():
        return sum(map(empty_values, parts(path)))
    return quoted_lines.empty_values(path, "\t" if kind(path) == ".tsv" else ",") if kind(path) in (".csv", ".tsv") else 0


def _header(stream: TextIO, separator: str, quoting: str) -> list[str]:
    return next(csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL), [])


def _json_lines(path: Path) -> pl.DataFrame:
    with open_text(path, errors="replace") as stream:  # an exporter that names a column twice does so in every row
        for number, line in enumerate(itertools.islice(stream, _LOOKED_THROUGH), 1):
            if doubled := _doubled_name(line):
                raise SourceError(f"{path}: line {number}", "a name occurs twice in an object", found=doubled, expected="each name once")
    content = _without_mark(path)
    try:
        if not _nests(pl.read_ndjson(_first_lines(path), infer_schema_length=None)):
            frame = pl.read_ndjson(content, infer_schema_length=None)
            if not _nests(frame):
                return frame
        return pl.read_ndjson(_flattened(path), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        if "supertype" not in str(error):
            raise
    # One name stands for values of several shapes: those become JSON, as text.
    rows = [json.loads(line) for line in open_text(path).read().split("\n") if line.strip()]
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


def _doubled_name(line: str) -> str:
    doubled: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        doubled.extend(name for name in found if len(found) < len(pairs) and sum(name == other for other, _ in pairs) > 1)
        return found

    try:
        json.loads(line, object_pairs_hook=note)
    except (ValueError, RecursionError):
        return ""  # the reader says what is wrong
    return doubled[0] if doubled else ""


def _first_lines(path: Path) -> bytes:
    # By hand: polars parses more than n_rows, under the types of these.
    with open_bytes(path) as stream:
        return b"".join(itertools.islice(stream, _FIRST_ROWS)).removeprefix(b"\xef\xbb\xbf")


def _nests(frame: pl.DataFrame) -> bool:
    return any("Struct" in str(dtype) for dtype in frame.dtypes)


def _flattened(path: Path) -> bytes:
    """Return the lines with each object within a value as JSON text: a product has few of the attributes that all products have together,
    and as a struct it would hold a null for each of the others."""
    lines = []
    with open_text(path) as stream:
        for line in stream:
            try:
                row = json.loads(line, parse_constant=_no_json) if line.strip() else None
            except RecursionError:
                raise ValueError("lists or objects nested too deep") from None
            if isinstance(row, dict):
                row = {name: _compact(value) if _holds_object(value) else value for name, value in row.items()}
            lines.append("" if row is None else _compact(row))
    return "\n".join(lines).encode()


def _holds_object(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_object, value)))


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_mark(path: Path) -> Path | bytes:
    """Return the path, or bytes where polars cannot take it: packed, or with a byte order mark, which its JSON reader does not know."""
    with open_bytes(path) as stream:
        has_mark = stream.read(3) == b"\xef\xbb\xbf"
        stream.seek(3 if has_mark else 0)
        return stream.read() if has_mark or is_packed(path) else path


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
    frame = pl.DataFrame(pl.from_arrow(table.select([name for name in names if name not in STRAY])))
    # How MySQL writes NULL. Under `backslash` what reads \N now was written \\N, which is text.
    return frame.with_columns(pl.all().replace(quoted_lines.NULL if quoting == "backslash" else "\\N", None))


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
        where, found = _broken_json(path) or (where, found)
    elif kind(path) in (".csv", ".tsv"):
        where, found = _broken_line(path, separator or ("\t" if kind(path) == ".tsv" else ",")) or (where, found)
    remedy = "the file was cut short or is of another kind: fetch or export it again"
    if kind(path) != ".parquet":
        remedy = (
            f"export it as UTF-8: it looks like {other}" if (other := _other_encoding(path)) else "mend the line or export the file again"
        )
    elif "more than one" in found or "more than once" in found:
        remedy = "rename one of the columns"
    return SourceError(
        where, f"cannot be read as {shape}", found=found, expected=f"{shape} in UTF-8" if kind(path) != ".parquet" else shape, remedy=remedy
    )


def _other_encoding(path: Path) -> str:
    """Return which encoding a text is in that is no UTF-8; an empty text where it cannot be told."""
    with open_bytes(path) as stream:
        begin = stream.read(1 << 16)
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    try:
        begin.decode("utf-8")
    except UnicodeDecodeError as error:  # a letter that is cut at the end of what was read is none
        return "Latin-1 or Windows-1252" if error.start < len(begin) - 4 else ""
    return ""


def _broken_json(path: Path) -> tuple[str, str] | None:
    with open_bytes(path) as stream:
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

"""JSON lines as a frame: also where values have several shapes, and where a product names few of the attributes that all have together."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.sources.opened import is_packed, open_bytes, open_text

_LOOKED_THROUGH = 1000  # lines
_FIRST_ROWS = 100  # in which objects within values are looked for before all are read


def read(path: Path) -> pl.DataFrame:
    """Return the rows; a name whose values have several shapes, or hold objects, becomes JSON as text.

    Raises:
        SourceError: a line names something twice.
        ValueError, PolarsError, OSError: it cannot be read; `broken` says where.
    """
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
    except pl.exceptions.PolarsError:
        if broken(path):
            raise
    # One name stands for values of several shapes: those become JSON, as text.
    rows = [json.loads(line) for line in open_text(path).read().split("\n") if line.strip()]
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        is_mixed = len({type(value) for value in values if value is not None}) > 1 or any(isinstance(value, dict) for value in values)
        try:
            found[name] = pl.Series(name, _as_texts(values) if is_mixed else values)
        except (pl.exceptions.PolarsError, TypeError):  # lists of several shapes
            found[name] = pl.Series(name, _as_texts(values))
    return pl.DataFrame(list(found.values()))


def _as_texts(values: Sequence[object]) -> list[str | None]:
    return [value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True) for value in values]


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


def broken(path: Path) -> tuple[str, str] | None:
    """Return (file and line, what is wrong) of the first line that is no object in JSON; None where all are."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=_no_json) if line.strip() else {}
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

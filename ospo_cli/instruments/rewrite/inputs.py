"""Queries of a file: text, CSV, TSV, JSON lines or Parquet; what a single row holds is never an error of the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.rewriting.rewriter import Asked
from ospo_cli.sources import files
from ospo_cli.sources.opened import kind, read_bytes

FORMATS = ("text", "csv", "tsv", "jsonl", "parquet")


@dataclass(frozen=True)
class Queries:
    """What a file asks, row by row; ids where it has a column query_id."""

    asked: list[Asked]
    ids: list[str | None] | None


def format_of(path: Path) -> str:
    """Return the format that a file's suffix tells, whatever its packing; text where it tells none."""
    found = kind(path).removeprefix(".")
    return found if found in FORMATS else "text"


def read(path: Path, form: str, query_column: str, history_column: str) -> Queries:
    """Return the queries of a file.

    Args:
        path: the file.
        form: one of FORMATS.
        query_column: name of the column of queries (not of a text file, which holds one query a line).
        history_column: name of the column of past titles, text or a list of texts; it may be missing.

    Raises:
        SourceError: the file cannot be read, or has no such column.
    """
    if not path.exists():
        raise SourceError(path, "no such file", expected="a file of queries")
    if form == "text":
        return Queries([Asked(line) for line in lines(read_bytes(path))], None)
    if kind(path) != f".{form}":  # the readers tell formats by the suffix
        raise SourceError(path, f"is no {form} by its suffix", found=path.name, expected=f"a name that ends in .{form}", remedy="rename it")
    frame = files.read(path, (query_column,), remedy="name the column with --query-column")
    histories = frame[history_column].to_list() if history_column in frame.columns else [None] * frame.height
    ids = [None if value is None else str(value) for value in frame["query_id"].to_list()] if "query_id" in frame.columns else None
    rows = zip(_texts(frame[query_column], path), histories, strict=True)
    return Queries([Asked(query, titles(history)) for query, history in rows], ids)


def lines(content: bytes) -> list[str]:
    """Return the lines of a text file, one query each; bytes that are not UTF-8 become U+FFFD."""
    parts = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    return [part.removesuffix(b"\r").decode("utf-8", errors="replace") for part in parts]


def line_asked(line: str, form: str, query_column: str, history_column: str) -> Asked | None:
    """Return what one line of a stream asks; None where it should be a JSON object with a query and is not."""
    if form == "text":
        return Asked(line)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get(query_column), str):
        return None
    return Asked(_valid(row[query_column]), titles(row.get(history_column)))


def titles(history: object) -> tuple[str, ...]:
    """Return past titles from a list of texts, or from one text; anything else holds none."""
    if isinstance(history, str):
        return (_valid(history),) if history.strip() else ()
    if isinstance(history, (list, tuple, pl.Series)):
        return tuple(_valid(title) for title in history if isinstance(title, str) and title.strip())
    return ()


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can spell half of a surrogate pair


def _texts(series: pl.Series, path: Path) -> list[str]:
    if series.dtype not in (pl.String, pl.Null, pl.Categorical, pl.Enum) and not series.dtype.is_numeric():
        raise SourceError(f"{path}: column {series.name}", "wrong type", found=series.dtype, expected="text")
    values: list[Any] = series.cast(pl.String).to_list()
    return ["" if value is None else value for value in values]

"""Rewrites as Parquet, CSV, JSON lines or plain text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import OspoError, shorten
from ospo_cli.instruments.rewrite.inputs import format_of
from ospo_cli.rewriting.rewriter import Rewrite
from ospo_cli.tables import files, parquet
from ospo_cli.tables.rewrite import with_columns
from ospo_cli.text.prompt_template import one_line

FORMATS = ("jsonl", "text", "csv", "parquet")


def format_for(path: Path | None, named: str) -> str:
    """Return the format to write: the named one, else what the suffix tells, else JSON lines; raise OspoError for an unknown one."""
    kind = named or ("jsonl" if path is None else format_of(path))
    if kind not in FORMATS:
        raise OspoError("--as", "unknown format", found=kind, expected=", ".join(FORMATS))
    if kind == "parquet" and path is None:
        raise OspoError("--as parquet", "needs a file", expected="--out FILE.parquet")
    return kind


def fields(rewrite: Rewrite) -> dict[str, Any]:
    """Return a rewrite by the columns of table rewrites."""
    best = [vars(one) for one in rewrite.best]
    return vars(rewrite) | {"is_used": rewrite.is_used, "best": best}


def write(frame: pl.DataFrame, path: Path, kind: str) -> None:
    """Write a table of rewrites whole or not at all; equal frames give equal bytes."""
    if kind == "parquet":
        parquet.write(frame, path, with_columns(frame.columns))
        return
    with files.replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        write_text(frame, stream.write, kind, is_terminal=False)


def write_text(frame: pl.DataFrame, write: Callable[[str], object], kind: str, is_terminal: bool) -> None:
    """Write a table of rewrites as text."""
    if kind == "csv":
        nested = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
        flat = frame.with_columns(
            pl.Series(name, [json.dumps(value, ensure_ascii=False) for value in frame[name].to_list()], dtype=pl.String) for name in nested
        )
        write(flat.write_csv())
        return
    for row in frame.iter_rows(named=True):
        write(line(row, kind, is_terminal))


def line(row: dict[str, Any], kind: str, is_terminal: bool) -> str:
    """Return one row as a line: a JSON object, or what the search engine is given; on a terminal nothing but printable characters."""
    if kind == "text":
        text = one_line(row["engine_query"])
        return (shorten(text, len(text) + 1) if is_terminal else text) + "\n"
    return json.dumps(row, ensure_ascii=is_terminal) + "\n"

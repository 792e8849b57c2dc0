"""Judgments as lines of text: TREC's qrels, with tabs or blanks, of four fields or three; and RankLib's or LETOR's feature lines."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.sources import files
from ospo_cli.sources.opened import read_bytes

# MS MARCO and BEIR name their columns in a first line; BEIR has no second field.
HEADERS = ("query-id", "query_id", "qid", "topic")
_LETOR = r"^\s*(?<grade>\S+)\s+qid:(?<query_id>\S+)\s[^#]*#\s*(?:docid\s*=\s*)?(?<product_id>\S+)"


def read(path: Path) -> pl.DataFrame:
    """Return query_id, product_id and grade (all text) of each line.

    `qid 0 docid grade` (TREC), `qid docid grade` (BEIR), or `grade qid:1 1:.5 2:.3 # docid` (RankLib, LETOR; the features are not read,
    `# docid = X inc = …` is understood). Empty lines, and for feature lines those that are a comment alone, say nothing.

    Raises:
        SourceError: the file cannot be read, or a line is none of these; names the line.
    """
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise files.unreadable(path, error) from None
    numbered = pl.DataFrame({"number": range(1, len(lines) + 1), "line": lines}, schema={"number": pl.Int64, "line": pl.String})
    numbered = numbered.filter(pl.col("line").str.strip_chars() != "")
    has_features = bool(numbered["line"].str.contains(r"^\s*[^\s#]+\s+qid:").any())
    return _feature_lines(numbered, path) if has_features else _qrels(numbered, path)


def _feature_lines(numbered: pl.DataFrame, path: Path) -> pl.DataFrame:
    said = numbered.filter(~pl.col("line").str.contains(r"^\s*#"))
    found = said.with_columns(pl.col("line").str.extract_groups(_LETOR).alias("groups")).unnest("groups")
    wrong = found.filter(pl.col("product_id").is_null())
    if wrong.height:
        raise SourceError(
            f"{path}: line {wrong['number'][0]}", "no judgment with features", found=wrong["line"][0],
            expected="grade qid:ID features # product id",
        )  # fmt: skip
    return found.select("query_id", "product_id", "grade")


def _qrels(numbered: pl.DataFrame, path: Path) -> pl.DataFrame:
    fields = numbered.with_columns(pl.col("line").str.extract_all(r"\S+"))
    if fields.height and fields["line"][0][0].lower() in HEADERS:
        fields = fields.slice(1)
    width = 3 if fields.height and len(fields["line"][0]) == 3 else 4
    wrong = fields.filter(pl.col("line").list.len() != width)
    if wrong.height:
        number, found = wrong.row(0)
        raise SourceError(
            f"{path}: line {number}", "wrong number of fields", found=f"{len(found)} ({' '.join(found)})",
            expected="4: query id, 0, product id, grade" if width == 4 else "3, as the first line: query id, product id, grade",
        )  # fmt: skip
    places = {"query_id": 0, "product_id": width - 2, "grade": width - 1}
    return fields.select(pl.col("line").list.get(place).alias(name) for name, place in places.items())

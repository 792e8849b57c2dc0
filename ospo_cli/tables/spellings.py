"""Spellings of a query that a source counts as one: a policy is asked in one of them, in training as when it serves."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl


def folded(query: pl.Expr) -> pl.Expr:
    """Return queries without capitals, with one blank for each run of blanks and none at the ends."""
    return in_line(query).str.to_lowercase()


def in_line(query: pl.Expr) -> pl.Expr:
    """Return queries with one blank for each run of blanks and none at the ends."""
    return query.str.strip_chars().str.replace_all(r"\s+", " ")


def fold(queries: Sequence[str]) -> list[str]:
    """Return the queries as `folded` makes them.

    >>> fold(["BLACK  Skillet ", "ΟΔΟΣ"])
    ['black skillet', 'οδος']
    """
    found: list[str] = pl.select(folded(pl.lit(pl.Series(queries, dtype=pl.String)))).to_series().to_list()
    return found

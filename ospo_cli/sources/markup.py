"""HTML of product descriptions as plain text, by column."""

from __future__ import annotations

import html

import polars as pl


def plain(series: pl.Series) -> pl.Series:
    """Return text without comments, scripts and tags, entities decoded, blanks collapsed; a `<` that opens no tag stays (5 < 7)."""
    # (?is): any case, and a dot that crosses lines. A tag starts with a letter, a slash or an exclamation mark.
    text = series.cast(pl.String).fill_null("")
    text = text.str.replace_all(r"(?is)<!--.*?-->|<(?:script|style)\b.*?</(?:script|style)\s*>", " ")
    text = text.str.replace_all(r"(?s)</?[A-Za-z!][^<>]*>", " ")
    has_entity = text.str.contains(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
    if has_entity.any():
        decoded = text.filter(has_entity).map_elements(html.unescape, return_dtype=pl.String)  # only the few rows that hold an entity
        rows = has_entity.arg_true()
        text = text.scatter(rows, decoded)
    return text.str.replace_all(r"[\s\x{a0}]+", " ").str.strip_chars()

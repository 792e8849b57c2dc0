"""HTML in texts of a data set: descriptions as plain text, and entities, by column."""

from __future__ import annotations

import dataclasses
import html
import re

import polars as pl

from ospo_cli.sources.base import SourceData

_ENTITY = r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);"


def plain(series: pl.Series) -> pl.Series:
    """Return text without comments, scripts and tags, entities decoded, blanks collapsed; a `<` that opens no tag stays (5 < 7)."""
    # (?is): any case, and a dot that crosses lines. A tag starts with a letter, a slash or an exclamation mark.
    text = series.cast(pl.String).fill_null("")
    text = text.str.replace_all(r"(?is)<!--.*?-->|<(?:script|style)\b.*?</(?:script|style)\s*>", " ")
    text = text.str.replace_all(r"(?s)</?[A-Za-z!][^<>]*>", " ")
    has_entity = text.str.contains(_ENTITY)
    if has_entity.any():
        decoded = text.filter(has_entity).map_elements(html.unescape, return_dtype=pl.String)  # only the few rows that hold an entity
        rows = has_entity.arg_true()
        text = text.scatter(rows, decoded)
    return text.str.replace_all(r"[\s\x{a0}]+", " ").str.strip_chars()


def decoded(text: str) -> str:
    """Return the text with its HTML entities decoded, once; what only looks like one (`R&D;`, `?a=1&para=2`) stays.

    >>> decoded("Marks &amp; Spencer&#39;s &amp;amp; R&D; a&para=2")
    "Marks & Spencer's &amp; R&D; a&para=2"
    """
    return re.sub(_ENTITY, lambda entity: html.unescape(entity[0]), text)


def entities_read(data: SourceData, setting: str) -> SourceData:
    """Return the data with the entities of its texts decoded (`decode`), or as it is (`keep`); a note of the card says how many there are.

    Texts are the String columns of documents but doc_id, queries, and titles in histories; a teacher's completions stay.
    """
    documents = {name: _changes(data.documents[name]) for name, dtype in data.documents.schema.items() if dtype == pl.String}
    documents.pop("doc_id", None)
    queries, titles = _changes(data.prompts["query"]), _changes(data.prompts["history"].explode())
    found = documents | {"query": queries, "history": titles}
    said = ", ".join(f"{len(changes):,} of {name}" for name, changes in found.items() if changes)
    if setting == "keep" and not said:
        return data
    verb = "decoded in" if setting == "decode" else "kept as they stand (decode reads them) in"
    note = f"prepare_data.html_entities: {verb} {said or 'no'} distinct texts"
    data = dataclasses.replace(data, card={**data.card, "notes": [*data.card.get("notes", []), note]})
    if setting == "keep":
        return data
    return dataclasses.replace(
        data,
        documents=data.documents.with_columns(pl.col(name).replace(changes) for name, changes in documents.items() if changes),
        prompts=data.prompts.with_columns(
            pl.col("query").replace(queries), pl.col("history").list.eval(pl.element().cast(pl.String).replace(titles))
        ),
    )


def _changes(texts: pl.Series) -> dict[str, str]:
    # Distinct texts that hold an entity -> decoded.
    held = texts.cast(pl.String).unique().drop_nulls()
    return {text: changed for text in held.filter(held.str.contains(_ENTITY)).sort().to_list() if (changed := decoded(text)) != text}

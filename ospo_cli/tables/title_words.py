"""The words of the catalogue's titles, which guessed grades of a click log and a teacher made from the catalogue both read."""

from __future__ import annotations

import polars as pl

from ospo_cli.text.shared_words import Texts


def title_texts(documents: pl.DataFrame) -> Texts:
    """Return the words of title and category of each row of table documents."""
    return Texts(documents.select(pl.concat_str("title", "category", separator=" ", ignore_nulls=True)).to_series().to_list())

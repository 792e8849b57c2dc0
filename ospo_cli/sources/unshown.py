"""Grades of products that a query's shoppers were never shown, guessed from the words that the clicked titles share.

A log judges what the engine showed. To a rewrite that finds other products it therefore gives nothing, however good they are. What was
clicked for a query mostly has words in common (`swim shorts` for `badehose`); a product with all of them is taken to be as good as the
shown ones that have them are on average.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from ospo_cli.text.shared_words import Texts

FEWEST = 3  # products with a grade above 0, and shown products with all shared words
MOST = 2000  # products that get a grade from one query: a query for half of the catalogue needs no guess
PRIOR = 1.0  # products of grade 0 that the mean is drawn to


def guessed(judged: pl.DataFrame, documents: pl.DataFrame, titles: Texts) -> pl.DataFrame:
    """Return grades of products that were not judged for a query: rows of the same columns, none of which is there.

    Args:
        judged: key, doc_id, relevance (whole grades from 0); of one period.
        documents: the catalogue, which holds every doc_id.
        titles: its `title_texts`.
    """
    ids: list[str] = documents["doc_id"].to_list()
    row_of = {doc_id: row for row, doc_id in enumerate(ids)}
    found: list[tuple[str, str, float]] = []
    for (key,), own in judged.sort("key", "doc_id").group_by("key", maintain_order=True):
        rows, grades = [row_of[doc_id] for doc_id in own["doc_id"]], own["relevance"].to_list()
        shared = titles.shared(rows, grades) if sum(grade > 0 for grade in grades) >= FEWEST else []
        alike = [grade for row, grade in zip(rows, grades, strict=True) if titles.words[row].issuperset(shared)]
        grade = float(np.floor(sum(alike) / (len(alike) + PRIOR)))
        if not shared or len(alike) < FEWEST or grade < 1:
            continue
        having = titles.having(shared)
        if len(having) <= MOST:
            found += [(str(key), ids[row], grade) for row in np.setdiff1d(having, rows).tolist()]
    return pl.DataFrame(found, schema=judged.schema, orient="row")

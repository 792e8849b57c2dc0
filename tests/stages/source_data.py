"""Source data in memory, as a data set's reader returns it."""

import numpy as np
import polars as pl

from ospo_cli.sources.base import SourceData
from ospo_cli.tables.prepared import QRELS


def data(queries, splits=None, histories=None, documents=60, judged=None, **rest):
    """Return source data of so many documents in three categories; query i is about document i unless `judged` says otherwise."""
    count = len(queries)
    names = [f"d{number:03d}" for number in range(documents)]
    colours = ["red", "blue", "green", "grey", "black"]
    frame = {
        "doc_id": names,
        "title": [f"{colours[n % 5]} thing {n // 5}" for n in range(documents)],
        "category": [f"c{n % 3}" for n in range(documents)],
    }
    pairs = judged if judged is not None else [(f"q{number:04d}", names[number % documents], 1.0) for number in range(count)]
    return SourceData(
        documents=pl.DataFrame(frame),
        prompts=pl.DataFrame(
            {
                "prompt_id": [f"q{number:04d}" for number in range(count)],
                "split": splits or [None] * count,
                "query": queries,
                "history": histories or [[]] * count,
            },
            schema={"prompt_id": pl.String, "split": pl.String, "query": pl.String, "history": pl.List(pl.String)},
        ),
        qrels=pl.DataFrame(pairs, schema=QRELS.schema, orient="row"),
        **rest,
    )


def distinct_queries(count, seed=0):
    return ["".join(chr(97 + letter) for letter in np.random.default_rng([seed, number]).integers(0, 26, 12)) for number in range(count)]

"""Small catalogues with known words, and slow obvious ways to rank them."""

import numpy as np
import polars as pl

from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers import RETRIEVERS
from ospo_cli.retrievers.opening import build

# Those that count words, and with dense and hybrid all that rank here, without a server.
LEXICAL = [name for name in RETRIEVERS if name not in ("dense", "hybrid", "http", "checker")]
LOCAL = [*LEXICAL, "dense", "hybrid"]


def documents(titles, **fields):
    """Return table documents; ids d000, d001, … in the order of the titles."""
    columns = {"doc_id": [f"d{index:03d}" for index in range(len(titles))], "title": list(titles), "category": [""] * len(titles), **fields}
    return pl.DataFrame(columns, schema_overrides=dict.fromkeys(columns, pl.String))


def random_titles(seed, count, vocabulary=120, length=14):
    """Return titles of words w0, w1, …: the smaller the number, the more frequent; none in more than half of them."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(8, vocabulary + 8)
    sizes = rng.integers(1, 2 * length, size=count)
    return [" ".join(f"w{word}" for word in rng.choice(vocabulary, size=size, p=weights / weights.sum())) for size in sizes]


def random_queries(seed, count, vocabulary=120):
    """Return queries of one to eight words, some repeated, some unknown."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in rng.integers(0, vocabulary + 20, size=rng.integers(1, 9))) for _ in range(count)]


def retriever(name, table, tmp_path, **settings):
    """Return the named retriever over the table."""
    return build(name, table, Retrieval(**settings), tmp_path)


def scores(ranking, count):
    """Return float64[count], 0 for what was not retrieved."""
    found = np.zeros(count)
    found[ranking.documents] = ranking.scores
    return found

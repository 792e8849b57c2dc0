"""Rewrites of head queries as a synonym file: one explicit mapping a line (Solr's format, which Elasticsearch reads too).

python docs/examples/head_queries.py rewrites.parquet > rewrites.txt
"""

import sys

import polars as pl


def lines(rewrites: pl.DataFrame) -> list[str]:
    """Return `raw query => what the search engine is given` of each distinct query whose rewrite is used."""
    used = rewrites.filter(pl.col("is_used")).unique("query", keep="first", maintain_order=True)
    pairs = used.select("query", "engine_query").iter_rows()
    return [f"{_term(query)} => {_term(rewrite)}" for query, rewrite in pairs if _term(query) and _term(rewrite)]


def _term(text: str) -> str:
    # A comma parts synonyms, => parts the two sides, # begins a comment, and a backslash escapes.
    text = " ".join(text.replace("\\", " ").replace("=>", " ").replace(",", " ").split())
    return text.lstrip("# ")


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines(pl.read_parquet(sys.argv[1]))) + "\n")

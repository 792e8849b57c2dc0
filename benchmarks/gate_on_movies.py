"""A project in which rewriting harms many: a tiny policy, warm-started from nothing on 1,400 real movie queries, to try a gate on.

    python benchmarks/gate_on_movies.py MSRD FOLDER && cd FOLDER
    ospo prepare-data && ospo warm-start && ospo gate            # and ospo gate --without-search, ospo gate --bound 0.05

MSRD is the Movie Search Ranking Dataset (Metarank Labs, CC BY-SA 4.0) as products, queries and judgments; of its queries 1,400 are drawn
for train, 3,000 for dev and 3,000 for test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli import presets
from ospo_cli.layout import Layout
from ospo_cli.params import whole

SPLITS = {"train": 1400, "dev": 3000, "test": 3000}
SETTINGS = {
    "train": {"iterations": 0},
    "prepare_data": {"prompt_template": "Movie search: {query}"},
    "retrieval": {"fields": ["title", "description", "genres", "tags", "director", "actors", "characters"]},
    "warm_start": {"title_fields": ["genres", "actors"], "steps": 400, "batch_size": 16, "max_epochs": 0.0},
    "rollout": {"max_new_tokens": 32},
    "evaluate": {
        "max_prompts": 0, "samples": 0, "temperatures": [], "choose_on": "none", "oracle_edits": 0, "retrievers": ["bm25", "tfidf-char"],
    },
}  # fmt: skip


def main() -> None:
    """Write the project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    presets.init(arguments.folder, "tables")
    content = whole.to_mapping(presets.load("tables"))
    for section, values in SETTINGS.items():
        content[section].update(values)
    Layout(arguments.folder).params.write_text(presets.render(whole.from_mapping(content)), encoding="utf-8")
    catalogue = arguments.folder / "catalogue"
    catalogue.mkdir()
    queries = pl.read_parquet(arguments.data / "queries.parquet").sort("query_id")
    order = np.random.default_rng(0).permutation(queries.height)[: sum(SPLITS.values())].tolist()
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    queries = queries[order].with_columns(split=pl.Series(splits))
    queries.write_parquet(catalogue / "queries.parquet")
    judged = pl.read_parquet(arguments.data / "judgments.parquet").filter(pl.col("query_id").is_in(queries["query_id"].to_list()))
    judged.drop("label").write_parquet(catalogue / "judgments.parquet")
    pl.read_parquet(arguments.data / "products.parquet").drop("votes", "rating", "popularity").write_parquet(catalogue / "products.parquet")


if __name__ == "__main__":
    main()

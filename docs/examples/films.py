"""Real films with several attributes, and synthetic needs made by rule: products, queries and judgments for `source: tables`.

    pip install --no-deps bokeh-sampledata==2026.1      # its movies.db is of Wikidata, CC0
    python docs/examples/films.py films                 # or: films --database movies.db
    ospo init shop --preset tables                      # prepare_data.path: ../films

A need is drawn from a film: a genre in a viewer's word, two or three of country, decade, director and actor, people by their last name
alone. Relevant are all films that have everything the need states. Nobody typed these queries: say "synthetic" wherever results stand.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections import defaultdict
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl

SAID = {  # catalogue's word -> viewer's
    "Action": "fights", "Adventure": "a journey", "Animation": "cartoon", "Biography": "about a life", "Comedy": "funny",
    "Crime": "gangsters", "Documentary": "true facts", "Drama": "moving", "Family": "for children", "Fantasy": "magic",
    "History": "the past", "Horror": "scary", "Music": "songs", "Mystery": "who did it", "Romance": "love", "Sci-Fi": "future",
    "Sport": "games", "Thriller": "tense", "War": "soldiers", "Western": "cowboys", "United States": "american",
    "United Kingdom": "british", "France": "french", "Canada": "canadian", "Japan": "japanese", "Australia": "australian",
    "India": "indian", "Italy": "italian", "Germany": "german", "Spain": "spanish",
}  # fmt: skip
ATTRIBUTES = ("genre", "director", "cast", "language", "country")
QUERY = 'select ID, Title, Year, Genre, Director, "Cast", Language, Country from omdb'
MOST_RELEVANT = 20


def films(database: Path) -> pl.DataFrame:
    """Return product_id, title, year and the five attributes, which are lists joined by ", ", of films that have all of them."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(QUERY).fetchall()
    names = ["product_id", "title", "year", *ATTRIBUTES]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row", strict=False).unique("product_id").sort("product_id")
    return frame.filter(*(pl.col(name).fill_null("").str.strip_chars() != "" for name in names))


def needs(table: pl.DataFrame, count: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return queries (query_id, query) and judgments (query_id, product_id, grade) of at most so many needs."""
    rows = table.to_dicts()
    having: dict[tuple[str, str], set[str]] = defaultdict(set)  # (attribute, value) -> films
    for row in rows:
        for attribute, value in _facts(row):
            having[attribute, value].add(row["product_id"])
    random, queries, judged, taken = np.random.default_rng(seed), [], [], set()
    for index in random.permutation(len(rows)).tolist():
        facts = [pair for pair in _facts(rows[index]) if _said(*pair)]
        genres, others = [pair for pair in facts if pair[0] == "genre"], [pair for pair in facts if pair[0] != "genre"]
        kinds = sorted({attribute for attribute, _ in others})
        if not genres or len(kinds) < 2:
            continue
        chosen = [genres[int(random.integers(len(genres)))]]
        for kind in random.permutation(kinds)[: int(random.integers(2, 4))].tolist():
            own = [pair for pair in others if pair[0] == kind]
            chosen.append(own[int(random.integers(len(own)))])
        relevant = set.intersection(*(having[pair] for pair in chosen))
        query = " ".join(_said(*pair) for pair in chosen)
        if len(relevant) <= MOST_RELEVANT and query not in taken and len(queries) < count:
            taken.add(query)
            queries.append((f"need-{len(queries):05d}", query))
            judged += [(queries[-1][0], product_id, 1) for product_id in sorted(relevant)]
    return (
        pl.DataFrame(queries, schema={"query_id": pl.String, "query": pl.String}, orient="row"),
        pl.DataFrame(judged, schema={"query_id": pl.String, "product_id": pl.String, "grade": pl.Int64}, orient="row"),
    )


def _facts(row: dict[str, str]) -> list[tuple[str, str]]:
    listed = [(name, value) for name in ("genre", "country", "director", "cast") for value in row[name].split(", ")]
    return [*listed, ("decade", f"{row['year'][:3]}0s")]


def _said(attribute: str, value: str) -> str:
    """Return a viewer's words; empty where a viewer has none."""
    if attribute == "decade":
        return f"from the {value}"
    if attribute in ("director", "cast"):
        return {"director": "by ", "cast": "with "}[attribute] + value.split()[-1] if " " in value else ""
    return SAID.get(value, "")


def main() -> None:
    """Write the three tables and where they are from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", type=Path, help="movies.db; left out: that of package bokeh-sampledata")
    parser.add_argument("--needs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    database = options.database or Path(str(resources.files("bokeh_sampledata") / "_data" / "movies.db"))
    table = films(database)
    queries, judged = needs(table, options.needs, options.seed)
    options.folder.mkdir(parents=True)
    for name, frame in (("products", table), ("queries", queries), ("judgments", judged)):
        frame.write_parquet(options.folder / f"{name}.parquet")
    (options.folder / "SOURCE.md").write_text(
        "Films: Wikidata, CC0, as packed in bokeh-sampledata (movies.db). Queries and judgments: synthetic needs made by rule.\n",
        encoding="utf-8",
    )
    print(f"{table.height} films, {queries.height} synthetic needs, {judged.height} judgments")


if __name__ == "__main__":
    main()

"""A small shop of one's own, in every layout that source tables reads."""

import json
from pathlib import Path

import polars as pl

from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import opening

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ABSENT = "folder ../shared/data is absent"

PRODUCTS = {
    "product_id": ["007", "12", "13", "14"],
    "title": ["Navy wool coat", 'Crème 5" lamp', "Red mug", "Blue mug"],
    "category": ["clothing", "lighting", "kitchen", None],
    "material": ["wool", "steel, brass", "clay", "clay"],
}
QUERIES = {
    "query_id": ["q1", "q2", "q3", "q4"],
    "query": ["warm coat", "desk lamp", "cup", "blue cup"],
    "split": ["train", "train", "dev", "test"],
}
JUDGMENTS = {"query_id": ["q1", "q2", "q3", "q3", "q4"], "product_id": ["007", "12", "13", "14", "14"], "grade": [3, 1, 2, 1, 1]}


def write(path, columns):
    """Write columns in the format that the suffix names."""
    frame = columns if isinstance(columns, pl.DataFrame) else pl.DataFrame(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {
        ".parquet": frame.write_parquet,
        ".csv": frame.write_csv,
        ".tsv": lambda place: frame.write_csv(place, separator="\t"),
        ".jsonl": frame.write_ndjson,
    }
    writers[path.suffix](path)


def shop(folder, suffix=".parquet", products=PRODUCTS, queries=QUERIES, judgments=JUDGMENTS):
    """Write the three files and return their folder."""
    for stem, columns in (("products", products), ("queries", queries), ("judgments", judgments)):
        write(folder / f"{stem}{suffix}", columns)
    return folder


def read(folder, source="tables", **settings):
    """Return what the source reads in a folder."""
    return opening.read(PrepareData(source=source, path=str(folder), **settings), 0, Path("/"))


def lines(path, rows):
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

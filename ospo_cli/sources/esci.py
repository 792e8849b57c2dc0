"""Amazon's Shopping Queries Data Set (ESCI): the three official files, or the joined variant of tasksource/esci."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import columns, files
from ospo_cli.sources.base import SourceData
from ospo_cli.sources.markup import plain

EXAMPLES, PRODUCTS, SOURCES = (f"shopping_queries_dataset_{name}" for name in ("examples", "products", "sources"))
GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
WORDS = {"Exact": "E", "Substitute": "S", "Complement": "C", "Irrelevant": "I"}
TEXTS = {
    "product_title": "title",
    "product_description": "description",
    "product_bullet_point": "bullet_points",
    "product_brand": "brand",
    "product_color": "color",
}
EXAMPLE_COLUMNS = ["query", "query_id", "product_id", "product_locale", "esci_label", "small_version"]
REMEDY = (
    f"get {EXAMPLES}.parquet and {PRODUCTS}.parquet from https://github.com/amazon-science/esci-data, "
    "or train-*.parquet and test-*.parquet from https://huggingface.co/datasets/tasksource/esci"
)


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read the judgments of one locale and the catalogue of its products.

    The official files bring all products of the locale, the joined variant those that were judged. The split is the published one;
    prepare-data cuts dev from train.

    Raises:
        SourceError: a file or column is missing or of the wrong type, a label is unknown, one pair has two labels.
    """
    del seed
    place = files.folder(root, params.path, REMEDY)
    unknown = [name for name in params.gains if name not in GAINS]
    if unknown:
        raise SourceError("prepare_data.gains", "unknown label", found=unknown[0], expected=", ".join(GAINS))
    shards = sorted([*place.glob("train-*.parquet"), *place.glob("test-*.parquet")])
    if files.find(place, EXAMPLES) is None and shards:
        paths, where = shards, place
        notes = [_locale_note(shards, place, params.locale)]
        rows, products = _joined(shards, params)
    else:
        paths = [files.require(place, EXAMPLES, (".parquet",), REMEDY), files.require(place, PRODUCTS, (".parquet",), REMEDY)]
        where = paths[0]
        notes = [_locale_note(paths[:1], where, params.locale)]
        rows, products = _examples(paths[0], params), _products(paths[1], params.locale)
    if not rows.height:
        raise SourceError(
            where, f"no judgment of locale {params.locale} is of the small version", expected="small_version 1 in some row",
            remedy="set prepare_data.small_version: false",
        )  # fmt: skip
    documents = _documents(products, where if shards else paths[-1])
    prompts = _prompts(rows, where)
    qrels, merged = _qrels(rows, GAINS | params.gains, where)
    card = {
        "licence": "Apache-2.0 (Shopping Queries Data Set, Amazon)",
        "inputs": files.hashes(paths, place),
        "counts": {"repeated judgments merged": merged},
        "notes": notes + columns.check_gains([(rows, where)], "label", params.gains),
    }
    return SourceData(documents, prompts, qrels, card=card)


def _locale_note(paths: list[Path], where: Path, locale: str) -> str:
    """Return a note that says to how many judgments prepare_data.locale applies; raise where to none, with the locales that there are."""
    counts: Counter[str] = Counter()
    for path in paths:
        lazy = files.scan(path)
        files.check_columns(lazy.collect_schema().names(), ["product_locale"], path)
        for name, count in files.collect(lazy.group_by("product_locale").len(), path).iter_rows():
            counts[str(name)] += count
    if not counts[locale]:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()) if count) or "no judgments"
        raise SourceError(
            where, "no judgments of this locale", found=locale, expected=there, remedy="set prepare_data.locale to one of these"
        )
    return f"prepare_data.locale: {locale}: {counts[locale]} of {counts.total()} rows of judgments"


def _examples(path: Path, params: PrepareData) -> pl.DataFrame:
    lazy = files.scan(path)
    files.check_columns(lazy.collect_schema().names(), [*EXAMPLE_COLUMNS, "split"], path)
    return _typed(files.collect(_asked_for(lazy, params).select(*EXAMPLE_COLUMNS, "split"), path), path)


def _products(path: Path, locale: str) -> pl.DataFrame:
    lazy = files.scan(path)
    files.check_columns(lazy.collect_schema().names(), ["product_id", "product_locale", *TEXTS], path)
    return files.collect(lazy.filter(pl.col("product_locale") == locale).select("product_id", *TEXTS), path)


def _joined(shards: list[Path], params: PrepareData) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows, products = [], []
    for path in shards:
        lazy = files.scan(path)
        files.check_columns(lazy.collect_schema().names(), ["example_id", *EXAMPLE_COLUMNS, *TEXTS], path)
        lazy = _asked_for(lazy, params)
        # Surplus rows repeat an example; the first one stands.
        examples = files.collect(lazy.select("example_id", *EXAMPLE_COLUMNS).unique("example_id", keep="first", maintain_order=True), path)
        rows.append(_typed(examples.drop("example_id").with_columns(pl.lit(path.name.split("-")[0]).alias("split")), path))
        products.append(files.collect(lazy.select("product_id", *TEXTS).unique("product_id", keep="first", maintain_order=True), path))
    return pl.concat(rows), pl.concat(products, how="vertical_relaxed").unique("product_id", keep="first", maintain_order=True)


def _asked_for(lazy: pl.LazyFrame, params: PrepareData) -> pl.LazyFrame:
    lazy = lazy.filter(pl.col("product_locale") == params.locale)
    return lazy.filter(pl.col("small_version") == 1) if params.small_version else lazy


def _typed(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    label = columns.required_text(rows, "esci_label", path).replace(WORDS)
    split = columns.required_text(rows, "split", path)
    for name, values, allowed in (("esci_label", label, [*GAINS, *WORDS]), ("split", split, ["train", "test"])):
        wrong = ~values.is_in(allowed)
        if wrong.any():
            row = rows.row(columns.first(wrong) - 1, named=True)
            place = f"{path}: query_id {row['query_id']}, product_id {row['product_id']}, column {name}"
            raise SourceError(place, "unknown value", found=row[name], expected=", ".join(allowed))
    return pl.DataFrame(
        [
            columns.ids(rows, "query_id", path).alias("prompt_id"),
            columns.ids(rows, "product_id", path).alias("doc_id"),
            columns.required_text(rows, "query", path).alias("query"),
            label.alias("label"),
            split.alias("split"),
        ]
    )


def _documents(products: pl.DataFrame, where: object) -> pl.DataFrame:
    texts = [plain(columns.required_text(products, name, where)).alias(ours) for name, ours in TEXTS.items()]
    key = columns.ids(products, "product_id", where, unique=True).alias("doc_id")
    return pl.DataFrame([key, *texts]).with_columns(pl.lit("").alias("category"))


def _prompts(rows: pl.DataFrame, where: object) -> pl.DataFrame:
    prompts = rows.select("prompt_id", "split", pl.col("query").str.strip_chars()).unique(maintain_order=True)
    clash = prompts.filter(pl.col("prompt_id").is_duplicated())
    if clash.height:
        first = clash.filter(pl.col("prompt_id") == clash["prompt_id"][0])
        found = "; ".join(f"{split}: {query}" for _, split, query in first.head(2).rows())
        raise SourceError(f"{where}: query_id {first['prompt_id'][0]}", "one query has two texts or splits", found=found, expected="one")
    return prompts.with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("history"))


def _qrels(rows: pl.DataFrame, gains: dict[str, Any], where: object) -> tuple[pl.DataFrame, int]:
    distinct = rows.select("prompt_id", "doc_id", "label").unique(maintain_order=True)
    clash = distinct.filter(pl.struct("prompt_id", "doc_id").is_duplicated())
    if clash.height:
        prompt, document, _ = clash.row(0)
        raise SourceError(where, "two judgments of one pair disagree", found=f"query {prompt}, product {document}", expected="one label")
    relevance = pl.col("label").replace_strict(list(gains), list(gains.values()), return_dtype=pl.Float64)
    return distinct.select("prompt_id", "doc_id", relevance.alias("relevance")), rows.height - distinct.height

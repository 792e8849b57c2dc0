"""H&M's competition files: what a customer bought before a cut-off date is the history, the next purchase is the target."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from ospo_cli.errors import ParameterError, SourceError
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import columns, files
from ospo_cli.sources.base import SourceData

KEPT = (
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "department_name",
    "index_group_name",
    "section_name",
    "garment_group_name",
    "detail_desc",
)
REMEDY = (
    "get articles.csv, customers.csv and transactions_train.csv from "
    "https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations"
)
LAST_DAYS = 7


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read the three files; one prompt per customer who buys on or after the cut-off date and has a history before it.

    The history is the last `history_length` different articles before the cut-off, oldest first, each as "name (type, colour)". The target
    is the customer's first purchase on or after it whose name is not in the history; articles of one day stand in the order of the file.
    The query is the target's index group and product type ("ladieswear trousers"): words that many articles share. It never holds the
    target's name, and what else tells the target apart has to be read from the history.

    Raises:
        SourceError: a file or column is missing, an id is missing or twice there, a date is no YYYY-MM-DD, a purchase is of an unknown
            article or customer, no customer has a history and a target.
    """
    del seed
    place = files.folder(root, params.path, REMEDY)
    paths = [files.require(place, stem, (".csv",), REMEDY) for stem in ("articles", "customers", "transactions_train")]
    documents = _documents(paths[0])
    lazy = files.scan(paths[2])
    files.check_columns(lazy.collect_schema().names(), ["t_dat", "customer_id", "article_id"], paths[2])
    lazy = lazy.select("t_dat", "customer_id", "article_id")
    cut_off = _cut_off(lazy, paths[2], params)
    bought, counts = _purchases(lazy, paths[2], documents, cut_off, params.history_length)
    _check_customers(bought, paths[1])
    prompts, qrels, refused = _prompts(bought, documents)
    card = {
        "licence": "H&M competition data: not redistributable, the user supplies it",
        "inputs": files.hashes(paths, place),
        "counts": {**counts, "customers whose next purchases are all in their history": refused},
        "notes": [f"targets from {cut_off} on, of {documents.height} articles; query: index group and product type of the target"],
    }
    return SourceData(documents.drop("history_title"), prompts, qrels, card=card)


def _documents(path: Path) -> pl.DataFrame:
    frame = files.read(path, ["article_id", "prod_name", *KEPT])
    if not frame.height:
        raise SourceError(path, "the catalogue is empty", found="0 articles", expected="at least one")
    key = columns.ids(frame, "article_id", path, unique=True)
    short = key.str.len_chars() != 10
    if short.any():
        row = columns.first(short)
        raise SourceError(
            f"{path}: row {row}, column article_id",
            "not ten digits",
            found=key[row - 1],
            expected="0108775015",
            remedy="leading zeros were lost: use the file as published",
        )
    titled = pl.concat_str(
        "title",
        pl.lit(" ("),
        pl.col("product_type_name").str.to_lowercase(),
        pl.lit(", "),
        pl.col("colour_group_name").str.to_lowercase(),
        pl.lit(")"),
    )
    return pl.DataFrame(
        [
            key.alias("doc_id"),
            columns.text(frame["prod_name"], path).alias("title"),
            frame["product_type_name"].alias("category"),
            *[columns.text(frame[name], path) for name in KEPT],
        ]
    ).with_columns(titled.alias("history_title"))


def _cut_off(lazy: pl.LazyFrame, path: Path, params: PrepareData) -> str:
    dates = files.collect(
        lazy.select(
            pl.col("t_dat").min().alias("low"), pl.col("t_dat").max().alias("high"), (~_is_date()).fill_null(True).sum().alias("wrong")
        ),
        path,
    )
    low, high, wrong = dates.row(0)
    if high is None:
        raise SourceError(path, "no purchases", found="0 rows", expected="at least one")
    if wrong:
        value = files.collect(lazy.filter((~_is_date()).fill_null(True)).select("t_dat").head(1), path)["t_dat"][0]
        raise SourceError(f"{path}: column t_dat", "is no date", found=value, expected="YYYY-MM-DD in every row")
    if not params.cut_off_date:
        try:
            return (date.fromisoformat(high) - timedelta(days=LAST_DAYS - 1)).isoformat()
        except (ValueError, OverflowError):  # a 31st of February
            raise SourceError(f"{path}: column t_dat", "is no date", found=high, expected="YYYY-MM-DD in every row") from None
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", params.cut_off_date):
            raise ValueError
        date.fromisoformat(params.cut_off_date)
    except ValueError:
        raise ParameterError("prepare_data.cut_off_date", "is no date", found=params.cut_off_date, expected="YYYY-MM-DD") from None
    if not low < params.cut_off_date <= high:
        raise ParameterError(
            "prepare_data.cut_off_date", "out of range", found=params.cut_off_date, expected=f"after {low}, not after {high}"
        )
    return params.cut_off_date


def _is_date() -> pl.Expr:
    return pl.col("t_dat").str.contains(r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")


def _purchases(lazy: pl.LazyFrame, path: Path, documents: pl.DataFrame, cut_off: str, length: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return customer_id, targets (article ids from the cut-off on, in order) and history (oldest first) of customers with both."""
    numbered = lazy.with_row_index("place")
    later = files.collect(numbered.filter(pl.col("t_dat") >= cut_off), path).sort("t_dat", "place")
    targets = later.unique(["customer_id", "article_id"], keep="first", maintain_order=True)
    targets = targets.group_by("customer_id", maintain_order=True).agg(pl.col("article_id").alias("targets"))
    # Only the buyers' earlier purchases are held in memory, not all thirty million.
    earlier = files.collect(
        numbered.filter(pl.col("t_dat") < cut_off).join(targets.lazy().select("customer_id"), on="customer_id", how="semi"), path
    )
    history = (
        earlier.sort("t_dat", "place")
        .unique(["customer_id", "article_id"], keep="last", maintain_order=True)
        .group_by("customer_id", maintain_order=True)
        .agg(pl.col("article_id").tail(length).alias("history"))
    )
    named = pl.concat([later.select("article_id"), earlier.select("article_id")]).unique()
    strangers = named.join(documents.select(pl.col("doc_id").alias("article_id")), on="article_id", how="anti").sort("article_id")
    if strangers.height:
        raise SourceError(
            f"{path}: column article_id",
            "a purchase of an unknown article",
            found=f"{strangers['article_id'][0]} ({strangers.height} such)",
            expected="articles of articles.csv",
        )
    bought = targets.join(history, on="customer_id").sort("customer_id")
    if not bought.height:
        raise SourceError(
            path,
            "no customer bought before and after the cut-off date",
            found=cut_off,
            expected="a date inside the file",
            remedy="set prepare_data.cut_off_date",
        )
    return bought, {"customers without a purchase before the cut-off": targets.height - bought.height}


def _check_customers(bought: pl.DataFrame, path: Path) -> None:
    customers = files.scan(path)
    files.check_columns(customers.collect_schema().names(), ["customer_id"], path)
    known = files.collect(customers.select("customer_id"), path)
    strangers = bought.join(known, on="customer_id", how="anti")
    if strangers.height:
        raise SourceError(
            path,
            "a customer is missing",
            found=f"{strangers['customer_id'][0]} ({strangers.height} such)",
            expected="every customer of transactions_train.csv",
        )


def _prompts(bought: pl.DataFrame, documents: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    articles = documents.select(
        pl.col("doc_id").alias("article_id"), "title", "history_title", "index_group_name", "product_type_name", "product_group_name"
    )
    history = (
        bought.select("customer_id", "history")
        .explode("history")
        .join(articles, left_on="history", right_on="article_id", maintain_order="left")
        .group_by("customer_id", maintain_order=True)
        .agg(pl.col("history_title").alias("history"), pl.col("title").alias("names"))
    )
    target = (
        bought.select("customer_id", "targets")
        .explode("targets")
        .join(articles, left_on="targets", right_on="article_id", maintain_order="left")
        .join(history, on="customer_id", maintain_order="left")
        .filter(~pl.col("title").is_in(pl.col("names")))  # another colour of the same name would give the name away
        .unique("customer_id", keep="first", maintain_order=True)
    )
    kind = pl.when(pl.col("product_type_name").is_in(["", "Unknown"])).then("product_group_name").otherwise("product_type_name")
    query = pl.concat_str(pl.col("index_group_name"), kind, separator=" ").str.to_lowercase()
    target = target.select(pl.col("customer_id").alias("prompt_id"), query.alias("query"), "history", "targets").sort("prompt_id")
    prompts = target.select("prompt_id", pl.lit(None, dtype=pl.String).alias("split"), "query", "history")
    qrels = target.select("prompt_id", pl.col("targets").alias("doc_id"), pl.lit(1.0).alias("relevance"))
    return prompts, qrels, bought.height - target.height

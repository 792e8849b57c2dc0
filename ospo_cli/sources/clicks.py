"""A shop's own click log in the place of judgments: what was clicked where it was looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.errors import ParameterError, SourceError, shorten
from ospo_cli.maths.click_models import MODELS, ClickCounts, Relevance, grades, movement
from ospo_cli.maths.seeding import uniforms
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import click_queries, columns, files, tables
from ospo_cli.sources.base import MORE_QUERIES, SourceData
from ospo_cli.sources.unshown import guessed
from ospo_cli.tables import spellings
from ospo_cli.tables.title_words import title_texts

NEEDED = ("query", "product_id", "position", "clicked")
OPTIONAL = ("purchased", "dwell", "day")
REMEDY = (
    "needed are products (product_id, title, any text columns) and clicks (query, product_id, position, clicked); "
    "docs/own-data.md has examples"
)
OTHER_DAYS = (
    "impressions outside of their query's days (train queries are judged by days before first_test_day, dev and test queries by those "
    "from it on)"
)
WORDS = {"1": True, "true": True, "1.0": True, "0": False, "false": False, "0.0": False}
TEST_SHARE = 0.2  # of the impressions, where no first test day is given
FEW_BROKEN = 1000  # one row in so many may be broken: logs of real shops have some
ONE_GRADE = 0.7  # of the judgments above 0: from this share on a warning
# Below this share of impressions of products that changed places, a place and what stands there cannot be told apart.
LITTLE_MOVEMENT = 0.05


def read(params: PrepareData, seed: int, root: Path) -> SourceData:
    """Read products and clicks; a query's judgments come from the model of `prepare_data.clicks`.

    Queries are equal where they agree without capitals and repeated blanks; the search engine is given the spelling that is most
    frequent, the policy the one without capitals. A query is of
    test, dev or train by seed. Train queries are judged by the days before the first test day alone, the others by the days from it on.

    Raises:
        SourceError: a file or column is missing, no query is left, or of more than one row in FEW_BROKEN a position is no whole number
            ≥ 1, an event is not 0 or 1, a day no date, a product without id.
    """
    place = files.folder(root, params.path, REMEDY)
    paths = [files.require(place, name, remedy=REMEDY) for name in ("products", "clicks")]
    documents = tables.read_documents(paths[0], params)
    notes = tables.read_as(params, paths)
    log, names = _log(paths[1], params)
    log, broken = _readable(log, names, paths[1], params.clicks.event)
    first_day, share = _first_test_day(log, names, paths[1], params)
    summed = _summed(log, first_day, paths[1])
    _check(summed, paths[1], params.clicks.event)
    splits = _splits(summed, params, seed)
    kept, counts = _kept(summed.join(splits, on="key", how="left"), documents, params, bool(first_day))
    counts = broken | counts
    if not kept.height:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
        raise SourceError(paths[1], "no product of any query is left to judge", found=reasons, expected="one at least")
    parts = [_judged(frame, params, period) for (period,), frame in kept.group_by("is_late", maintain_order=True)]
    queries = _queries(log, splits, paths[1])
    grades_found = [part for part, _ in parts]
    by_shown = pl.concat(grades_found)["relevance"]
    guesses: list[str] = []
    if params.clicks.unshown == "shared-words":
        more, guesses = _guessed(grades_found, documents)
        grades_found += more
    qrels = pl.concat(grades_found).join(queries, on="key").select("prompt_id", "doc_id", "relevance")
    prompts = queries.join(qrels, on="prompt_id", how="semi").select(
        "prompt_id", "split", "query", pl.lit([], dtype=pl.List(pl.String)).alias("history")
    )
    period = "no column day: queries of all splits are judged by the same time, so what changes with time is not seen"
    if first_day:
        period = f"train queries are judged by days before {first_day}, the others from it on ({share:.0%} of the impressions)"
    asked = int((splits["key"] != "").sum())
    judged = click_queries.judged(kept, params.clicks.minimum_impressions)
    counts |= click_queries.left_out(kept, judged, asked)
    few, remedy = "", ""
    if click_queries.are_few(judged):
        usual = log.join(documents.lazy().select("doc_id"), on="doc_id", how="semi").join(splits.lazy(), on="key")
        remedy = click_queries.remedy(usual, params, first_day, paths[1])
        few = click_queries.warning(judged, remedy)
    said = [period, click_queries.in_words(judged, counts, asked, params.clicks.minimum_impressions)]
    said += [note for _, of_fit in parts for note in of_fit] + _grades_in_words(by_shown) + guesses + [few] * bool(few)
    card = {
        "licence": tables.licence_of(place),
        "inputs": files.hashes(paths, place),
        "counts": counts,
        "notes": notes + [f"prepare_data.clicks: {note}" for note in said],
        MORE_QUERIES: remedy,
    }
    return SourceData(documents, prompts, qrels, card=card)


def _log(path: Path, params: PrepareData) -> tuple[pl.LazyFrame, list[str]]:
    """Return key, query, doc_id, position, hit (a click or purchase that counts) and day of each impression, lazily."""
    lazy, settings = files.scan(path, params.quoting), params.clicks
    present = lazy.collect_schema().names()
    own = {name: params.columns.get(name, name) for name in (*NEEDED, *OPTIONAL)}
    files.check_columns(present, [own[name] for name in NEEDED], path, "name your columns in prepare_data.columns: {query: your_name}")
    asked = [name for name, is_asked in (("purchased", settings.event == "purchased"), ("dwell", settings.minimum_dwell > 0)) if is_asked]
    files.check_columns(present, [own[name] for name in asked], path, "prepare_data.clicks asks for it")
    names = [name for name in own if own[name] in present]
    lazy = lazy.select(pl.col(own[name]).alias(name) for name in names)
    hit = _truth(settings.event)
    if settings.minimum_dwell:
        hit = hit & (pl.col("dwell").cast(pl.Float64, strict=False) >= settings.minimum_dwell).fill_null(False)
    query = pl.col("query").cast(pl.String)
    return lazy.select(
        spellings.in_line(query).alias("query"), spellings.folded(query).alias("key"),
        columns.stripped(pl.col("product_id").cast(pl.String)).alias("doc_id"),
        pl.col("position").cast(pl.Int64, strict=False).alias("position"), hit.alias("hit"),
        (_day() if "day" in names else pl.lit("")).alias("day"),
        *(
            pl.col(name).cast(pl.String).alias(f"written {name}")
            for name in ("position", "product_id", settings.event, "day")
            if name in names
        ),
    ), names  # fmt: skip


def _day() -> pl.Expr:
    """Return the days of a log; of a time (2026-03-01T23:59:00+01:00) the day that is written there, whatever its zone."""
    return pl.col("day").cast(pl.String).str.strip_chars().str.replace(r"^(.{10})[T ].*$", "$1")


def _is_no_day(day: pl.Expr) -> pl.Expr:
    # Their order as text is an order of time only where all are written in full.
    return (day.str.len_chars() != 10).fill_null(True) | day.str.to_date("%Y-%m-%d", strict=False).is_null()


def _truth(name: str) -> pl.Expr:
    """Return a column of 0 and 1, true and false, as truth values; null where it is neither."""
    text = pl.col(name).cast(pl.String).str.to_lowercase()
    return text.replace_strict(WORDS, default=None, return_dtype=pl.Boolean)


def _first_test_day(log: pl.LazyFrame, names: list[str], path: Path, params: PrepareData) -> tuple[str, float]:
    """Return the first day of dev and test ("" without days), and the share of impressions from it on."""
    given = params.clicks.first_test_day
    if "day" not in names:
        if given:
            raise ParameterError("prepare_data.clicks.first_test_day", "the log has no column day", found=given, expected="empty")
        return "", 0.0
    if given and pl.select(_is_no_day(pl.lit(given))).item():
        raise ParameterError("prepare_data.clicks.first_test_day", "is no day", found=given, expected='a day in quotes, "YYYY-MM-DD"')
    days = files.collect(log.group_by("day").agg(pl.len()), path).sort("day")
    total = int(days["len"].sum())
    late = days.with_columns(share=pl.col("len").reverse().cum_sum().reverse() / total)
    if not given:
        given = late.filter(pl.col("share") >= TEST_SHARE)["day"][-1]
    rows = late.filter(pl.col("day") >= given)
    if not rows.height or rows.height == days.height:
        raise ParameterError(
            "prepare_data.clicks.first_test_day", "leaves no day on one side", found=given,
            expected=f"a day after {days['day'][0]} and not after {days['day'][-1]}",
            remedy="set it, or leave the column day away",
        )  # fmt: skip
    return given, rows["share"][0]


def _summed(log: pl.LazyFrame, first_day: str, path: Path) -> pl.DataFrame:
    """Return impressions and hits of each (query, product, position) in both periods: what a log of any length comes down to."""
    late = pl.lit(None, dtype=pl.Boolean) if not first_day else pl.col("day") >= first_day
    return files.collect(
        log.group_by("key", "doc_id", "position", late.alias("is_late")).agg(
            pl.len().cast(pl.Float64).alias("shown"),
            pl.col("hit").sum().cast(pl.Float64).alias("hits"),
        ),
        path,
    ).sort("key", "doc_id", "position", "is_late")


def _readable(log: pl.LazyFrame, names: list[str], path: Path, event: str) -> tuple[pl.LazyFrame, dict[str, int]]:
    """Return the rows that can be read, and how many were left out by reason, each with the row of the first.

    Raises:
        SourceError: these are more than one in FEW_BROKEN of all rows: named is the first row of one reason, and how many it has.
    """
    position = pl.col("position")
    faults = [
        (position.is_null() | (position < 1), "position", "is no place in a list", "a whole number from 1"),
        (position > 10_000, "position", "is no place in a list", "at most 10,000"),
        (pl.col("hit").is_null(), event, "is neither true nor false", "0 or 1, true or false"),
        (pl.col("doc_id").fill_null("") == "", "product_id", "no id", "an id in every row"),
    ]
    if "day" in names:
        faults.append((_is_no_day(pl.col("day")), "day", "is no date", "YYYY-MM-DD"))
    which = pl.coalesce(pl.when(wrong).then(pl.lit(number, dtype=pl.Int8)) for number, (wrong, *_) in enumerate(faults))
    found = dict(files.collect(log.group_by(which.alias("fault")).agg(pl.len()), path).iter_rows())
    total = sum(found.values())
    broken = {number: found[number] for number in range(len(faults)) if number in found}
    counts = {}
    for number, count in broken.items():
        _, column, problem, expected = faults[number]
        row, written = _first_row(log, which == number, path, f"written {column}")
        if sum(broken.values()) * FEW_BROKEN > total:
            raise SourceError(
                f"{path}: row {row}, column {column}", problem, found=f"{written} ({count:,} such of {total:,} rows)", expected=expected,
                remedy=f"mend the log; up to one row in {FEW_BROKEN:,} is left out and counted",
            )  # fmt: skip
        counts[f"rows whose {column} {problem.replace('no id', 'is empty')} (the first is row {row}: {shorten(written, 40)})"] = count
    return log.filter(which.is_null()) if broken else log, counts


def _check(summed: pl.DataFrame, path: Path, event: str) -> None:
    if summed["hits"].sum() == summed["shown"].sum():
        raise SourceError(
            f"{path}: column {event}", "no row has 0, as if every place were looked at", found=f"1 in {summed['shown'].sum():,.0f} rows",
            expected="a row for each product that was shown, clicked or not",
        )  # fmt: skip


def _first_row(log: pl.LazyFrame, wrong: pl.Expr, path: Path, column: str) -> tuple[int, str]:
    """Return the first row with a fault, from 1, and what is written there."""
    found = files.collect(log.with_row_index("row", offset=1).filter(wrong).select("row", column).bottom_k(1, by="row"), path)
    row, written = found.row(0)
    return row, written or "nothing"


def _splits(summed: pl.DataFrame, params: PrepareData, seed: int) -> pl.DataFrame:
    """Return the split of each query: drawn from the seed and its words alone, so that a longer log moves none."""
    keys = summed["key"].drop_nulls().unique().sort().to_list()
    draws = uniforms(seed, [f"clicks|{key}" for key in keys], 1)[:, 0]
    names = np.where(draws < params.test_share, "test", np.where(draws < params.test_share + params.dev_share, "dev", "train"))
    return pl.DataFrame({"key": keys, "split": names.tolist()}, schema={"key": pl.String, "split": pl.String})


def _kept(summed: pl.DataFrame, documents: pl.DataFrame, params: PrepareData, has_days: bool) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the rows that judge, and what was left out by reason."""
    counts = {
        "impressions without a query": int(summed.filter(pl.col("key").fill_null("") == "")["shown"].sum()),
        "impressions of products that are not in the catalogue": int(summed.join(documents, on="doc_id", how="anti")["shown"].sum()),
    }
    kept = summed.filter(pl.col("key").fill_null("") != "").join(documents.select("doc_id"), on="doc_id", how="semi")
    if has_days:
        own = pl.col("is_late") == (pl.col("split") != "train")
        counts[OTHER_DAYS] = int(kept.filter(~own)["shown"].sum())
        kept = kept.filter(own)
    kept = kept.with_columns(pl.col("is_late").fill_null(False), pl.col("shown").sum().over("key", "doc_id", "is_late").alias("of_item"))
    few = kept["of_item"] < params.clicks.minimum_impressions
    rare = kept.filter(few).select("key", "doc_id").n_unique() if few.any() else 0
    counts["products under a query shown too rarely (prepare_data.clicks.minimum_impressions)"] = rare
    return kept.filter(~few), counts


def _judged(frame: pl.DataFrame, params: PrepareData, is_late: object) -> tuple[pl.DataFrame, list[str]]:
    """Return key, doc_id and relevance of one period, and what to say of its fit."""
    items = frame.select("key", "doc_id").unique(maintain_order=True).with_row_index("item")
    rows = frame.join(items, on=["key", "doc_id"], maintain_order="left")
    group = items["key"].rank("dense").to_numpy().astype(np.int64) - 1
    counts = ClickCounts(
        rows["item"].to_numpy().astype(np.int64), group, rows["position"].to_numpy() - 1, rows["shown"].to_numpy(), rows["hits"].to_numpy()
    )
    found: Relevance = MODELS[params.clicks.model](counts, params.clicks.prior_impressions)
    grade = grades(counts, found.attraction, params.clicks.levels)
    judged = items.select("key", "doc_id").with_columns(pl.Series("relevance", grade))
    return judged, _fit_in_words(counts, found, params, "test days" if is_late else "train days")


def _guessed(parts: list[pl.DataFrame], documents: pl.DataFrame) -> tuple[list[pl.DataFrame], list[str]]:
    """Return guessed grades of each period, each by its own days, and what to say of them."""
    titles = title_texts(documents)
    more = [guessed(part, documents, titles) for part in parts]
    count, queries = sum(part.height for part in more), sum(part["key"].n_unique() for part in more)
    return more, [
        f"further {count:,} judgments of {queries:,} queries are guesses: products that were not shown, with all words that the clicked "
        "titles share (unshown: shared-words)"
    ]


def _fit_in_words(counts: ClickCounts, found: Relevance, params: PrepareData, period: str) -> list[str]:
    moved = movement(counts)
    places = ", ".join(f"{position + 1}: {value:.2f}" for position, value in enumerate(found.examination[:5]))
    notes = [
        f"{period}: {counts.shown.sum():,.0f} impressions, {counts.clicked.sum():,.0f} hits, {len(counts.group):,} products under queries; "
        f"{moved:.0%} of the impressions are of products that changed places; a place is looked at ({params.clicks.model}) {places}"
    ]
    if moved < LITTLE_MOVEMENT and params.clicks.model == "position-based":
        notes.append(f"{period}: warning: products hardly changed places, so their attraction cannot be told from that of their place")
    if not found.has_converged:
        notes.append(f"{period}: EM was stopped after {found.steps} steps")
    return notes


def _grades_in_words(relevance: pl.Series) -> list[str]:
    counts = dict(relevance.value_counts().sort("relevance").iter_rows())
    notes = ["judgments by grade: " + ", ".join(f"{count:,} of {grade:g}" for grade, count in counts.items())]
    above = {grade: count for grade, count in counts.items() if grade > 0}
    most, total = max(above, key=above.__getitem__, default=0.0), sum(above.values())
    if len(above) > 1 and above[most] > ONE_GRADE * total:
        notes.append(
            f"warning: {above[most] / total:.0%} of the judgments above 0 have grade {most:g}, so they hardly tell clicked ones apart: "
            "lower prior_impressions, raise minimum_impressions, or take a longer log"
        )
    return notes


def _queries(log: pl.LazyFrame, splits: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return key, prompt_id, split and the spelling that is most frequent (of equal ones the first by code points)."""
    written = files.collect(log.group_by("key", "query").agg(pl.len()), path).sort(["key", "len", "query"], descending=[False, True, False])
    first = written.drop_nulls("key").unique("key", keep="first", maintain_order=True)
    return first.join(splits, on="key").select("key", pl.col("key").alias("prompt_id"), "split", "query")

"""How many queries of a click log are judged, whether a gate can be certified on so many, and which settings would judge more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import polars as pl

from ospo_cli.maths.risk_control import FEWEST_QUERIES, fewest_without_loss
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import files

UNJUDGED = "queries without a product of enough impressions in their days (prepare_data.clicks.minimum_impressions)"
UNCLICKED = "queries without a click on such a product"
BOUND, LEVEL = 0.1, 0.1  # of `ospo gate`, as it is called without options
SLACK = 1.1  # some queries get no rewrite
LATE_SHARES = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)  # of the impressions, from a first test day on
LOWER = (7, 5, 3, 2)  # minimum_impressions; at one, a product seen once is judged
SPLITS = ("train", "dev", "test")

Counts = Mapping[str, int]


def judged(items: pl.DataFrame, minimum: int) -> dict[str, int]:
    """Return by split how many queries have a product with a hit that was shown often enough.

    Args:
        items: key, doc_id, split, shown, hits; rows of one product under a query are summed.
        minimum: impressions.
    """
    summed = items.group_by("key", "doc_id", "split").agg(pl.col("shown", "hits").sum())
    queries = summed.filter((pl.col("shown") >= minimum) & (pl.col("hits") > 0)).unique("key")
    found = dict(queries["split"].value_counts().iter_rows())
    return {split: int(found.get(split, 0)) for split in SPLITS}


def left_out(kept: pl.DataFrame, found: Counts, asked: int) -> dict[str, int]:
    """Return how many of the queries of the log are not judged, by reason."""
    shown = kept["key"].n_unique()
    return {UNJUDGED: asked - shown, UNCLICKED: shown - sum(found.values())}


def in_words(found: Counts, counts: Counts, asked: int, minimum: int) -> str:
    """Return how many queries there were and what became of them."""
    line = f"{asked:,} queries in the log: {sum(found.values()):,} judged ({_splits(found)}); "
    line += f"{counts[UNJUDGED]:,} without a product of {minimum} impressions in their days"
    return line + (f", {counts[UNCLICKED]:,} {UNCLICKED.removeprefix('queries ')}" if counts[UNCLICKED] else "")


def are_few(found: Counts) -> bool:
    """Tell whether a gate can hardly be certified on so many dev queries, or shown on so many test queries."""
    return min(found["dev"], found["test"]) < fewest_without_loss(BOUND, LEVEL)


def warning(found: Counts, remedy: str) -> str:
    """Return that dev and test queries are few, for what, and what would give more."""
    return (
        f"warning: {found['dev']:,} dev and {found['test']:,} test queries are few: `ospo gate` takes {FEWEST_QUERIES} of each that get a "
        f"rewrite, and certifies a bound of {BOUND:g} on {fewest_without_loss(BOUND, LEVEL)} dev queries, none of which loses, or more; "
        f"{remedy}"
    )


def remedy(log: pl.LazyFrame, params: PrepareData, first_day: str, path: Path) -> str:
    """Return which first test day, which minimum of impressions, or else which of both gives queries enough; or that none does.

    Args:
        log: key, doc_id, day, hit, split of every impression of a product of the catalogue.
        params: the settings that gave too few.
        first_day: of dev and test with these settings; "": the log has no days.
        path: of the log.
    """
    daily = files.collect(
        log.group_by("key", "doc_id", "split", "day").agg(pl.len().alias("shown"), pl.col("hit").sum().alias("hits")), path
    )
    usual = (first_day, params.clicks.minimum_impressions)
    days, minima = list(_days(daily, first_day)), [minimum for minimum in LOWER if minimum < usual[1]]
    for tries in ([[(day, usual[1]) for day in days], [(first_day, least) for least in minima]], [list(product(days, minima))]):
        enough = [found for choices in tries if (found := _first(daily, choices, usual))]
        if enough:
            return f"set {', or '.join(enough)}"
    return (
        f"no first_test_day and no minimum_impressions gives {_wanted()} of each: take a longer log (distinct queries count, not rows), "
        f"or raise dev_share and test_share (now {params.dev_share:g} and {params.test_share:g})"
    )


def _days(daily: pl.DataFrame, first_day: str) -> Iterator[str]:
    """Give days before the first test day, the last first: more of the log for dev and test queries, less for train queries."""
    if not first_day:
        return
    share = daily.group_by("day").agg(pl.col("shown").sum()).sort("day", descending=True)
    share = share.with_columns(pl.col("shown").cum_sum() / pl.col("shown").sum())
    for least in LATE_SHARES:
        late = share.filter((pl.col("shown") >= least) & (pl.col("day") < first_day))
        if late.height and late["day"][0] != share["day"][-1]:
            yield late["day"][0]


def _first(daily: pl.DataFrame, choices: list[tuple[str, int]], usual: tuple[str, int]) -> str:
    """Return the first choice of (first test day, minimum of impressions) that gives enough, in words; "" where none does."""
    for day, minimum in choices:
        found = judged(daily.filter((pl.col("day") >= day) == (pl.col("split") != "train")) if day else daily, minimum)
        if min(found["dev"], found["test"]) >= _wanted():
            changed: dict[str, object] = {"first_test_day": day} if day != usual[0] else {}
            changed |= {"minimum_impressions": minimum} if minimum != usual[1] else {}
            # In quotes: without them YAML reads a day as a date, which params.yaml refuses.
            names = [
                f"prepare_data.clicks.{name}: " + (f'"{value}"' if name == "first_test_day" else str(value))
                for name, value in changed.items()
            ]
            return f"{' and '.join(names)} ({_splits(found)})"
    return ""


def _wanted() -> int:
    return math.ceil(SLACK * fewest_without_loss(BOUND, LEVEL))


def _splits(found: Counts) -> str:
    return ", ".join(f"{found[split]:,} {split}" for split in SPLITS)

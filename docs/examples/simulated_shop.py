"""A shop without a shop: the demo's catalogue and a simulated click log, to walk from clicks to serving before you use your own.

    python simulated_shop.py FOLDER [--queries 800] [--views 70] [--zipf 0] [--seed 0]

A tenth of the demo's products. Shoppers type a product type and one to three wishes, in their own words (never the catalogue's, but for
half of the types). The engine shows ten products of that type, by its own habits and noise; the place p is looked at with probability 1/p,
and a product that is looked at is clicked with probability .6 if it meets all wishes, a quarter of that for each wish that it does not
meet. Nothing of this is a real shop's.
Every query is typed equally often, or with `--zipf 0.8` as in a shop: the r-th most frequent in proportion to (r + 7)^-.8, `--views` on
average.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.sources import demo_shop
from ospo_cli.sources.demo_shop_words import ATTRIBUTES, STATED, USER_WORDS

PRODUCTS, SHOWN, DAYS = 320, 10, 60
WORDS = ("brand", "colour", "fit", "pattern", "material", "type", "occasion", "season")  # of a title


def queries(products: np.ndarray, count: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return distinct queries and the attraction of ten products for each: int64[10] rows and float64[10], as float64[2, 10]."""
    found: dict[str, np.ndarray] = {}
    while len(found) < count:
        target = products[draw.integers(len(products))]
        wishes = [STATED[place] for place in np.sort(draw.permutation(len(STATED))[: draw.integers(1, 4)])]
        kind = demo_shop.value(target, "type")
        said = [str(draw.choice(USER_WORDS[wish][demo_shop.value(target, wish)])) for wish in wishes]
        query = " ".join([*said, kind if draw.random() < 0.5 else str(draw.choice(USER_WORDS["type"][kind]))])
        columns = [ATTRIBUTES.index(wish) for wish in wishes]
        misses = (products[:, columns] != target[columns]).sum(axis=1)
        same_kind = draw.permutation(np.flatnonzero(products[:, 0] == target[0]))
        rows = same_kind[np.argsort(misses[same_kind], kind="stable")][:SHOWN]
        if query not in found and len(rows) == SHOWN:
            found[query] = np.stack([rows, 0.6 * 0.25 ** misses[rows]])
    return found


def main() -> None:
    """Write products.csv and clicks.parquet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=800)
    parser.add_argument("--views", type=int, default=70, help="of each query, on average")
    parser.add_argument("--zipf", type=float, default=0.0, help="how unequal the queries' frequencies are")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(options.seed)
    products = demo_shop.catalogue(0)
    products = products[draw.permutation(len(products))[:PRODUCTS]]
    ids = np.array([f"p{number:03d}" for number in range(PRODUCTS)])
    titles = [" ".join(demo_shop.value(product, name) for name in WORDS) for product in products]
    pl.DataFrame({"product_id": ids, "title": titles}).write_csv(options.folder / "products.csv")
    found = queries(products, options.queries, draw)
    share = (np.arange(len(found)) + 8.0) ** -options.zipf
    views = np.maximum(np.rint(options.views * len(found) * share / share.sum()).astype(int), 1)
    query = np.repeat(np.arange(len(found)), views)
    drawn = np.stack(list(found.values()))[query]
    habit = draw.normal(size=(len(found), SHOWN))[query]
    place = np.argsort(np.argsort(habit + draw.normal(size=habit.shape), axis=1), axis=1)
    clicked = draw.random(place.shape) < drawn[:, 1] / (1 + place)
    days = np.datetime64("2026-01-01") + draw.integers(DAYS, size=len(query))
    pl.DataFrame(
        {
            "query": np.repeat(np.array(list(found))[query], SHOWN),
            "product_id": ids[drawn[:, 0].ravel().astype(int)],
            "position": place.ravel() + 1,
            "clicked": clicked.ravel().astype(int),
            "day": np.repeat(days, SHOWN).astype(str),
        }
    ).write_parquet(options.folder / "clicks.parquet")


if __name__ == "__main__":
    main()

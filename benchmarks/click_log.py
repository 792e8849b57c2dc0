"""A click log into judgments: seconds and peak memory as it grows, and rank correlation with the truth against the plain click rate.

    python benchmarks/click_log.py [--rows 100000 1000000 10000000] [--folder DIR]

Logs are simulated: queries of ten products, an engine whose ranking follows its own habits and noise, places looked at with probability
(1 + place)^-bias, and clicks where a product that is looked at attracts (true attraction from Beta(1, 4)). First the truth at bias 0, 1
and 2 (300 queries of 400 sessions): mean Spearman correlation within queries, by model. Then that of the four grades of short logs (bias 1,
seeds 0, 1 and 2, also with true attraction from Beta(2, 2)), by `prior_impressions`, and the share of the highest grade. Then whole logs
read by source `clicks`, each in a process of its own: wall seconds and peak memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from ospo_cli.maths.click_models import MODELS, ClickCounts, grades, position_based
from ospo_cli.params.prepare_data import PrepareData
from ospo_cli.sources import opening

ITEMS = 10


def sessions(
    draw: np.random.Generator, truth: np.ndarray, habit: np.ndarray, bias: float, query: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return [sessions, items] places and clicks of sessions of the given queries."""
    orders = np.argsort(-(habit[query] + draw.normal(size=(len(query), ITEMS))), axis=1)
    places = np.argsort(orders, axis=1)
    looked = (1.0 + places) ** -bias
    return places, draw.random(places.shape) < looked * truth[query]


def simulated(bias: float, seed: int, queries: int, per_query: int, shape: tuple[float, float] = (1, 4)) -> tuple[np.ndarray, ClickCounts]:
    """Return the true attraction, [queries, items], and the summed log; attraction from Beta(`shape`)."""
    draw = np.random.default_rng(seed)
    truth, habit = draw.beta(*shape, size=(queries, ITEMS)), draw.normal(size=(queries, ITEMS))
    query = np.repeat(np.arange(queries), per_query)
    places, clicks = sessions(draw, truth, habit, bias, query)
    cell = (query[:, None] * ITEMS + np.arange(ITEMS)) * ITEMS + places
    shown = np.bincount(cell.ravel(), minlength=queries * ITEMS * ITEMS).astype(float)
    clicked = np.bincount(cell.ravel(), clicks.ravel(), minlength=len(shown))
    rows = np.nonzero(shown)[0]
    return truth, ClickCounts(rows // ITEMS, np.repeat(np.arange(queries), ITEMS), rows % ITEMS, shown[rows], clicked[rows])


def correlation(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over queries of the rank correlation; 0 where all are equal."""
    pairs = zip(found.reshape(-1, ITEMS), truth, strict=True)
    return float(np.mean([spearmanr(a, b).statistic if np.ptp(a) else 0.0 for a, b in pairs]))


def agreement(bias: float) -> dict[str, float]:
    """Return the mean over queries of the rank correlation with the truth, by model."""
    truth, counts = simulated(bias, 0, 300, 400)
    return {name: correlation(model(counts, 1.0).attraction, truth) for name, model in MODELS.items()}


def print_grades(impressions: list[int], priors: list[float], seeds: int = 3) -> None:
    """Print how well four grades of short logs agree with the truth."""
    print("attraction  impressions  " + "  ".join(f"prior {prior:g}: grades, highest" for prior in priors))
    for shape in ((1, 4), (2, 2)):
        for shown in impressions:
            cells = []
            for prior in priors:
                found = []
                for seed in range(seeds):
                    truth, counts = simulated(1.0, seed, 100, shown, shape)
                    own = grades(counts, position_based(counts, prior).attraction, 4)
                    found.append((correlation(own, truth), np.mean(own[own > 0] == 4)))
                (mean, share), spread = np.mean(found, axis=0), np.std([each for each, _ in found])
                cells.append(f"{mean:.3f} ± {spread:.3f}, {share:.2f}")
            print(f"Beta{shape}  {shown:11}  " + "  ".join(cells), flush=True)


def write_log(folder: Path, rows: int, seed: int = 0) -> None:
    """Write products and a log of so many impressions, in pieces."""
    import pyarrow.parquet as pq

    draw = np.random.default_rng(seed)
    queries = max(rows // 2000, 20)
    truth, habit = draw.beta(1, 4, size=(queries, ITEMS)), draw.normal(size=(queries, ITEMS))
    pl.DataFrame({"product_id": [f"p{index}" for index in range(ITEMS)], "title": [f"thing {index}" for index in range(ITEMS)]}).write_csv(
        folder / "products.csv"
    )
    writer, left = None, rows // ITEMS
    while left:
        query = draw.integers(queries, size=min(left, 100_000))
        places, clicks = sessions(draw, truth, habit, 1.0, query)
        table = pl.DataFrame(
            {
                "query": [f"query {index}" for index in query for _ in range(ITEMS)],
                "product_id": np.tile([f"p{index}" for index in range(ITEMS)], len(query)),
                "position": places.ravel() + 1,
                "clicked": clicks.ravel(),
                "day": np.repeat([f"2026-01-{day:02d}" for day in draw.integers(1, 31, size=len(query))], ITEMS),
            }
        ).to_arrow()
        writer = writer or pq.ParquetWriter(folder / "clicks.parquet", table.schema)
        writer.write_table(table)
        left -= len(query)
    if writer:
        writer.close()


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--read", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        start = time.perf_counter()
        data = opening.read(PrepareData(source="clicks", path=str(options.read)), 0, Path("/"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{time.perf_counter() - start:.1f} s, {peak:,.0f} MiB at most, {data.qrels.height:,} judgments of {data.prompts.height:,}")
        return
    print("bias  " + "  ".join(MODELS))
    for bias in (0.0, 1.0, 2.0):
        print(f"{bias:4.1f}  " + "  ".join(f"{value:{len(name)}.3f}" for name, value in agreement(bias).items()))
    print_grades([5, 10, 20, 400], [1.0, 10.0])
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_log(Path(folder), rows)
            done = subprocess.run([sys.executable, __file__, "--read", folder], capture_output=True, text=True, check=True)
            print(f"{rows:,} rows: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()

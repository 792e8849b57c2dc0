"""Every metric against ir_measures, on the judgments of data sets in the uniform layout: largest difference over random rankings.

python benchmarks/metrics.py FOLDER... [--queries 200] [--rankings 5]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import ir_measures
import numpy as np
import polars as pl

from ospo_cli.maths.ranking import metric_rows, parse_metric

NAMES = ("nDCG@1", "nDCG@10", "nDCG@100", "RR", "RR@10", "AP", "AP@10", "R@10", "R@100", "P@5", "P@10")
EXPONENTIAL = ("nDCG(dcg='exp-log2')@10", "nDCG(dcg='exp-log2')@100")


def main() -> None:
    """Print a line per data set and metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rankings", type=int, default=5)
    arguments = parser.parse_args()
    for folder in arguments.folders:
        compare(folder, arguments.queries, arguments.rankings)


def compare(folder: Path, queries: int, rankings: int) -> None:
    """Rank judged and other products at random, unlike lengths among them, and measure each ranking twice."""
    judgments = pl.read_parquet(folder / "judgments.parquet").select("query_id", "product_id", "grade").unique(maintain_order=True)
    others = pl.read_parquet(folder / "products.parquet", columns=["product_id"])["product_id"].to_list()
    rng = np.random.default_rng(0)
    largest = dict.fromkeys((*NAMES, *EXPONENTIAL), 0.0)
    ours_seconds = theirs_seconds = 0.0
    count = 0
    for (query_id,), frame in list(judgments.sort("query_id", "product_id").group_by(["query_id"], maintain_order=True))[:queries]:
        grades = dict(zip(frame["product_id"].to_list(), frame["grade"].to_list(), strict=True))
        if max(grades.values()) <= 0:
            continue
        qrels = [ir_measures.Qrel(str(query_id), document, grade) for document, grade in grades.items()]
        exponential = [qrel._replace(relevance=2**qrel.relevance - 1) for qrel in qrels]
        ideal = np.array(list(grades.values()), dtype=float)
        for _ in range(rankings):
            pool = list(dict.fromkeys([*grades, *rng.choice(others, 40).tolist()]))
            order = [pool[place] for place in rng.permutation(len(pool))[: rng.integers(1, len(pool) + 1)]]
            run = [ir_measures.ScoredDoc(str(query_id), document, 1e6 - place) for place, document in enumerate(order)]
            began = time.perf_counter()
            expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in NAMES], qrels, run)
            theirs = {str(measure): value for measure, value in expected.items()}
            linear = [ir_measures.parse_measure(name.replace("(dcg='exp-log2')", "")) for name in EXPONENTIAL]
            found = ir_measures.calc_aggregate(linear, exponential, run)
            theirs |= {name: found[measure] for name, measure in zip(EXPONENTIAL, linear, strict=True)}
            theirs_seconds += time.perf_counter() - began
            began = time.perf_counter()
            gains = np.array([[float(grades.get(document, 0)) for document in order]])
            ours = {name: float(metric_rows(parse_metric(name), gains, ideal)[0]) for name in largest}
            ours_seconds += time.perf_counter() - began
            largest = {name: max(value, abs(ours[name] - theirs[name])) for name, value in largest.items()}
            count += 1
    print(f"{folder.name}: {count} rankings, {ours_seconds:.2f} s here, {theirs_seconds:.2f} s ir_measures")
    for name, value in largest.items():
        print(f"  {parse_metric(name).name:<16} {name:<28} largest difference {value:.1e}")


if __name__ == "__main__":
    main()

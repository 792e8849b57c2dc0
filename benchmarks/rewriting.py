"""Queries per second and processor time of a rewriter, at several batch sizes; each batch with and without its gate, where it has one.

python benchmarks/rewriting.py QUERIES.txt [--policy K|FOLDER] [--project FOLDER] [--queries 512] [--batches 1 16 64 256] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ospo_cli.rewriting.chosen import choose
from ospo_cli.rewriting.rewriter import Asked, Rewriter


def main() -> None:
    """Print a line per batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries_file", type=Path, help="one query a line")
    parser.add_argument("--policy", default="")
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    lines = list(dict.fromkeys(filter(None, arguments.queries_file.read_text(encoding="utf-8").splitlines())))[: arguments.queries]
    rewriter = Rewriter.opened(choose(arguments.project, arguments.policy, arguments.threads))
    rewriter.rewrite([Asked(line) for line in lines[:4]])
    gate = rewriter.gate
    for size in arguments.batches:
        rewriter.setup = type(rewriter.setup)(**vars(rewriter.setup) | {"batch_size": size})
        names = ["with its gate", "without a gate"] if gate else ["without a gate"]
        took: dict[str, NDArray[np.float64]] = {name: np.zeros(3) for name in names}
        for start in range(0, len(lines), size):
            part = [Asked(line) for line in lines[start : start + size]]
            for name in names:
                rewriter.gate = gate if name == "with its gate" else None
                began, before = time.monotonic(), time.process_time()
                used = sum(one.is_used for one in rewriter.rewrite(part))
                took[name] += (time.monotonic() - began, time.process_time() - before, used)
        for name, (seconds, cpu, used) in took.items():
            told = f"{len(lines) / seconds:.4g} queries/s, {cpu * 1000 / len(lines):.2f} ms of the processor a query"
            print(f"batches of {size}, {name}: {told} ({len(lines)} queries, {used:.0f} rewritten)", flush=True)


if __name__ == "__main__":
    main()

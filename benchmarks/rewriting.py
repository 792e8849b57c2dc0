"""Queries per second of a rewriter, at several batch sizes.

python benchmarks/rewriting.py QUERIES.txt [--policy K|FOLDER] [--project FOLDER] [--queries 512] [--batches 1 16 64 256] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

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
    for size in arguments.batches:
        rewriter.setup = type(rewriter.setup)(**vars(rewriter.setup) | {"batch_size": size})
        began = time.monotonic()
        parts = [lines[start : start + size] for start in range(0, len(lines), size)]
        found = [one for part in parts for one in rewriter.rewrite([Asked(line) for line in part])]
        seconds = time.monotonic() - began
        used = Counter(one.why for one in found)["rewritten"]
        print(f"batches of {size}: {len(found) / seconds:.4g} queries/s ({len(found)} queries, {used} rewritten)", flush=True)


if __name__ == "__main__":
    main()

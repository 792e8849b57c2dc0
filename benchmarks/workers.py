"""What workers cost: processor seconds of shards in one process, and on one and two workers. `python -m benchmarks.workers`

Shards are tables of one row, so that all is overhead: keys, messages, files, hashes. The slope between two sizes is that of a shard, the
rest that of starting the workers, which here load polars alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import polars as pl

from ospo_cli.executors import engines
from ospo_cli.executors.base import Shard
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.processes import Process
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.params.execution import Execution
from ospo_cli.tables.declare import Column, Table

NUMBERS = Table("numbers", "", ("n",), (Column("n", pl.Int64, "a number"),))
SIZES = (50, 250)


def job(folder: Path, count: int) -> None:
    """Run shards of one row."""
    shards = [Shard(content_key("shard", number), 1, number) for number in range(count)]

    def work(number: int) -> dict[str, pl.DataFrame]:
        return {"numbers": pl.DataFrame({"n": [number]})}

    ShardFolder(folder).map_shards(work, shards, {"numbers": NUMBERS}, "benchmark", "shards")


def processor_seconds(workers: int, count: int) -> float:
    """Return what a job takes of this process and its children; 0 workers: in this process."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        program = [sys.executable, "-m", "benchmarks.workers", name, str(count)]
        before = os.times()
        with engines.using(Pool(lambda _: Process(program, {}), Execution(workers=workers)) if workers else engines.Local()):
            job(Path(name), count)
        now = os.times()
    return sum(now[:4]) - sum(before[:4])


def main() -> None:
    """Print a row per number of workers."""
    job_here = processor_seconds(0, SIZES[0])  # imports and first use
    print(f"workers | CPU s of {SIZES[0]} shards | of {SIZES[1]} | ms a shard | s a worker's start")
    base = 0.0
    for workers in (0, 1, 2):
        few, many = (min(processor_seconds(workers, count) for _ in range(2)) for count in SIZES)
        slope = (many - few) / (SIZES[1] - SIZES[0])
        base = base or slope
        start = (few - SIZES[0] * slope) / workers if workers else 0.0
        print(f"{workers or 'here'} | {few:.2f} | {many:.2f} | {1000 * slope:.2f} ({slope / base:.2f} x) | {start:.2f}")
    print(f"(first of all, with what is loaded then: {job_here:.2f} s)")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        with engines.engaged(Execution(), ()):
            job(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()

"""What workers cost, and how they grow: `python -m benchmarks.workers [processes ray] [--workers 1 2 4]`

Overhead: shards are tables of one row, so that all is keys, messages, files, hashes. Processor seconds of this process and all below it;
the slope between two numbers of shards is that of one, the rest is the workers' start, which here load polars alone. Ray's cluster is
started once, before. Growth: shards that wait half a second, as for a search server, and use no core: seconds a shard by the clock,
likewise a slope, against half a second divided by the number of workers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from ospo_cli.executors import engines, ray_actors
from ospo_cli.executors.base import Engine, Shard
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.processes import Process
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.params.execution import Execution
from ospo_cli.tables.declare import Column, Table

NUMBERS = Table("numbers", "", ("n",), (Column("n", pl.Int64, "a number"),))
SIZES, WAITING, WAIT_SECONDS = (50, 250), (8, 40), 0.5
PROGRAM = ("-m", "benchmarks.workers")


def job(folder: Path, count: int, wait: float) -> None:
    """Run shards of one row."""
    shards = [Shard(content_key("shard", number), 1, number) for number in range(count)]

    def work(number: int) -> dict[str, pl.DataFrame]:
        time.sleep(wait)
        return {"numbers": pl.DataFrame({"n": [number]})}

    ShardFolder(folder).map_shards(work, shards, {"numbers": NUMBERS}, "benchmark", "shards")


def engine(kind: str, workers: int, arguments: list[str]) -> Engine:
    """Return the engine of a name, whose workers run this file."""
    if kind == "here":
        return engines.Local()
    settings = Execution(workers=workers)
    if kind == "ray":
        ray_actors.PROGRAM = PROGRAM
        return ray_actors.actors(settings, arguments)
    return Pool(lambda _: Process([sys.executable, *PROGRAM, *arguments], {}), settings)


def processor_seconds() -> float:
    """Return what this process and all below it have taken so far."""
    parents, taken = dict[int, int](), dict[int, int]()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)], taken[int(path.name)] = int(fields[1]), sum(map(int, fields[11:15]))

    def is_below(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sum(ticks for pid, ticks in taken.items() if is_below(pid)) / os.sysconf("SC_CLK_TCK")


def took(kind: str, workers: int, count: int, wait: float = 0.0) -> tuple[float, float]:
    """Return the processor seconds and the seconds of a job."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        before, began = processor_seconds(), time.perf_counter()
        with engines.using(engine(kind, workers, [name, str(count), str(wait)])):
            job(Path(name), count, wait)
            return processor_seconds() - before, time.perf_counter() - began


def main() -> None:
    """Print a row per engine and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", default=["processes"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    asked = parser.parse_args()
    if "ray" in asked.engines:
        os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"})
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": max(asked.workers), "include_dashboard": False})
        os.environ["RAY_ADDRESS"] = cluster.address
    took("here", 1, SIZES[0])  # imports and first use
    print("engine | workers | CPU ms a shard | CPU s to start | s a waiting shard | of what is ideal", flush=True)
    for kind, workers in [("here", 1), *((kind, workers) for kind in asked.engines for workers in asked.workers)]:
        few, many = (min(took(kind, workers, count)[0] for _ in range(2)) for count in SIZES)
        slope = (many - few) / (SIZES[1] - SIZES[0])
        waited = [took(kind, workers, count, WAIT_SECONDS)[1] for count in WAITING]
        each = (waited[1] - waited[0]) / (WAITING[1] - WAITING[0])
        cells = [f"{1000 * slope:.1f}", f"{few - SIZES[0] * slope:.2f}", f"{each:.3f}", f"{each / (WAIT_SECONDS / workers):.2f}"]
        print(" | ".join([kind, str(workers), *cells]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4 and "OSPO_WORKER" in os.environ:
        with engines.engaged(Execution(), ()):
            job(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()

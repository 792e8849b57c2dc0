"""A command of two loops over shards, quick to start, that misbehaves as files in its folder say. `python -m tests.executors.toy FOLDER [drive]`"""

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ospo_cli.errors import Finished, OspoError
from ospo_cli.executors import engines, ray_actors
from ospo_cli.executors.base import Shard
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.processes import Process
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.params.execution import Execution
from ospo_cli.tables.declare import Column, Table

NUMBERS = Table("numbers", "", ("n",), (Column("n", pl.Int64, "a number"),))
SHARDS = 6
PROGRAM = ("-m", "tests.executors.toy")


@dataclass
class Counted:
    """How much was computed."""

    rows: int = 0


def misbehave(folder: Path, number: int) -> None:
    """Do what a file says, as often as it says: `die-3` holding `2` kills the first two processes that compute shard 3."""
    time.sleep(0.2 * (folder / "slow").exists())
    if (folder / "devices").exists():
        (folder / f"devices-{number}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    for name in ("die", "hang", "refuse", "fail", "orphan"):
        told = folder / f"{name}-{number}"
        left = int(told.read_text()) if told.exists() else 0
        if not left:
            continue
        told.write_text(str(left - 1))
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "orphan":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        elif name == "hang":
            time.sleep(600)
        elif name == "refuse":
            raise OspoError("toy", "cannot be done", found=number, remedy="remove the file")
        else:
            raise ValueError("a defect")


def jobs(folder: Path) -> list[pl.DataFrame]:
    """Run both loops: squares, and what is made of all of them."""
    counted, shards_in = Counted(), ShardFolder(folder / "shards")
    more = int((folder / "differ").exists() and engines.is_helper())

    def squares(number: int) -> dict[str, pl.DataFrame]:
        misbehave(folder, number)
        counted.rows += number + 1
        return {"numbers": pl.DataFrame({"n": [n * n for n in range(number + 1)]})}

    shards = [Shard(content_key("squares", number), 1, number) for number in range(SHARDS + more)]
    first = shards_in.map_shards(squares, shards, {"numbers": NUMBERS}, "squares", "shards", counted)
    fresh = sum(first[number]["numbers"].height for number in shards_in.fresh)
    assert engines.is_helper() or counted.rows == fresh, (counted, fresh)
    if engines.is_helper() and (folder / "between").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    total = sum(frame["numbers"]["n"].sum() for frame in first)

    def times(number: int) -> dict[str, pl.DataFrame]:
        misbehave(folder, 100 + number)
        return {"numbers": pl.DataFrame({"n": [number * total]})}

    shards = [Shard(content_key("times", number, total), 1, number) for number in range(3)]
    second = shards_in.map_shards(times, shards, {"numbers": NUMBERS}, "times", "shards")
    return [tables["numbers"] for tables in (*first, *second)]


def pool(folder: Path, settings: Execution) -> Pool:
    """Return workers that run this file."""
    return Pool(lambda place: Process([sys.executable, *PROGRAM, str(folder)], {}), settings)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if "broken" in {path.name for path in where.iterdir()}:
        sys.exit("ospo: params.yaml: is broken")
    if (where / "exits").exists():  # of each process that starts: `x` ends at once, anything else works
        this, rest = (where / "exits").read_text()[:1], (where / "exits").read_text()[1:]
        (where / "exits").write_text(rest)
        if this == "x":
            sys.exit("toy: cannot start")
    if sys.argv[2:] == ["drive"]:
        with engines.using(pool(where, Execution(workers=2))):
            jobs(where)
    elif sys.argv[2:] == ["drive on ray"]:
        ray_actors.PROGRAM, ray_actors.LOOK_SECONDS = PROGRAM, 1.0
        try:
            with engines.using(ray_actors.actors(Execution(workers=2), [str(where)])):
                jobs(where)
        except OspoError as error:
            sys.exit(error.line())
    else:
        with engines.engaged(Execution(), ()), contextlib.suppress(Finished):
            jobs(where)

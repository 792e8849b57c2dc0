"""Kills of workers and of their driver: whatever dies, and whenever, the same command then leaves the bytes of one process.

The command is the toy of tests/executors, whose processes start in a second; engine, pool, worker and folder of shards are those of every
stage. `python -m tests.faults.workers 100`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from ospo_cli.tables.unfinished import remove
from tests.executors import toy
from tests.faults.found import Found, Place

ROOT = Path(__file__).resolve().parents[2]
LONGEST_SECONDS = 120.0


def kills(place: Place, found: Found, random: Random) -> None:
    """Kill `found.count` processes, three in four of them workers, over as many runs as that takes."""
    killed(place.root, found, random)


def killed(root: Path, found: Found, random: Random) -> None:
    """Do so in a folder."""
    alone, number = root / "alone", 0
    toy.jobs(alone)
    expected = contents(alone)
    while number < found.count:
        folder = root / "workers"
        remove(folder)
        folder.mkdir()
        (folder / "slow").touch()
        number += _until_it_ends(folder, min(found.count - number, random.randint(1, 4)), random, found)
        if contents(folder) != expected:
            differing = sorted(contents(folder).items() ^ expected.items())[:3]
            found.faults.append(f"after kill {number}: other shards than one process writes: {[name for name, _ in differing]}")
        found.counts["runs compared"] += 1


def _until_it_ends(folder: Path, most: int, random: Random, found: Found) -> int:
    """Run the command again and again until it ends well; return the number of kills."""
    done, give_up = 0, time.monotonic() + 10 * LONGEST_SECONDS
    while time.monotonic() < give_up:
        with tempfile.TemporaryFile("w+") as errors:
            driver = subprocess.Popen([sys.executable, "-m", "tests.executors.toy", str(folder), "drive"], cwd=ROOT, stderr=errors)
            while driver.poll() is None:
                time.sleep(random.random() * 1.5)
                if not (hired := children(driver.pid)):
                    continue
                victims = [driver.pid] if random.random() < 0.25 else hired
                if done < most and driver.poll() is None:
                    os.kill(random.choice(victims), signal.SIGKILL)
                    done += 1
                    found.counts["driver killed" if victims == [driver.pid] else "worker killed"] += 1
            errors.seek(0)
            said = errors.read()
        while (left := working(folder)) and time.monotonic() < give_up:
            time.sleep(0.05)
        if left:
            found.faults.append(f"workers that outlive their driver: {left}")
        found.counts[f"status {driver.returncode}"] += 1
        if driver.returncode == 0:
            return done
        if driver.returncode == 1 and "workers ended over it" not in said and "ended before its first shard" not in said:
            found.faults.append(f"status 1 without a reason: {said[-600:]}")
    found.faults.append("has not ended")
    return done


def contents(folder: Path) -> dict[str, bytes]:
    """Return the finished files of shards."""
    shards = folder / "shards"
    files = [path for path in sorted(shards.rglob("*")) if path.is_file() and not path.name.endswith(".tmp")]
    return {str(path.relative_to(shards)): path.read_bytes() for path in files}


def children(pid: int) -> list[int]:
    """Return the processes that one has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def working(folder: Path) -> list[str]:
    """Return the processes that run the toy of a folder."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "tests.executors.toy" in line and str(folder) in line]


if __name__ == "__main__":
    result = Found("workers", int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        killed(Path(folder), result, Random(0))
    print(dict(sorted(result.counts.items())), f"faults {len(result.faults)}", *result.faults[:20], sep="\n")
    sys.exit(min(1, len(result.faults)))

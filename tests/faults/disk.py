"""Disks that are full or fail: at a random write, at a random size of file, and where it may be mounted on a file system of two megabytes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path
from random import Random

from tests.faults import commands, kills, peer, project
from tests.faults.found import Found, Place

ERRORS = {
    28: "No space left on device",
    5: "Input/output error",
    122: "Disk quota exceeded",
    13: "Permission denied",
    24: "Too many open files",
}
LARGEST_BYTES = 60_000


def refusals(place: Place, found: Found, random: Random) -> None:
    """Refuse one change on the disk, or every file beyond a size; then run again without."""
    places, output = kills.writes_by_stage(place), place.root / "output"
    for number in found.trials():
        stage, last = kills.random_write(places, random)
        folder = place.before(stage)
        if number % 3 == 2:
            most = random.randrange(LARGEST_BYTES)
            refused = commands.run(folder, ("run",), output, before=lambda most=most: _at_most(most))
            what = f"files of at most {most} bytes, from {stage} on"
        else:
            error = random.choice(sorted(ERRORS))
            refused = commands.run(folder, ("run",), output, before=lambda last=last, error=error: _refuse_at(last, error))
            what = f"{ERRORS[error]} at write {last} of {stage}"
        found.counts["refused"] += refused.status == 1
        found.ended(refused, what)
        if refused.status == 1 and "project.lock" not in refused.errors and not _names_a_file(refused.errors):
            found.faults.append(f"{what}: names no file: {refused.errors[-400:]}")
        found.compare(folder, place, what, is_whole=False)
        if left := [path for path in project.leftovers(folder) if not path.endswith("project.lock")]:
            found.counts["left half written, by a deletion that was refused"] += 1
            if number % 3 == 2:
                found.faults.append(f"{what}: left over: {', '.join(left[:3])}")
        found.mended(folder, place, output, what)
    _on_a_small_disk(place, max(1, found.count // 20), random, found)


def _names_a_file(errors: str) -> bool:
    last = errors.strip().splitlines()[-1]
    return "data" in last or "/" in last


def _at_most(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _refuse_at(last: int, error: int) -> None:
    def refuse(number: int, path: object) -> None:
        if number == last:
            raise OSError(error, ERRORS[error], path)  # the system's own errors of these calls name it too

    peer.count_writes(refuse)


def _on_a_small_disk(place: Place, count: int, random: Random, found: Found) -> None:
    mount = place.root / "small"
    mount.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        found.counts["left out: may not mount"] = count
        return
    for _ in range(count):
        size = random.randrange(50_000, 1_500_000)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], capture_output=True, check=False)
        if mounted.returncode:
            found.counts["left out: may not mount"] = count
            return
        try:
            _run_on(place, mount, size, found)
        finally:
            subprocess.run(["umount", "-l", str(mount)], capture_output=True, check=False)


def _run_on(place: Place, mount: Path, size: int, found: Found) -> None:
    folder = place.fresh()
    (mount / "data").mkdir()
    (folder / "data").symlink_to(mount / "data")
    full = commands.run(folder, ("run",), place.root / "output")
    what = f"a disk of {size} bytes"
    found.counts["full disks"] += full.status == 1
    found.ended(full, what)
    found.compare(folder, place, what, is_whole=False)
    if full.status == 1 and (left := project.leftovers(folder)):
        found.faults.append(f"{what}: left over: {', '.join(left[:3])}")
    subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], capture_output=True, check=True)
    found.mended(folder, place, place.root / "output", what)

"""Kills: at random moments of every stage, at every kind of write, while another command waits, and of `dvc repro`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from ospo_cli.tables.unfinished import remove
from tests.faults import commands, project
from tests.faults.found import Found, Place

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Events of the interpreter that come with a change on the disk.
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect")


def durations(errors: str) -> dict[str, float]:
    """Return the seconds of each stage, from what `ospo run` says."""
    return {stage: float(seconds) for stage, seconds in re.findall(r"\] ospo (.+): ([\d.]+) s$", errors, re.MULTILINE)}


def at_moments(place: Place, count: int, random: Random) -> Found:
    """Kill `ospo run` within a stage, each stage in turn; in every fourth case while a second one waits for it, which is killed too."""
    found, stages = Found(), list(place.seconds)
    for number in range(count):
        stage, sent = stages[number % len(stages)], SIGNALS[number // len(stages) % 3]
        folder, output = place.finished(), place.root / "output"
        project.undo_from(folder, stage)
        running = commands.start(folder, ("run",), output)
        waiting = commands.start(folder, ("run", "--wait"), place.root / "waiting") if number % 4 == 3 else None
        while not running.poll() and f"] ospo {stage}\n" not in running.errors:
            time.sleep(0.002)
        time.sleep(random.random() * place.seconds[stage])
        running.send(sent)
        running.wait()
        what = f"kill {number} ({sent.name} in {stage})"
        found.counts[f"killed in {stage.partition(' --iter')[0]}"] += running.status != 0
        found.counts[sent.name] += running.status != 0
        found.ended(running, what)
        if waiting is not None:
            time.sleep(random.random() * sum(place.seconds.values()) / 2)
            waiting.send(sent)
            waiting.wait()
            found.counts["also killed: one that waited"] += waiting.status != 0
            found.ended(waiting, f"{what}, the second one")
        found.compare(folder, place, what, is_whole=False)
        if sent != signal.SIGKILL and (left := project.leftovers(folder)):
            found.faults.append(f"{what}: left over: {', '.join(left[:3])}")
        found.mended(folder, place, output, what)
    return found


def at_writes(place: Place, count: int, random: Random) -> Found:
    """Kill `ospo run` (SIGKILL) just before it changes something on the disk: a rename, a deletion, a file opened to be written."""
    found = Found()
    total = writes_of_a_run(place)
    found.counts["places where the disk is changed"] = total
    for number in range(count):
        folder, output, last = place.fresh(), place.root / "output", random.randrange(total)
        killed = commands.run(folder, ("run",), output, before=lambda last=last: _kill_at(last))
        what = f"kill at write {last}"
        found.counts["killed"] += killed.status == -signal.SIGKILL
        found.ended(killed, what)
        found.compare(folder, place, what, is_whole=False)
        found.mended(folder, place, output, f"{what} ({number})")
    return found


def is_write(event: str, arguments: tuple[object, ...]) -> bool:
    """Tell whether an event of the interpreter comes with a change on the disk."""
    if event == "open":
        path, flags = arguments[0], arguments[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and not str(path).startswith(("/dev", "/proc"))
    return event in WRITES


def count_writes(do: Callable[[int], object]) -> None:
    """Call `do(number)` before each change on the disk, numbered from 0, in this process from now on."""
    counted = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_write(event, arguments):
            counted[0] += 1
            do(counted[0] - 1)

    sys.addaudithook(hook)


def _kill_at(last: int) -> None:
    count_writes(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == last else None)


def writes_of_a_run(place: Place) -> int:
    """Return how often an undisturbed run changes something on the disk."""
    path = place.root / "writes"

    def note() -> None:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        count_writes(lambda number: os.pwrite(opened, f"{number + 1:09d}".encode(), 0))

    assert commands.run(place.fresh(), ("run",), place.root / "output", before=note).status == 0
    return int(path.read_text())


def of_dvc(place: Place, count: int, random: Random) -> Found:
    """Kill `dvc repro` with all that it started, then mend by `ospo run`; the last one by `dvc repro` itself."""
    found = Found()
    if shutil.which("dvc") is None:
        found.counts["left out: no dvc"] = count
        return found
    longest = _repro_seconds(place)
    for number in range(count):
        folder, sent = _with_dvc(place), SIGNALS[number % 3]
        running = subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            running.communicate(timeout=random.random() * longest)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, sent)
            found.counts[f"{sent.name} of dvc repro"] += 1
            running.communicate()
        what = f"dvc repro, kill {number} ({sent.name})"
        found.compare(folder, place, what, is_whole=False)
        if number == count - 1:
            again = subprocess.run(["dvc", "repro"], cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
            if again.returncode:
                found.faults.append(f"{what}: dvc repro again: {again.stdout[-500:]} {again.stderr[-500:]}")
        found.mended(folder, place, place.root / "output", what)
    return found


def _with_dvc(place: Place) -> Path:
    folder = place.fresh("dvc")
    remove(folder / ".dvc" / "cache")
    (folder / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["dvc", "config", "--local", "core.no_scm", "true"], cwd=folder, env=_environment(), check=True, capture_output=True)
    return folder


def _environment() -> dict[str, str]:
    return os.environ | {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "OSPO_CHECKPOINT_SECONDS": "0"}


def _repro_seconds(place: Place) -> float:
    began = time.monotonic()
    done = subprocess.run(["dvc", "repro"], cwd=_with_dvc(place), env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return time.monotonic() - began

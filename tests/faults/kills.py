"""Kills: at random moments of every stage, at every kind of write, while another command waits, and of `dvc repro`."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from random import Random

from ospo_cli.tables.unfinished import remove
from tests.faults import commands, project
from tests.faults.found import Found, Place
from tests.faults.peer import count_writes

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def durations(errors: str) -> dict[str, float]:
    """Return the seconds of each stage, from what `ospo run` says."""
    return {stage: float(seconds) for stage, seconds in re.findall(r"\] ospo (.+): ([\d.]+) s$", errors, re.MULTILINE)}


def at_moments(place: Place, found: Found, random: Random) -> None:
    """Kill `ospo run` within a stage, each stage in turn; in every fourth case while a second one waits for it, which is killed too."""
    stages = list(place.seconds)
    for number in found.trials():
        stage, sent = stages[number % len(stages)], SIGNALS[number // len(stages) % 3]
        folder, output = place.before(stage), place.root / "output"
        running = commands.start(folder, ("run",), output)
        waiting = commands.start(folder, ("run", "--wait"), place.root / "waiting") if number % 4 == 3 else None
        while not running.poll() and f"] ospo {stage}\n" not in running.errors:
            time.sleep(0.005)
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


def at_writes(place: Place, found: Found, random: Random) -> None:
    """Kill `ospo run` (SIGKILL) just before it changes something on the disk: a rename, a deletion, a file opened to be written."""
    places, output = writes_by_stage(place), place.root / "output"
    found.counts["places where the disk is changed"] = places[next(iter(places))]
    for number in found.trials():
        stage, last = random_write(places, random)
        folder = place.before(stage)
        killed = commands.run(folder, ("run",), output, before=lambda last=last: _kill_at(last))
        what = f"kill at write {last} of {stage}"
        found.counts["killed"] += killed.status == -signal.SIGKILL
        found.ended(killed, what)
        found.compare(folder, place, what, is_whole=False)
        found.mended(folder, place, output, f"{what} ({number})")


def _kill_at(last: int) -> None:
    count_writes(lambda number, path: os.kill(os.getpid(), signal.SIGKILL) if number == last else None)


def writes_by_stage(place: Place) -> dict[str, int]:
    """Return, by stage and at last by an empty name, how often an undisturbed run changes something on the disk from that stage on."""
    path, found = place.root / "writes", {}

    def note() -> None:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        count_writes(lambda number, path: os.pwrite(opened, f"{number + 1:09d}".encode(), 0))

    for stage in (*place.seconds, ""):
        folder = place.before(stage) if stage else place.finished()
        assert commands.run(folder, ("run",), place.root / "output", before=note).status == 0
        found[stage] = int(path.read_text())
    return found


def random_write(places: dict[str, int], random: Random) -> tuple[str, int]:
    """Return a stage, drawn by how often it changes the disk, and the number of one of these changes in a run that begins with it."""
    of_stage = {stage: places[stage] - places[after] for stage, after in itertools.pairwise(places)}
    stage = random.choices(list(of_stage), list(of_stage.values()))[0]
    return stage, random.randrange(of_stage[stage] + places[""])


def of_dvc(place: Place, found: Found, random: Random) -> None:
    """Kill `dvc repro` with all that it started, within each stage in turn, then mend by `ospo run`; the last one by `dvc repro` itself."""
    if shutil.which("dvc") is None:
        found.counts["left out: no dvc"] = found.count
        return
    whole, seconds = _with_dvc(place)
    stages = list(seconds)
    for number in found.trials():
        stage, sent, folder = stages[number % len(stages)], SIGNALS[number // len(stages) % 3], project.copied(whole, place.root / "dvc")
        project.undo_from(folder, stage)
        remove(folder / ".dvc" / "cache")  # where DVC would find the results of the same stage
        what = f"dvc repro, kill {number} ({sent.name} in {stage})"
        with _repro(folder) as running:
            assert running.stdout is not None
            if any(line == f"> ospo {stage}\n" for line in running.stdout):
                time.sleep(random.random() * seconds[stage])
                os.killpg(running.pid, sent)
            running.communicate()
        found.counts[f"{sent.name} of dvc repro"] += running.returncode != 0
        found.compare(folder, place, what, is_whole=False)
        if number == found.count - 1:
            with _repro(folder) as again:
                said, _ = again.communicate()
            found.faults += [f"{what}: dvc repro again: {said[-1000:]}"] if again.returncode else []
        found.mended(folder, place, place.root / "output", what)


def _with_dvc(place: Place) -> tuple[Path, dict[str, float]]:
    """Return a project that `dvc repro` made, and the seconds that each stage took."""
    folder, began = place.fresh("dvc-whole"), dict[str, float]()
    (folder / "dvc.lock").unlink(missing_ok=True)
    for command in (["ospo", "graph"], ["dvc", "config", "--local", "core.no_scm", "true"]):  # the first: for train.iterations
        subprocess.run(command, cwd=folder, env=_environment(), check=True, capture_output=True)
    with _repro(folder) as running:
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if line.startswith("> ospo "):
                began[line[len("> ospo ") :].strip()] = time.monotonic()
    assert running.returncode == 0, "".join(said[-40:])
    ends = [*began.values(), time.monotonic()]
    took = {stage: after - before for stage, (before, after) in zip(began, itertools.pairwise(ends), strict=True)}
    return folder, {stage: took[stage] for stage in place.seconds}


def _repro(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    return os.environ | {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "OSPO_CHECKPOINT_SECONDS": "0"}

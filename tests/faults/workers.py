"""Kills of workers and of their driver: whatever dies, and whenever, the same command then leaves the bytes of one process.

The commands are `ospo rollout`, `score-coalitions`, `evaluate`, `headroom` and both audits of the miniature with two workers. Drivers and
workers are forked from processes that have loaded the libraries; engine, pool, worker and shards are what the command line has.
`python -m tests.faults.workers 100` kills without the rest of the campaign, `… 60 processes audit headroom` in these commands alone,
`… 20 ray` on a Ray cluster of this machine, whose head is killed too; then another one is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Protocol

import yaml

from ospo_cli.tables.unfinished import remove
from tests.faults import commands, project
from tests.faults.found import Found, Place

LONGEST_SECONDS = 900.0
# Why a command may end with 1 when so many are killed.
REASONS = ("workers ended over it", "ended before its first shard", "the Ray cluster is gone", "no Ray cluster there")
# Each with the stage whose results go before it, and what it writes that is compared, below data/.
COMMANDS = {
    "rollout --iter 1": "iterations/001/rollouts.parquet",
    "score-coalitions --iter 1": "iterations/001/*values.parquet",
    "evaluate": "evaluation/*.parquet",
    "audit --iter 1": "iterations/001/audit*.parquet",
    "audit --iter 1 --gradients --prompts 4": "iterations/001/gradient_audit.parquet",
    "headroom --split train": "headroom/*.parquet",
}


class Forking:
    """A process that forks workers, so that none has to load the libraries; it was forked itself before anything started threads."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.ours.close()
            self._serve(theirs)
            os._exit(0)
        theirs.close()

    def end(self) -> None:
        """End it; workers end with their drivers."""
        self.ours.close()
        os.waitpid(self.pid, 0)

    def _serve(self, asked: socket.socket) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a nurse has ended
        while True:
            content, given, _, _ = socket.recv_fds(asked, 1 << 20, 4)
            if not content:
                return
            if os.fork() == 0:
                asked.close()
                _nurse(json.loads(content), given)
            for descriptor in given:
                os.close(descriptor)

    def start(self, request: Mapping[str, Any], given: Sequence[int]) -> None:
        """Have a worker forked: its program, environment and folder; its stdin, stdout and stderr, and where its pid and status go."""
        socket.send_fds(self.ours, [json.dumps(request).encode()], given)


def _nurse(request: Mapping[str, Any], given: Sequence[int]) -> None:
    """Fork a worker, tell its pid, and then how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told = given
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        for descriptor in given:
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        commands.become(tuple(request["arguments"]), Path(request["folder"]))
    for descriptor in streams:
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):  # the driver is gone, and so the worker will be
        os.write(told, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


class Popen:
    """`subprocess.Popen` as far as `processes.Process` uses it, by such a process."""

    forking: Forking

    def __init__(self, program: Sequence[str], *, cwd: str | None, env: Mapping[str, str], stderr: Any, **_: Any) -> None:
        orders, answers, told = os.pipe(), os.pipe(), os.pipe()
        request = {"arguments": list(program[3:]), "environment": dict(env), "folder": cwd or os.getcwd()}
        self.forking.start(request, (orders[0], answers[1], stderr.fileno(), told[1]))
        for descriptor in (orders[0], answers[1], told[1]):
            os.close(descriptor)
        self.stdin, self.stdout = os.fdopen(orders[1], "w", encoding="utf-8"), os.fdopen(answers[0], encoding="utf-8")
        self._told = os.fdopen(told[0])
        self.pid, self.returncode = int(self._told.readline()), None

    def wait(self) -> int:
        """Return its exit status."""
        if self.returncode is None:
            self.returncode = int(self._told.readline())
        return self.returncode


class Engine(Protocol):
    """How a command is started with its engine."""

    def start(self, folder: Path, asked: tuple[str, ...], output: Path) -> commands.Command:
        """Start it with two workers."""
        ...

    def head(self) -> list[int]:
        """Return what else may be killed: processes that the cluster does not survive."""
        ...


class ByForking:
    """Drivers and workers that are forked."""

    def __init__(self) -> None:
        self.forking = Forking()

    def start(self, folder: Path, asked: tuple[str, ...], output: Path) -> commands.Command:
        """Start a command in a child."""

        def before() -> None:
            from ospo_cli.executors import processes

            os.environ.update({"OSPO_ENGINE": "processes", "OSPO_WORKERS": "2"})
            Popen.forking = self.forking
            processes.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": Popen})

        return commands.start(folder, asked, output, before)

    def head(self) -> list[int]:
        """Nothing."""
        return []


class OnRay:
    """Commands on a Ray cluster of this machine; a new one where it was killed."""

    def __init__(self) -> None:
        os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"})
        self.cluster: Any = None

    def start(self, folder: Path, asked: tuple[str, ...], output: Path) -> commands.Command:
        """Start a command as a user does."""
        if not self.head():
            from ray.cluster_utils import Cluster

            self.end()
            for _ in range(5):  # Ray waits for its own start for half a minute, which a busy machine may not keep
                with contextlib.suppress(Exception):
                    self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
                    break
        environment = os.environ | {
            "OSPO_ENGINE": "ray",
            "OSPO_WORKERS": "2",
            "RAY_ADDRESS": self.cluster.address,
            "OSPO_CHECKPOINT_SECONDS": "0",
        }
        output.mkdir(parents=True, exist_ok=True)
        with (output / "stdout").open("wb") as out, (output / "stderr").open("wb") as errors:
            program = [sys.executable, "-m", "ospo_cli", *asked]
            running = subprocess.Popen(program, cwd=folder, env=environment, stdout=out, stderr=errors, start_new_session=True)
        running.returncode = 0  # Command waits for it
        return commands.Command(asked, running.pid, output)

    def head(self) -> list[int]:
        """Return the process that keeps the cluster's books, as long as it is there."""
        process = self.cluster.head_node.all_processes["gcs_server"][0].process if self.cluster else None
        return [process.pid] if process and process.poll() is None else []

    def end(self) -> None:
        """End the cluster."""
        if self.cluster:
            self.cluster.shutdown()


def kills(place: Place, found: Found, random: Random) -> None:
    """Kill `found.count` processes, three in five of them workers, command by command, over as many runs as that takes."""
    whole, engine = _several_shards(place), ByForking()
    try:
        _killed(place.root, whole, found, random, engine)
    finally:
        engine.forking.end()


def kills_on_ray(place: Place, found: Found, random: Random) -> None:
    """Kill drivers, actors' worker processes, actors, and the cluster's head."""
    whole, engine = _several_shards(place), OnRay()
    try:
        _killed(place.root, whole, found, random, engine)
    finally:
        engine.end()


def _several_shards(place: Place) -> Path:
    """Return the project after a run whose loops have several shards each, which changes no rollout."""
    folder = place.finished("whole workers")
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content["rollout"]["batch_size"] = 3
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for command in COMMANDS:
        ran = commands.run(folder, tuple(command.split()), place.root / "output")
        assert ran.status == 0, ran.errors
    return folder


def _killed(root: Path, whole: Path, found: Found, random: Random, engine: Engine) -> None:
    number, asked = 0, list(COMMANDS)
    for _ in found.trials():
        if number >= found.count:
            break
        command = asked[found.counts["runs compared"] % len(asked)]
        folder = project.copied(whole, root / "workers")
        for kept in ("cache", "store"):
            remove(folder / "data" / kept)
        for path in (folder / "data").glob(COMMANDS[command]):
            path.unlink()
        most = min(found.count - number, random.randint(1, 4))
        number += _until_it_ends(folder, tuple(command.split()), most, random, found, engine)
        for path in sorted((whole / "data").glob(COMMANDS[command])):
            own = folder / path.relative_to(whole)
            if not own.is_file() or own.read_bytes() != path.read_bytes():
                found.faults.append(f"after kill {number}: {command}: {own.name} is not what one process writes")
        if left := project.leftovers(folder):
            found.faults.append(f"after kill {number}: {command}: left over: {', '.join(left[:3])}")
        found.counts["runs compared"] += 1


def _until_it_ends(folder: Path, command: tuple[str, ...], most: int, random: Random, found: Found, engine: Engine) -> int:
    """Run the command again and again until it ends well; return the number of kills."""
    done, give_up = 0, time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < give_up:
        running = engine.start(folder, command, folder.parent / "output")
        while not running.poll():
            time.sleep(random.random() * 0.3)
            hired = workers_of(folder)
            if not hired or done >= most or running.poll() or time.monotonic() > give_up:
                continue
            kind, victim = _victim(random, running.pid, hired, engine.head())
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
            done += 1
            found.counts[f"{kind} killed"] += 1
            found.counts[f"{kind} killed in {command[0]}"] += 1
        while (left := workers_of(folder)) and time.monotonic() < give_up:
            time.sleep(0.02)
        if left:
            found.faults.append(f"workers that outlive their driver: {left}")
        found.counts[f"status {running.status}"] += 1
        if running.status == 0:
            return done
        if complaint := running.complaint():
            found.faults.append(f"{' '.join(command)}: {complaint}")
        if running.status == 1 and not any(text in running.errors for text in REASONS):
            found.faults.append(f"status 1 without a reason: {running.errors[-600:]}")
    found.faults.append(f"{' '.join(command)}: has not ended")
    return done


def _victim(random: Random, driver: int, hired: Sequence[int], head: Sequence[int]) -> tuple[str, int]:
    """Draw what is killed: a worker mostly, a driver in two of five, and with Ray in place of a worker its actor or the head."""
    drawn, worker = random.random(), random.choice(hired)
    if drawn < 0.4:
        return "driver", driver
    if head and drawn < 0.5:
        return "head", head[0]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if drawn < 0.7 and b"ray::" in Path(f"/proc/{parent_of(worker)}/cmdline").read_bytes():
            return "actor", parent_of(worker)
    return "worker", worker


def workers_of(folder: Path) -> list[int]:
    """Return the workers that run in a folder: their environment says what they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            is_own = os.readlink(path / "cwd") == str(folder)
            if is_own and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z" and _is_worker(path):
                found.append(int(path.name))
        except OSError:  # it has ended
            continue
    return found


def parent_of(pid: int) -> int:
    """Return the process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _is_worker(path: Path) -> bool:
    # A forked worker has the environment of the process that forked it; it is the leader of its session, and no driver is.
    if b"OSPO_WORKER=1" in (path / "environ").read_bytes().split(b"\0"):
        return True
    return os.getsid(int(path.name)) == int(path.name) and (path / "cmdline").read_bytes().find(b"ospo_cli") < 0


def main(count: int, engine: str = "processes", *stages: str) -> int:
    """Make the miniature, kill so many processes of one engine, in these commands alone if any is named, and print what was found."""
    for command in [each for each in COMMANDS if stages and each.split()[0] not in stages]:
        del COMMANDS[command]
    commands.load()
    found = Found("workers", count)
    with tempfile.TemporaryDirectory(prefix="ospo-workers-") as folder:
        root = Path(folder)
        whole = commands.run(project.make(root / "whole"), ("run",), root / "output")
        assert whole.status == 0, whole.errors
        place = Place(root, root / "whole", project.outputs(root / "whole"), {})
        (kills_on_ray if engine == "ray" else kills)(place, found, Random(0))
    print(dict(sorted(found.counts.items())), f"faults {len(found.faults)}", *found.faults[:20], sep="\n")
    return min(1, len(found.faults))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))

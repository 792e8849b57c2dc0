"""A worker: the same command in another process, which stops where shards are looped over and computes those that it is told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import queue
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ospo_cli import __version__
from ospo_cli.errors import FileError, OspoError
from ospo_cli.executors.base import Job
from ospo_cli.executors.progress import Progress

if TYPE_CHECKING:
    from ospo_cli.params.execution import Execution

# What decides bits of a result. One that is not installed is the same everywhere or is missed when it is asked for.
PACKAGES = (
    "faiss-cpu",
    "numba",
    "numpy",
    "peft",
    "polars",
    "pyarrow",
    "ray",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "vllm",
)
# A shared file system may take so long until one machine sees what another wrote.
VISIBLE_SECONDS = 60.0


class WorkerError(OspoError):
    """Workers that cannot do their shards."""


def name_of(job: Job) -> str:
    """Return the SHA-256 (hex) of the names of a job's shards."""
    return hashlib.sha256("\n".join(shard.key for shard in job.shards).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return what must be equal among processes that share a job: this package's code, Python, and packages that decide bits."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    found = {"ospo": __version__, "code of ospo": code.hexdigest()[:16], "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_versions(theirs: Mapping[str, str], where: str) -> None:
    """Raise WorkerError where another process has other versions than this one."""
    if differing := [name for name, own in versions().items() if theirs.get(name) != own]:
        name = differing[0]
        remedy = "install the same versions on all machines"
        raise WorkerError(where, f"has another version of {name}", found=theirs.get(name), expected=versions()[name], remedy=remedy)


def is_visible(job: Job, number: int) -> bool:
    """Tell whether another process's shard lies finished here, and wait a while for that."""
    give_up = time.monotonic() + VISIBLE_SECONDS
    while not job.is_done(number):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.2)
    return True


class Worker:
    """Talks in JSON lines: `at` (a job's name), `done` and `error` go out, `do` and `go on` come in. Ends with its driver."""

    works_here = True

    def __init__(self, settings: Execution, command: Sequence[str]) -> None:
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._orders_in, self._out = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a child of this process would read orders
        os.dup2(2, 1)  # what a library prints is no message
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Compute what the driver names, until it says that all are there."""
        self._say({"at": name_of(job), "versions": versions(), "place": f"process {os.getpid()} on {socket.gethostname()}"})
        while "do" in (order := self._orders.get()):
            number = int(order["do"])
            try:
                _check_shared(Path(order["probe"]), order["text"])
                before = dataclasses.asdict(job.counts) if job.counts is not None else {}
                job.do(number)
            except OspoError as error:
                self._say({"error": error.line()})
                raise
            now = dataclasses.asdict(job.counts) if job.counts is not None else {}
            self._say({"done": number, "counts": {name: now[name] - value for name, value in before.items()}})
        for number in range(len(job.shards)):
            if not is_visible(job, number):
                raise FileError(job.folder, "a finished shard is not seen here", found=job.shards[number].key, remedy="share the folder")
        return set()

    def end(self) -> None:
        """Nothing was started."""

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def _listen(self) -> None:
        for line in self._orders_in:
            self._orders.put(json.loads(line))
        # The driver is gone, whatever is being computed: with all that was started from here.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _check_shared(probe: Path, text: str) -> None:
    try:
        found = probe.read_text(encoding="ascii")
    except OSError as error:
        found = error.strerror or str(error)
    if found != text:
        raise FileError(
            probe.parent,
            "is not the folder that the command writes into",
            found=f"{found} for a file that it has just written, on {socket.gethostname()}",
            remedy="give all machines the project's folder under the same path (NFS), or run on one",
        )

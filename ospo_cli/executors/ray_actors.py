"""Workers as actors of a Ray cluster: each holds the worker's process on its node, so that a node that goes takes one worker with it.

Ray places actors and tells when one is gone; shards, keys and retries are the pool's, and nothing but lines of text goes through Ray.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ospo_cli.errors import ParameterError, first_line
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.processes import Process

if TYPE_CHECKING:
    from ospo_cli.params.execution import Execution

CONNECT_SECONDS = 10.0
PROGRAM = ("-m", "ospo_cli")
TOKEN = Path("~/.ray/auth_token")


class Seat(Process):
    """The worker's process, where the actor is: with that node's Python, in the driver's folder. Ray has chosen its GPUs."""

    def __init__(self, arguments: Sequence[str], folder: str) -> None:
        super().__init__([sys.executable, *arguments], {}, folder)


class Actor:
    """A seat somewhere in the cluster."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle, self._why = ray, handle, ""

    def send(self, line: str) -> None:
        """Give its process a line."""
        self._handle.send.remote(line)

    def read(self) -> str:
        """Return the process's next line; an empty text once it or the actor is gone."""
        try:
            return str(self._ray.get(self._handle.read.remote()))
        except self._ray.exceptions.RayError as error:
            self._why = f"the actor is gone ({type(error).__name__}: {_reason(error)})"
            return ""

    def kill(self) -> None:
        """End the actor; its process ends with it."""
        self._ray.kill(self._handle)

    def last_words(self) -> str:
        """Return how the process ended, or why the actor is gone."""
        try:
            return self._why or str(self._ray.get(self._handle.last_words.remote(), timeout=CONNECT_SECONDS))
        except self._ray.exceptions.RayError as error:
            return f"the actor is gone ({type(error).__name__}: {_reason(error)})"


def actors(settings: Execution, command: Sequence[str]) -> Pool:
    """Return the engine on the cluster at `execution.address`, at RAY_ADDRESS, or on one that is started here and ends with the command.

    Raises:
        ParameterError: Ray is not installed, there is no such cluster, or it is too small.
    """
    if TOKEN.expanduser().is_file():  # of which Ray makes use, of itself, for a cluster of its own alone; to be said before it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise ParameterError("execution.engine", "ray is not installed", remedy="pip install 'ospo[ray]'") from None
    _connect(ray, settings.address or os.environ.get("RAY_ADDRESS", ""), settings)
    try:
        _check_size(ray, settings)
    except ParameterError:
        ray.shutdown()
        raise
    seat = ray.remote(num_cpus=1, num_gpus=settings.gpus_per_worker, max_concurrency=4)(Seat)
    arguments = [*PROGRAM, *command]
    return Pool(lambda _: Actor(ray, seat.remote(arguments, os.getcwd())), settings, ray.shutdown)


def _connect(ray: Any, address: str, settings: Execution) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {} if address else {"num_cpus": settings.workers, "include_dashboard": False}
    try:
        if address:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # Ray raises this very class too
        remedy = "start one (`ray start --head`), correct execution.address, or leave it empty for one on this machine"
        raise ParameterError(
            "execution.address", "no Ray cluster there", found=f"{address or 'this machine'}: {first_line(error)}", remedy=remedy
        ) from None


def _check_size(ray: Any, settings: Execution) -> None:
    there = ray.cluster_resources()
    for kind, each, name in (("CPU", 1, "execution.workers"), ("GPU", settings.gpus_per_worker, "execution.gpus_per_worker")):
        needed, found = settings.workers * each, int(there.get(kind, 0))
        if needed > found:
            remedy = "lower execution.workers, or add nodes"
            raise ParameterError(name, f"fewer {kind}s than asked", found=f"{found} in the cluster", expected=needed, remedy=remedy)


def _reason(error: BaseException) -> str:
    # Ray's messages are paragraphs; the last line says what happened.
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else "no reason given"

"""Workers as actors of a Ray cluster: each holds the worker's process on its node, so that a node that goes takes one worker with it.

Ray places actors and tells when one is gone; shards, keys and retries are the pool's, and nothing but lines of text goes through Ray.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ospo_cli.errors import OspoError, ParameterError, first_line, of_extra
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.processes import Process
from ospo_cli.executors.worker import WorkerError

if TYPE_CHECKING:
    from ospo_cli.params.execution import Execution

CONNECT_SECONDS = 10.0
# A worker may be silent for long. Meanwhile the head is looked for; Ray itself ends a process that has not reached it for a minute.
LOOK_SECONDS, LOOKS = 5.0, 3
PROGRAM = ("-m", "ospo_cli")
TOKEN = Path("~/.ray/auth_token")
START = "start one (`ray start --head`), correct execution.address, or leave it empty for one on this machine"
# What a client of HTTP/2, and so of Ray's head, says first, with empty settings; a server answers with its own.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


class Seat(Process):
    """The worker's process, where the actor is: with that node's Python, in the driver's folder. Ray has chosen its GPUs."""

    def __init__(self, arguments: Sequence[str], folder: str) -> None:
        super().__init__([sys.executable, *arguments], {}, folder)
        threading.Thread(target=self._watch, args=(os.getppid(),), daemon=True).start()

    def _watch(self, parent: int) -> None:
        # Ray's process on this node is gone: the actor would wait for its worker for ever.
        while os.getppid() == parent:
            time.sleep(1.0)
        self.kill()
        os._exit(1)


class Cluster:
    """A Ray cluster, connected to when the first worker is hired.

    Args:
        settings: section execution.
        address: host:port, `auto`, or empty for a cluster that is started here and ends with the command.
        arguments: of the worker's Python.
    """

    def __init__(self, settings: Execution, address: str, arguments: Sequence[str]) -> None:
        self.settings, self.address, self.arguments = settings, address, list(arguments)
        self.ray: Any = None
        self.head = self.node = ""

    def hire(self, place: int) -> Actor:
        """Place one more actor.

        Raises:
            OspoError: the cluster cannot be had, is too small, or is gone.
        """
        if self.ray is None:
            self._connect()
        elif why := self.is_lost() or ("" if self._has_own_node() else "Ray's process on this machine has ended"):
            raise WorkerError("execution.address", "the Ray cluster is gone", found=why, remedy=f"finished shards are kept; {START}")
        seat = self.ray.remote(num_cpus=1, num_gpus=self.settings.gpus_per_worker, max_concurrency=4)(Seat)
        return Actor(self, seat.remote(self.arguments, os.getcwd()))

    def is_lost(self) -> str:
        """Return why the head cannot be reached; an empty text where it can."""
        try:
            _meet(self.head)
        except OSError as error:
            return f"{self.head} does not answer: {error.strerror or error}"
        return ""

    def release(self) -> None:
        """Part from the cluster; one that was started here ends."""
        if self.ray is not None:
            self.ray.shutdown()

    def _has_own_node(self) -> bool:
        return any(node["NodeID"] == self.node and node["Alive"] for node in self.ray.nodes())

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Of itself Ray makes use of the token for a cluster of its own alone; it has to be told before it is imported.
        if TOKEN.expanduser().is_file():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        own = {} if self.address else {"num_cpus": self.settings.workers, "include_dashboard": False}
        ours = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=self.address or "local", log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # Ray raises RuntimeError, ConnectionError, ValueError, its own, and this very class
            raise refusal(error, self.address) from None
        finally:
            signal.signal(signal.SIGTERM, ours)  # Ray takes it for itself
        self.ray, context = ray, ray.get_runtime_context()
        self.head, self.node = context.gcs_address, context.get_node_id()
        there, settings = ray.cluster_resources(), self.settings
        for kind, each, name in (("CPU", 1, "execution.workers"), ("GPU", settings.gpus_per_worker, "execution.gpus_per_worker")):
            needed, found = settings.workers * each, int(there.get(kind, 0))
            if needed > found:
                remedy = "lower execution.workers, or add nodes"
                raise ParameterError(name, f"fewer {kind}s than asked", found=f"{found} in the cluster", expected=needed, remedy=remedy)


class Actor:
    """A seat somewhere in the cluster."""

    def __init__(self, cluster: Cluster, handle: Any) -> None:
        self._cluster, self._ray, self._handle = cluster, cluster.ray, handle
        self._why, self._has_spoken = "", False

    def send(self, line: str) -> None:
        """Give its process a line."""
        self._handle.send.remote(line)

    def read(self) -> str:
        """Return the process's next line; an empty text once it, the actor or the cluster is gone."""
        coming, lost = self._handle.read.remote(), 0
        while lost < LOOKS:
            try:
                line = str(self._ray.get(coming, timeout=LOOK_SECONDS))
            except self._ray.exceptions.GetTimeoutError:
                self._why = self._cluster.is_lost()
                lost = lost + 1 if self._why else 0
            except self._ray.exceptions.RayError as error:
                self._why = _gone(error)
                return ""
            else:
                self._has_spoken, self._why = True, ""
                return line
        return ""

    def kill(self) -> None:
        """End the process with all that it started, and the actor."""
        if self._has_spoken and not self._why:  # else there is nobody who would do it
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(self._handle.kill.remote(), timeout=CONNECT_SECONDS)
        self._ray.kill(self._handle)

    def last_words(self) -> str:
        """Return how the process ended, or why the actor is gone."""
        try:
            return self._why or str(self._ray.get(self._handle.last_words.remote(), timeout=CONNECT_SECONDS))
        except self._ray.exceptions.RayError as error:
            return _gone(error)


def actors(settings: Execution, command: Sequence[str]) -> Pool:
    """Return the engine on the cluster at `execution.address`, at RAY_ADDRESS, or on one that is started here when there is work.

    Raises:
        ParameterError: Ray is not installed, or nobody answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise ParameterError("execution.engine", "ray is not installed", remedy=of_extra("ray"))
    address = (settings.address or os.environ.get("RAY_ADDRESS", "")).removesuffix("local")
    if address not in ("", "auto"):
        try:
            _meet(address)
        except (OSError, ValueError, OverflowError) as error:  # no such host or port, nobody there, none of Ray's
            raise refusal(error, address) from None
    cluster = Cluster(settings, address, [*PROGRAM, *command])
    return Pool(cluster.hire, settings, cluster.release)


def refusal(error: Exception, address: str) -> OspoError:
    """Return what is said where Ray cannot be connected to or started."""
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        remedy = "install the same versions of Python and Ray on all machines"
        return ParameterError("execution.address", "the Ray cluster has other versions", found=text, remedy=remedy)
    if type(error).__name__ == "AuthenticationError":
        remedy = f"give this machine the cluster's token ({TOKEN}), or start both with the same RAY_AUTH_MODE"
        return ParameterError("execution.address", "the Ray cluster does not let this command in", found=first_line(error), remedy=remedy)
    if not address:
        return OspoError(
            "execution.engine", "Ray does not start on this machine", found=first_line(error), remedy="mend that, or use --engine processes"
        )
    return ParameterError("execution.address", "no Ray cluster there", found=f"{address}: {first_line(error)}", remedy=START)


def _meet(address: str) -> None:
    # Ray itself would try for minutes, also where something else listens.
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ValueError("is not host:port")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as meeting:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            meeting.sendall(_PREFACE)
            answer = meeting.recv(9)
            if answer[3:4] != b"\4":  # the frame of a server's settings
                raise ConnectionError("what listens there is not Ray's head")


def _gone(error: BaseException) -> str:
    # Ray's messages are paragraphs; the last line says what happened.
    reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else "no reason given"
    return f"the actor is gone ({type(error).__name__}: {reason})"

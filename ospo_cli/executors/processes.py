"""Programs that are spoken to in lines, and workers as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from ospo_cli.errors import ParameterError
from ospo_cli.executors.pool import Pool
from ospo_cli.executors.usage import PER_CORE, most_processes, own_cores
from ospo_cli.params.execution import Execution

# Threads of the libraries beneath, which would each take all cores; policy.threads, which changes bits, is set by the stages.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")
_LAST_BYTES = 4096


class Program:
    """A program that is spoken to in lines, in a process group of its own; its stderr is kept for its last line.

    Args:
        command: program and arguments.
        environment: all of it.
        folder: where it runs; None: here.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: str | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as the process is asked about)
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            encoding="utf-8", start_new_session=True,
        )  # fmt: skip

    def send(self, line: str) -> None:
        """Give it a line; one that is gone says why, or its exit status does."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the whole group at once."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_line(self) -> str:
        """Return the last line that it wrote on stderr; empty where there is none."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_BYTES))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


class Process(Program):
    """A program as a worker.

    Args:
        program: with its arguments.
        further: variables of the environment.
        folder: where it runs; None: here.
    """

    def __init__(self, program: Sequence[str], further: Mapping[str, str], folder: str | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "OSPO_ENGINE")}
        super().__init__(program, environment | {"OSPO_WORKER": "1", **further}, folder)

    def read(self) -> str:
        """Return its next line; an empty text once it has ended. A line that a kill cut short is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return line if line.endswith("\n") else ""

    def last_words(self) -> str:
        """Return how it ended, and its last line."""
        self.kill()  # what it started may outlive it
        status, line = self._process.returncode, self.last_line()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        how += " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"{how}; {line.removeprefix('ospo: ')}" if line and status >= 0 else how


def processes(settings: Execution, command: Sequence[str]) -> Pool:
    """Return the engine: as many processes as section execution says.

    Raises:
        ParameterError: there are fewer GPUs than that takes, or so many processes would end the machine.
    """
    gpus = visible_gpus() if settings.gpus_per_worker else []
    needed = settings.workers * settings.gpus_per_worker
    if needed > len(gpus):
        raise ParameterError(
            "execution.gpus_per_worker", "fewer GPUs than asked", found=f"{len(gpus)} here", expected=needed,
            remedy="lower execution.workers or execution.gpus_per_worker",
        )  # fmt: skip
    if settings.workers > (most := most_processes()):
        raise ParameterError(
            "execution.workers", "more processes than this machine may have", found=settings.workers,
            expected=f"at most {most}, {PER_CORE} a core", remedy="lower it, or use --engine ray on several machines",
        )  # fmt: skip
    program = [sys.executable, "-m", "ospo_cli", *command]
    return Pool(lambda place: Process(program, environment_of(place, settings, gpus)), settings)


def environment_of(place: int, settings: Execution, gpus: Sequence[str]) -> dict[str, str]:
    """Return what the worker at a place has in its environment: its share of the cores, and its GPUs."""
    cores = own_cores()
    threads = {name: str(max(1, cores // settings.workers)) for name in _THREADS if name not in os.environ}
    each = settings.gpus_per_worker
    return threads | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus[place * each : (place + 1) * each])} if each else {})


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without starting to use them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=60).stdout
        return [str(number) for number, _ in enumerate(listed.splitlines())]
    return []

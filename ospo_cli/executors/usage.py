"""What a piece of work takes: wall-clock and processor seconds, and the largest memory of the process meanwhile."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PER_CORE = 32  # processes, which may wait for a server; each takes memory


class Usage:
    """Context manager: `seconds`, `cpu_seconds` (all threads of this process) and `peak_bytes` of its block.

    Linux can forget a process's largest memory, so that the peak is the block's own; elsewhere it is the process's so far.
    """

    def __enter__(self) -> Usage:
        self.seconds = self.cpu_seconds = 0.0
        self.peak_bytes = 0
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *trace: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu_began
        self.peak_bytes = peak_bytes()


def peak_bytes() -> int:
    """Return the largest memory of this process since it was last forgotten."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Hold back the search for unreachable cycles: work that makes objects by the hundred thousand, none of them in a cycle."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def own_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_processes() -> int:
    """Return how many processes one command may start on this machine without GPUs."""
    return PER_CORE * own_cores()

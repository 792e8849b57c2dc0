"""Progress of long work on stderr: one rewritten line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts finished units and prints `label: done/total unit, rate, time left`.

    Args:
        label: the stage's name.
        total: units to do.
        unit: plural noun of what is counted.
        stream: where to print; stderr by default.
        every_seconds: least time between two plain lines (a terminal is refreshed every .2 s).
    """

    def __init__(self, label: str, total: int, unit: str, stream: TextIO | None = None, every_seconds: float = 5.0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream if stream is not None else sys.stderr
        self.is_terminal = self.stream.isatty()
        self.every_seconds = 0.2 if self.is_terminal else every_seconds
        self.start_seconds = self.last_seconds = time.monotonic()
        self.done = self.reused = 0
        self.detail = ""

    def advance(self, count: int = 1, detail: str = "", reused: bool = False) -> None:
        """Count `count` more units; `reused` ones came from a cache and do not enter the rate."""
        self.done += count
        self.reused += count if reused else 0
        self.detail = detail or self.detail
        now = time.monotonic()
        if self.done < self.total and now - self.last_seconds >= self.every_seconds:  # the last line is close's
            self.last_seconds = now
            self._print(end="")

    def close(self) -> None:
        """Print the last line."""
        self._print(end="\n" if self.is_terminal else "")

    def _print(self, end: str) -> None:
        elapsed = max(time.monotonic() - self.start_seconds, 1e-9)
        fresh = self.done - self.reused
        line = f"{self.label}: {self.done}/{self.total} {self.unit}"
        if self.reused:
            line += f" ({self.reused} from cache)"
        if fresh and self.done < self.total:
            rate = fresh / elapsed
            line += f", {rate:.3g}/s, {_duration((self.total - self.done) / rate)} left"
        elif self.done >= self.total:
            line += f", {_duration(elapsed)}"
        if self.detail:
            line += f", {self.detail}"
        if self.is_terminal:
            self.stream.write(f"\r\x1b[2K{line}{end}")
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


class Parts:
    """Parts of long work, one after the other: each is named on stderr when it begins, and `report` says what each took."""

    def __init__(self, label: str) -> None:
        self.label, self.seconds = label, dict[str, float]()
        self._name, self._began = "", time.process_time()

    def begin(self, name: str) -> None:
        """End the part before, and begin another; one that comes again is added to."""
        self._end()
        self._name = name
        sys.stderr.write(f"{self.label}: {name}\n")

    def _end(self) -> None:
        now = time.process_time()
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._began
        self._began = now

    def report(self) -> None:
        """End the last part; print what each took."""
        self._end()
        self._name = ""
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        sys.stderr.write(f"{self.label}: {sum(self.seconds.values()):.1f} s of the processor: {told}\n")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"

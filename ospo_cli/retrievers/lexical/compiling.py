"""Says that numba compiles: the first ranking on a machine would be silent for as long as that takes."""

from __future__ import annotations

import sys
from functools import cache

from numba.core import event


class _Said(event.Listener):
    def __init__(self) -> None:
        self.is_said = False

    def on_start(self, event: event.Event) -> None:
        if not self.is_said:
            sys.stderr.write("index: numba compiles the loops that rank, once on a machine: some 20 s of a processor\n")
            sys.stderr.flush()
        self.is_said = True

    def on_end(self, event: event.Event) -> None:
        pass


@cache
def say_when_compiling() -> None:
    """From now on write one line on stderr when something is compiled, and none where numba's cache has it."""
    event.register("numba:compile", _Said())  # type: ignore[no-untyped-call]  # numba has few types

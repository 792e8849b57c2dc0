"""A process of torchrun that kills one of the two at a place that its environment names: `python -m tests.faults.peer update …`, by torchrun."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Events of the interpreter that come with a change on the disk.
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect")
STEP, CHECKPOINT, POLICY = "within a step", "while a checkpoint is written", "after the last step, while policy and metrics are written"
_PATHS = {CHECKPOINT: ("/cache/update/",), POLICY: ("/policies/", "update_steps", "update_metrics")}
FOLDER = "OSPO_TEST_FAULTS"


def is_write(event: str, arguments: tuple[object, ...]) -> bool:
    """Tell whether an event of the interpreter comes with a change on the disk."""
    if event == "open":
        path, flags = arguments[0], arguments[2]
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and not str(path).startswith(("/dev", "/proc"))
    return event in WRITES


def count_writes(do: Callable[[int, object], object]) -> None:
    """Call `do(number, path)` before each change on the disk, numbered from 0, in this process from now on."""
    counted = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if is_write(event, arguments):
            counted[0] += 1
            do(counted[0] - 1, arguments[0])

    sys.addaudithook(hook)


def arm(folder: Path, where: str, number: int, victim: int) -> None:
    """Have this process, the first one, kill a process at the numbered event of a place; every event is noted."""
    from ospo_cli.executors import peers

    counted = Counter[str]()

    def passed(place: str) -> None:
        if (place, counted[place]) == (where, number):
            os.close(os.open(folder / "killed", os.O_CREAT))
            os.kill(int((folder / f"pid-{victim}").read_text()), signal.SIGKILL)
        counted[place] += 1
        opened = os.open(folder / f"count-{[STEP, *_PATHS].index(place)}", os.O_WRONLY | os.O_CREAT)
        os.pwrite(opened, f"{counted[place]:09d}".encode(), 0)
        os.close(opened)

    def wrote(_: int, path: object) -> None:
        for place, parts in _PATHS.items():
            if any(part in str(path) for part in parts):
                passed(place)

    add_up = peers.add_up

    def adding(values: Any) -> None:
        passed(STEP)
        add_up(values)

    peers.add_up = adding
    count_writes(wrote)


if __name__ == "__main__":
    from ospo_cli.cli import main

    own = Path(os.environ[FOLDER])
    (own / f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    if os.environ["RANK"] == "0":
        at, which, whom = (own / "order").read_text().split("\n")
        arm(own, at, int(which), int(whom))
    main()

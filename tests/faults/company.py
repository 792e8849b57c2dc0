"""Several commands on one project at once: one writes, the others wait, read, or end with one line."""

from __future__ import annotations

import time
from random import Random

from tests.faults import commands
from tests.faults.found import Found, Place

WRITERS = (
    ("run",), ("run", "--wait"), ("run", "--wait", "--force"), ("prepare-data", "--wait"), ("rollout", "--iter", "1", "--wait"),
    ("warm-start",), ("score-coalitions", "--iter", "1", "--wait"), ("evaluate",), ("report", "--wait"), ("export", "--iter", "1", "--to", "jsonl"),
    ("audit", "--iter", "1", "--rollouts", "2"), ("store", "gc", "--days", "0"), ("plan", "--actual"),
)  # fmt: skip
READERS = (
    ("inspect", "rollouts"), ("inspect", "documents"), ("explain", "-q", "red outerwear 0", "--prompt-id", "q0"), ("result",),
    ("run", "--dry-run"), ("store", "stats"),
)  # fmt: skip
MISSING = ("no such file", "no such prompt", "no rollout is fit for it")


def together(place: Place, found: Found, random: Random) -> None:
    """Start two to four commands within a second, the first of them `ospo run`, on a fresh or a finished project."""
    for number in found.trials():
        folder = place.fresh() if number % 2 else place.finished()
        chosen = [("run",), *random.choices(WRITERS, k=random.randint(1, 2)), *random.choices(READERS, k=random.randint(0, 2))]
        running = []
        for position, arguments in enumerate(chosen):
            running.append(commands.start(folder, arguments, place.root / f"output-{position}"))
            time.sleep(random.random() * 0.5)
        for command in running:
            command.wait()
            what = f"company {number}: {' '.join(command.arguments)} beside {', '.join(' '.join(other) for other in chosen)}"
            found.ended(command, what)
            found.counts["commands"] += 1
            if command.status == 1:
                is_locked = "another command writes into this project" in command.errors
                found.counts["refused: locked"] += is_locked
                is_early = any(text in command.errors for text in MISSING)
                found.counts["refused: its input was not there yet"] += is_early
                if not (is_locked or is_early):
                    found.faults.append(f"{what}: {command.errors[-400:]}")
        first = running[0]
        if first.status == 1 and not any(other.status == 0 for other in running[1:] if other.arguments[0] == "run"):
            found.counts["ospo run that found another first"] += 1
        found.mended(folder, place, place.root / "output", f"company {number} ({', '.join(' '.join(each) for each in chosen)})")

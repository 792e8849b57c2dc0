"""`make test-faults`: kills, changed bytes, full disks, company and hostile input on a miniature, against an undisturbed run.

Counted: wrong tables (a file that differs from the undisturbed run's after the command that mends has ended well), tracebacks, half-written
files. Any of them ends the campaign with status 1. The seed names every moment, byte and input, as far as the machine's clock allows.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults import commands, company, disk, flips, hostile, kills, project, torchrun, workers
from tests.faults.found import Found, Place

# Full counts; --scale multiplies them.
FULL = {
    "kills": 200,
    "kills at a write": 200,
    "kills of dvc repro": 20,
    "workers": 100,
    "torchrun": 24,
    "flips": 2000,
    "disk": 200,
    "company": 50,
    "hostile, in process": 100_000,
    "hostile, by command line": 1000,
}
PARTS = {
    "kills": kills.at_moments,
    "kills at a write": kills.at_writes,
    "kills of dvc repro": kills.of_dvc,
    "workers": workers.kills,
    "torchrun": torchrun.kills,
    "flips": flips.flips,
    "disk": disk.refusals,
    "company": company.together,
    "hostile, in process": hostile.in_process,
    "hostile, by command line": hostile.by_command_line,
}


def main() -> int:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.05, help="share of the full counts; 1 is the full campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(FULL), help="only this part; may be repeated")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background, where a shell ignores the first
        signal.signal(number, signal.default_int_handler)
    commands.load()
    with tempfile.TemporaryDirectory(prefix="ospo-faults-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        whole = commands.run(project.make(root / "whole"), ("run",), root / "output")
        if whole.status != 0:
            sys.stderr.write(whole.errors)
            return 1
        place = Place(root, root / "whole", project.outputs(root / "whole"), kills.durations(whole.errors))
        faults = 0
        for name in arguments.only or FULL:
            found, began = Found(name, max(1, round(FULL[name] * arguments.scale))), _processor_seconds()
            try:
                PARTS[name](place, found, random.Random(f"{arguments.seed} {name}"))
            finally:  # also what an interrupted part has found
                counts = ", ".join(f"{label} {number:,}" for label, number in sorted(found.counts.items()))
                seconds = _processor_seconds() - began
                print(f"{name} ({seconds:.0f} s of processor time): {counts}; faults {len(found.faults)}", flush=True)
            faults += len(found.faults)
    print(f"faults: {faults}")
    return min(1, faults)


def _processor_seconds() -> float:
    took = os.times()
    return took.user + took.system + took.children_user + took.children_system


if __name__ == "__main__":
    sys.exit(main())

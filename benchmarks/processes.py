"""Training steps of a small policy in one process with one or two threads, and in two processes with one thread each, which meet over gloo.

    python benchmarks/processes.py [--steps 5] [--groups 16]

Prints processor seconds (of all processes and threads) and wall seconds a step, and both as a ratio to one process with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from update import COLOURS, LEARNING_RATE, THINGS, draw_rows

from ospo_cli.executors import peers
from ospo_cli.params.policy import Policy
from ospo_cli.params.update import Update
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.training import gradient_step
from ospo_cli.training.cut_weights import cut
from ospo_cli.training.training_state import Training

WAYS = {
    "1 process, 1 thread": (1, 1, False),
    "1 process, 2 threads": (1, 2, False),
    "2 processes, 1 thread each": (2, 1, False),
    "2 processes, weights cut": (2, 1, True),
}


def main() -> None:
    """Run every way in children of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--groups", type=int, default=16, help="rollout groups of 8 a step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        forked(lambda: write_small_llama([f"{a} {b}" for a in COLOURS for b in THINGS], Policy(), 0, folder))
        first: tuple[float, float] | None = None
        for name, (count, threads, cuts) in WAYS.items():
            took = [folder / f"{name} {own}.json" for own in range(count)]
            company = [(cuts, own, count, f"file://{folder / name}") for own in range(count)]
            forked(*(partial(steps, folder, options, threads, *each) for each in zip(company, took, strict=True)))
            found = [json.loads(path.read_text()) for path in took]
            processor, wall = sum(each["processor"] for each in found), max(each["wall"] for each in found)
            first = first or (processor, wall)
            of_first = f"({processor / first[0]:.2f}), wall {wall:6.3f} s ({wall / first[1]:.2f}) a step"
            print(f"{name:28s} processor {processor:6.3f} s {of_first}")


def steps(folder: Path, options: argparse.Namespace, threads: int, company: tuple[bool, int, int, str], to: Path) -> None:
    """Take the steps as `ospo update` does; the first one warms up and is not counted."""
    if company[2] > 1:
        peers.join(*company)
    policy = cut(load_policy(folder, threads, trainable=True))
    rows, settings, training = draw_rows(policy, options.groups, 8, 30, 14), Update(), Training(policy.model, 0.0, 1.0)
    for step in range(options.steps + 1):
        if step == 1:
            began = time.process_time(), time.perf_counter()
        gradient_step.accumulate(policy, rows, rows.groups, settings)
        training.add_up_gradients()
        training.step(LEARNING_RATE)
    took = [(end - start) / options.steps for end, start in zip((time.process_time(), time.perf_counter()), began, strict=True)]
    to.write_text(json.dumps(dict(zip(("processor", "wall"), took, strict=True))))
    peers.leave()


def forked(*work: Callable[[], None]) -> None:
    """Run each in a child of its own; end with status 1 where one fails."""
    children = []
    for each in work:
        child = os.fork()
        if child == 0:
            try:
                each()
                os._exit(0)
            except Exception as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        sys.exit(1)


if __name__ == "__main__":
    main()

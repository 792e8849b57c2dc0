"""An array job over the unfinished shards of a stage, and the command that collects them: scripts for Slurm, which nothing here calls."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.executors import engines
from ospo_cli.executors.tasks import Listed, Listing, write_list
from ospo_cli.graph import runner
from ospo_cli.graph.nodes import node
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.tables import files

STAGES = ("rollout", "score-coalitions", "evaluate")


@dataclass(frozen=True)
class Submitted:
    """What was written.

    Attributes:
        label: of the loop whose shards they are.
        shards: how many are unfinished.
        array, collect: scripts.
    """

    label: str
    shards: int
    array: Path
    collect: Path

    @property
    def command(self) -> str:
        """What gives both to Slurm."""
        collect = f"sbatch --dependency=afterok:$id --kill-on-invalid-dep=yes {shlex.quote(str(self.collect))}"
        return f"id=$(sbatch --parsable {shlex.quote(str(self.array))}) && {collect}"


def submit(layout: Layout, params: Params, stage: str, iteration: int | None, tasks: int, options: Sequence[str]) -> Submitted | None:
    """Write the scripts of a stage's first loop that has unfinished shards; None where it had none, and the stage has run to its end.

    Raises:
        ParameterError: the stage has no shards, or an option is none of sbatch.
    """
    if stage not in STAGES:
        raise ParameterError("ospo submit", "a stage without shards", found=stage, expected=", ".join(STAGES))
    wanted = node(stage, iteration if stage != "evaluate" else None, params)
    try:
        with engines.using(Listing()):
            runner.execute(wanted, layout, params)
    except Listed as listed:
        program = [sys.executable, "-m", "ospo_cli", *wanted.command.split()[1:], "--project", str(layout.root.absolute())]
        folder = (layout.data / "jobs" / wanted.label).absolute()
        return write(folder, listed, program, tasks, options, params.execution.attempts)
    return None


def write(folder: Path, listed: Listed, program: Sequence[str], tasks: int, options: Sequence[str], attempts: int) -> Submitted:
    """Write list and scripts into a folder that all machines see."""
    for option in options:
        if not option.startswith("-") or not option.isprintable():
            raise ParameterError("--option", "is no option of sbatch", found=option, expected="such as --partition=gpu")
    if any(not part.isprintable() for part in (str(folder), *program)):
        raise OspoError(folder, "a name that cannot be printed cannot stand in a script")
    tasks = min(tasks, len(listed.names))
    shards = write_list(folder, listed.names)
    head = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), f"#SBATCH --job-name={shlex.quote(folder.name)}"]
    array = [
        *head,
        f"#SBATCH --array=0-{tasks - 1}",
        f"#SBATCH --output={shlex.quote(str(folder / 'task-%a.log'))}",
        "set -u",
        f"export OSPO_SHARDS={shlex.quote(str(shards))} OSPO_TASK=$SLURM_ARRAY_TASK_ID/{tasks}",
        "# Exit status 1 is something to repair. Anything else, such as a kill, is tried again.",
        f"for attempt in $(seq {attempts}); do",
        f"  srun {shlex.join(program)}",
        "  status=$?",
        "  [ $status -le 1 ] && exit $status",
        "done",
        "exit $status",
    ]
    collect = [*head, f"#SBATCH --output={shlex.quote(str(folder / 'collect.log'))}", f"exec {shlex.join(program)}"]
    made = Submitted(listed.job.label, len(listed.names), folder / "array.sh", folder / "collect.sh")
    for path, lines in ((made.array, array), (made.collect, collect)):
        files.write_text(path, "\n".join(lines) + "\n")
    return made

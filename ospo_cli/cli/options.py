"""What commands share: the project's folder, the iteration, and how they say what they did."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ospo_cli.errors import shorten

if TYPE_CHECKING:
    from ospo_cli.layout import Layout
    from ospo_cli.params.execution import Execution
    from ospo_cli.params.whole import Params

Project = Annotated[Path, typer.Option("--project", "-p", help="Folder that holds params.yaml.", show_default="this folder")]
Iteration = Annotated[int, typer.Option("--iter", "-k", min=1, help="Iteration, from 1: samples from policy K-1, writes policy K.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for another command that writes into the project, in place of an error.")]
Gpus = Annotated[
    int | None,
    typer.Option("--gpus", envvar="OSPO_GPUS", help="Processes of torchrun, each on a GPU if there are any.", show_default="1"),
]
Cuts = Annotated[
    bool,
    typer.Option(
        "--shard-weights", envvar="OSPO_SHARD_WEIGHTS", help="Cut the weights over the processes (FSDP), for those that fit none of them."
    ),
]
HERE = Path(".")


def opened(project: Path) -> tuple[Layout, Params]:
    """Return a project's paths and its checked parameters."""
    from ospo_cli.layout import Layout
    from ospo_cli.params import whole

    layout = Layout(project)
    return layout, whole.load(layout.params)


def alone(project: Path, command: str, wait: bool) -> AbstractContextManager[object]:
    """Return the lock on a project as a context manager; `command` is what others are told that wait for it.

    A worker needs none: it writes into the cache alone, for a command that has the lock.
    """
    from ospo_cli.executors import engines
    from ospo_cli.executors.project_lock import ProjectLock
    from ospo_cli.layout import Layout

    if engines.is_helper():
        return nullcontext()
    return ProjectLock(Layout(project), f"ospo {command}", wait)


def spread(execution: Execution) -> AbstractContextManager[None]:
    """Return a context manager in which the present command's shards run where section execution says."""
    from ospo_cli.executors import engines

    return engines.engaged(execution, sys.argv[1:])


def say(command: str, text: str) -> None:
    """Write what a command did as one line on stderr; `text` may hold names of files, which may hold anything."""
    sys.stderr.write(f"ospo {command}: {shorten(text, 1000)}\n")


def names_of(text: str) -> list[str]:
    """Return the names of a list that is separated by commas."""
    return [name.strip() for name in text.split(",")] if text else []

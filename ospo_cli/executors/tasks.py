"""Tasks of an array job: each runs the command for its part of a list of shards, and ends there; who collects runs it whole."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ospo_cli.errors import FileError, Finished, ParameterError
from ospo_cli.executors.base import Job
from ospo_cli.executors.engines import Local
from ospo_cli.executors.progress import Progress
from ospo_cli.executors.worker import check_versions, versions
from ospo_cli.tables import files

if TYPE_CHECKING:
    from ospo_cli.params.execution import Execution


class Listed(Finished):
    """The shards of a job that are not finished.

    Args:
        job: what they belong to.
        names: of the shards.
    """

    def __init__(self, job: Job, names: list[str]) -> None:
        super().__init__(job.label)
        self.job, self.names = job, names


class Listing:
    """Computes nothing: ends the command, by Listed, at the first job that has unfinished shards."""

    works_here = False

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Raise Listed where a shard is not finished."""
        if names := [shard.key for number, shard in enumerate(job.shards) if not job.is_done(number)]:
            raise Listed(job, names)
        return set()

    def end(self) -> None:
        """Nothing was started."""


def write_list(folder: Path, names: Sequence[str]) -> Path:
    """Write the list of an array job, named by its content, and return its path."""
    text = json.dumps({"versions": versions(), "shards": names}, indent=0, sort_keys=True) + "\n"
    path = folder / f"{_name(text.encode())}.json"
    files.write_text(path, text)
    return path


class Task:
    """Part `OSPO_TASK`, such as 3/16 (from 0), of the list in `OSPO_SHARDS`.

    Raises:
        FileError: this machine does not see the list, or sees another one.
        ParameterError: the variables are none of a task.
        WorkerError: this machine has other versions.
    """

    works_here = True

    def __init__(self, settings: Execution, command: Sequence[str]) -> None:
        path, part = Path(os.environ["OSPO_SHARDS"]), os.environ.get("OSPO_TASK", "")
        own, _, of = part.partition("/")
        if not (own.isascii() and own.isdigit() and of.isascii() and of.isdigit() and int(own) < int(of)):
            raise ParameterError("OSPO_TASK", "is no part of a list", found=part or "nothing", expected="such as 3/16, counted from 0")
        try:
            content = path.read_bytes()
        except OSError as error:
            content, found = b"", error.strerror or str(error)
        else:
            found = "another list"
        if _name(content) != path.stem:
            raise FileError(
                path, "is not the list of shards that was submitted", found=f"{found}, on {socket.gethostname()}",
                remedy="give all machines the project's folder under the same path (NFS), or run `ospo submit` again",
            )  # fmt: skip
        listed = json.loads(content)
        check_versions(listed["versions"], f"OSPO_SHARDS, {path}")
        self.names: list[str] = listed["shards"]
        self.own = self.names[int(own) :: int(of)]

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Compute the own shards of the listed job and end the command; jobs before it are finished."""
        number_of = {shard.key: number for number, shard in enumerate(job.shards)}
        if not number_of.keys() & set(self.names):
            return Local().run(job, progress)
        for name in self.own:
            if name not in number_of:
                remedy = "parameters or tables have changed: run `ospo submit` again"
                raise FileError(os.environ["OSPO_SHARDS"], "holds a shard that this command does not have", found=name[:16], remedy=remedy)
            if not job.is_done(number_of[name]):
                job.do(number_of[name])
            progress.advance(job.shards[number_of[name]].units)
        raise Finished

    def end(self) -> None:
        """Nothing was started."""


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]

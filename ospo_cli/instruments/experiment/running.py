"""Trainings as projects of their own, several at once; what trainings of one task and seed share is made once and linked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError, ParameterError, first_line, shorten
from ospo_cli.instruments.experiment import outcomes
from ospo_cli.instruments.experiment.plan import Plan, Training
from ospo_cli.layout import Layout
from ospo_cli.params import unread, whole
from ospo_cli.params.whole import Params
from ospo_cli.params.written import render
from ospo_cli.tables.files import read_json, write_json, write_text

LOG, SETTINGS = "run.log", "params.json"
# Not shared between projects: what a running process holds, its log, and what belongs to one method.
_OWN = ("*.lock", "lock*", LOG, "kept", "report", "exports")


@dataclass(frozen=True)
class Folders:
    """Where an experiment lies: projects (large, may be deleted) and outcomes (small, to be kept)."""

    root: Path

    def project(self, training: Training) -> Path:
        """Return the folder of a training's project."""
        return self.root / "projects" / training.folder

    def outcome(self, training: Training) -> Path:
        """Return the folder of what it left."""
        return self.root / "outcomes" / training.folder


def is_done(plan: Plan, folders: Folders, training: Training) -> bool:
    """Tell whether there is an outcome of these very parameters; its project need not be there."""
    path = folders.outcome(training) / SETTINGS
    return (
        path.is_file() and fits(read_json(path), plan.params(training)) and outcomes.read(folders.outcome(training), training) is not None
    )


def run_missing(plan: Plan, folders: Folders, jobs: int) -> list[tuple[Training, str]]:
    """Run every training without an outcome, `jobs` at once; return those that failed, with their last line.

    The first of each task and seed runs before the others of it, which start from links to what it has: shop, warm start, first rollouts.
    A training that was killed goes on where it was.

    Raises:
        ParameterError: a task's inputs are not there; the tables of what was trained elsewhere need none.
    """
    missing = [training for training in plan.trainings() if not is_done(plan, folders, training)]
    for task in {training.task: plan.tasks[training.task] for training in missing}.values():
        if task.inputs is not None and not task.inputs.is_dir():
            raise ParameterError(f"tasks.{task.name}.inputs", "no such folder", found=task.inputs)
    heads: dict[tuple[str, int], Training] = {}
    for training in missing:
        place = (training.task, training.seed)
        if place not in heads and not _warm(folders, training):
            heads[place] = training
    first = list(heads.values())
    rest = [training for training in missing if training not in first]
    failed: list[tuple[Training, str]] = []
    progress = _Progress(len(missing))
    for batch in (first, rest):
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            for training, problem in zip(batch, pool.map(lambda one: _run(plan, folders, one, progress), batch), strict=True):
                if problem:
                    failed.append((training, problem))
    return failed


class _Progress:
    """A line on stderr per finished training, with the time left at the pace so far."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start_seconds = total, 0, time.monotonic()

    def tell(self, training: Training, problem: str) -> None:
        self.done += 1
        pace = (time.monotonic() - self.start_seconds) / self.done
        left = f", about {pace * (self.total - self.done) / 60:.0f} min left" if self.done < self.total else ""
        sys.stderr.write(f"experiment: {self.done}/{self.total} {training.folder}: {problem or 'done'}{left}\n")


def _run(plan: Plan, folders: Folders, training: Training, progress: _Progress) -> str:
    project, params = folders.project(training), plan.params(training)
    try:
        _begin(project, _siblings(folders, training), plan.tasks[training.task].inputs)
        path, text = project / "params.yaml", render(params)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        with open(project / LOG, "ab") as log:
            command = [sys.executable, "-m", "ospo_cli", "run", "--project", str(project)]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        problem = f"failed, see {project / LOG}: {_last_line(project / LOG)}" if ended.returncode else ""
        if not problem:
            outcomes.write(outcomes.of_project(Layout(project), training, params.train.iterations), folders.outcome(training))
            write_json(folders.outcome(training) / SETTINGS, settings(params))
    except (OspoError, OSError) as error:
        problem = first_line(error)
    progress.tell(training, problem)
    return problem


def _begin(project: Path, siblings: Sequence[Path], inputs: Path | None) -> None:
    """Make a project's folder, with links to what a sibling has; whole or not at all."""
    if project.is_dir():
        return
    unfinished = project.with_name(f"{project.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    source = siblings[0] if siblings else inputs
    if source is None:
        unfinished.mkdir(parents=True)
    else:
        # Links: stages replace files and never write into them.
        shutil.copytree(source, unfinished, copy_function=os.link, ignore=shutil.ignore_patterns(*_OWN))
    unfinished.rename(project)


def _siblings(folders: Folders, training: Training) -> list[Path]:
    """Return projects of the same task and seed that have their warm start."""
    own = folders.project(training)
    return [
        path for path in sorted(own.parent.glob("*")) if path != own and (path / "data" / "manifests" / "warm-start.json").is_file()
    ]  # fmt: skip


def _warm(folders: Folders, training: Training) -> bool:
    own = folders.project(training)
    return bool(_siblings(folders, training)) or (own / "data" / "manifests" / "warm-start.json").is_file()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return shorten(lines[-1], 300) if lines else "no output"


def settings(params: Params) -> dict[str, Any]:
    """Return all values by dotted name; also the defaults, so that an outcome still tells what made it after a default has changed."""
    return {f"{section}.{name}": value for section, values in whole.to_sections(params).items() for name, value in values.items()}


def fits(kept: dict[str, Any], params: Params) -> bool:
    """Tell whether an outcome was made with these parameters. One that a later version added counts where it is not its default, and none
    that nothing reads in this mode: a new default of click logs is no reason to train on the demo shop again."""
    aside = unread.names(params)
    now, default = settings(params), settings(Params())
    return all(name in now and now[name] == value for name, value in kept.items() if name not in aside) and all(
        now[name] == default[name] for name in now.keys() - kept.keys() - aside
    )

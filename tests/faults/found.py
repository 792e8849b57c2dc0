"""What a part of the campaign is given, what it returns, and the one verdict that all share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ospo_cli.executors.progress import Progress
from ospo_cli.tables.unfinished import remove
from tests.faults import commands, project


@dataclass(frozen=True)
class Place:
    """Where a part works.

    Attributes:
        root: an empty folder.
        whole: the project after an undisturbed run.
        outputs: SHA-256 of every file of it that equal input gives with equal bytes.
        seconds: what each stage took, by its command without `ospo`.
    """

    root: Path
    whole: Path
    outputs: dict[str, str]
    seconds: dict[str, float]

    def fresh(self, name: str = "project") -> Path:
        """Return a project in which nothing has run."""
        folder = self.root / name
        project.copied(self.whole, folder)
        for path in (folder / "data", folder / ".dvc" / "tmp"):
            remove(path)
        return folder

    def finished(self, name: str = "project") -> Path:
        """Return a copy of the undisturbed run."""
        return project.copied(self.whole, self.root / name)

    def before(self, stage: str) -> Path:
        """Return a copy of the undisturbed run without a stage and all that follows it: what comes before need not run again."""
        folder = self.finished()
        project.undo_from(folder, stage)
        return folder


@dataclass
class Found:
    """What a part of the campaign has found so far.

    Attributes:
        part: its name.
        count: how many trials it makes.
        counts: by label.
        faults: one line each.
    """

    part: str
    count: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def trials(self, step: int = 1) -> Iterator[int]:
        """Yield the number of each trial, `step` of them at once; progress goes to stderr, each fault to stdout as soon as it is found."""
        progress, told = Progress(self.part, self.count, "trials", every_seconds=30.0), 0
        for number in range(0, self.count, step):
            yield number
            for fault in self.faults[told:]:
                print(f"{self.part}: {fault}", flush=True)
            told = len(self.faults)
            progress.advance(min(step, self.count - number), f"{told} faults")
        progress.close()

    def ended(self, command: commands.Command, what: str) -> None:
        """Note how a command ended; a traceback, or anything but one line, is a fault."""
        self.counts[f"status {command.status}"] += 1
        if complaint := command.complaint():
            self.faults.append(f"{what}: {complaint}")

    def compare(self, folder: Path, place: Place, what: str, is_whole: bool) -> None:
        """Note files that differ from the undisturbed run's; with `is_whole` those that are missing too."""
        now = project.outputs(folder)
        wrong = [path for path, digest in now.items() if place.outputs.get(path) != digest and not path.startswith("store/")]
        missing = [path for path in place.outputs if path not in now] if is_whole else []
        self.faults += [f"{what}: {path} differs" for path in wrong[:3]] + [f"{what}: {path} is missing" for path in missing[:3]]
        self.counts["tables compared"] += len(now)

    def mended(self, folder: Path, place: Place, output: Path, what: str) -> None:
        """Run the same command again; what it leaves must be the undisturbed run's, whole."""
        again = commands.run(folder, ("run",), output)
        if again.status != 0 or again.complaint():
            self.faults.append(f"{what}: run again: status {again.status}: {again.errors[-600:]}")
            return
        self.compare(folder, place, what, is_whole=True)
        if left := project.leftovers(folder):
            self.faults.append(f"{what}: left over: {', '.join(left[:3])}")

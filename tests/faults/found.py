"""What a part of the campaign is given, what it returns, and the one verdict that all share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Found:
    """Counts by label, and one line per fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Add another part's."""
        self.counts += other.counts
        self.faults += other.faults

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

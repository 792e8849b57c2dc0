"""Path conventions: the iteration's number becomes paths, so that a person runs a stage exactly as DVC does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths below the project's folder (where params.yaml lies)."""

    root: Path

    @classmethod
    def of_cache(cls, cache: Path) -> Layout:
        """The layout whose cache folder this is."""
        return cls(cache.parent.parent)

    @property
    def params(self) -> Path:
        """params.yaml."""
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        """Everything that stages write."""
        return self.root / "data"

    @property
    def lock(self) -> Path:
        """Locked while a command writes into the project; says which."""
        return self.data / "project.lock"

    @property
    def cache(self) -> Path:
        """Content-addressed shards and stores; outside the stages' outputs, may be deleted at any time."""
        return self.data / "cache"

    @property
    def store(self) -> Path:
        """Values that were computed once; may be deleted at any time. OSPO_STORE names another folder, which several projects may share."""
        return Path(os.environ.get("OSPO_STORE") or self.data / "store")

    def prepared(self, name: str) -> Path:
        """`documents.parquet`, `prompts.parquet`, `qrels.parquet`, `pools.parquet`, `teacher_pairs.parquet`, `card.json`."""
        return self.data / "prepared" / name

    def once(self, name: str) -> Path:
        """A file of the whole project, such as `raw_query_values.parquet`."""
        return self.data / name

    def policy(self, iteration: int) -> Path:
        """Folder of the policy that update of this iteration writes; 0 is the warm start."""
        return self.data / "policies" / f"{iteration:03d}"

    def iteration(self, iteration: int, name: str) -> Path:
        """A file of one iteration, such as `rollouts.parquet`."""
        return self.data / "iterations" / f"{iteration:03d}" / name

    def rescored(self, iteration: int, name: str) -> Path:
        """Folder of an iteration's rollouts under another reward; not below `iterations`, which `dvc repro` watches."""
        return self.data / "rescored" / f"{iteration:03d}" / name

    def headroom(self, name: str) -> Path:
        """A file of what can be gained before training."""
        return self.data / "headroom" / name

    def lab(self, name: str) -> Path:
        """A file of the lab, which needs no project: `ospo lab` writes beside it."""
        return self.root / "lab" / name

    def plan(self, name: str) -> Path:
        """A file of the plan, or how long the stages took."""
        return self.data / "plan" / name

    def kept(self, name: str) -> Path:
        """Folder of a run that was put by to be compared with."""
        return self.data / "kept" / name

    def gates(self, name: str) -> Path:
        """A file of `ospo gate`, such as `004.json`; not in the policy's folder, which `dvc repro` watches."""
        return self.data / "gates" / name

    def evaluation(self, name: str) -> Path:
        """A file of the evaluation."""
        return self.data / "evaluation" / name

    def report(self) -> Path:
        """The self-contained HTML page."""
        return self.data / "report" / "report.html"

    def warnings(self) -> Path:
        """The warning signs that were crossed."""
        return self.data / "report" / "warnings.json"

    def export(self, name: str) -> Path:
        """A file for another trainer, such as `001.jsonl`."""
        return self.data / "exports" / name

    def foreign(self, name: str) -> Path:
        """Folder of the credit for rollouts that another trainer saved."""
        return self.data / "foreign" / name


@dataclass(frozen=True)
class IterationElsewhere(Layout):
    """The project's paths, but for one iteration, whatever its number: its files lie in a folder of their own."""

    folder: Path

    def iteration(self, iteration: int, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

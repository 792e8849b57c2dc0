"""Give back the bytes of policies that nothing needs any more: neither the first, last, best, an evaluated one, nor every n-th."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ospo_cli.graph.records import PRUNED
from ospo_cli.layout import Layout
from ospo_cli.report.evaluation_summary import read_summary
from ospo_cli.tables import files, unfinished

# Folders of the cache that hold finished shards; indexes and vectors of the catalogue stay.
SHARDS = ("rollouts", "score_coalitions", "evaluate", "headroom", "rewrite", "audit", "gradients")


@dataclass(frozen=True)
class Found:
    """What can go: folder -> its bytes; and which policies stay, with the reason."""

    goes: dict[Path, int]
    stays: dict[int, str]

    @property
    def bytes(self) -> int:
        """Bytes of all that goes."""
        return sum(self.goes.values())


def find(layout: Layout, evaluated: Collection[int], every: int, shards: bool) -> Found:
    """Return what can go.

    Args:
        layout: the project.
        evaluated: numbers of the policies that an evaluation reads.
        every: each n-th policy stays; 0 keeps none for its number.
        shards: whether finished shards go, too: tables that were made of them stay.
    """
    there = sorted(int(path.name) for path in layout.policy(0).parent.glob("[0-9]*") if path.name.isdigit() and path.is_dir())
    stays: dict[int, str] = {}
    if there:
        stays = {there[0]: "the first", there[-1]: "the last"}
    for number in there:
        if number in evaluated:
            stays.setdefault(number, "evaluated")
        if every and number % every == 0:
            stays.setdefault(number, f"a multiple of {every}")
        if any(layout.gates("").glob(f"{number:03d}*")) or (layout.policy(number) / "ospo_gate.json").is_file():
            stays.setdefault(number, "has a gate")
    if layout.evaluation("summary.json").is_file():
        best = str(read_summary(layout).get("choice", {}).get("best_policy", "")).rpartition("-")[2]
        if best.isdigit():
            stays[int(best)] = stays.get(int(best), "the best")
    goes = {layout.policy(number): _bytes(layout.policy(number)) for number in there if number not in stays}
    if shards:
        goes |= {layout.cache / name: _bytes(layout.cache / name) for name in SHARDS if (layout.cache / name).is_dir()}
    return Found(goes, stays)


def prune(layout: Layout, found: Found) -> None:
    """Delete what can go. The hash of a policy is written down first, so that `ospo run` knows what the stages after it were made from."""
    record = layout.data / PRUNED
    known = files.read_json(record) if record.is_file() else {}
    names = {str(path.relative_to(layout.root)): path for path in found.goes if path.parent == layout.policy(0).parent}
    files.write_json(record, known | {name: files.sha256_of(path) for name, path in names.items()})
    for path in found.goes:
        unfinished.put_aside(path)


def print_found(layout: Layout, found: Found, is_dry: bool) -> None:
    """Say what stays and what goes."""
    stays = ", ".join(f"{number:03d} ({why})" for number, why in sorted(found.stays.items()))
    sys.stdout.write(f"policies that stay: {stays or 'none'}\n")
    for path, size in found.goes.items():
        sys.stdout.write(f"{'would go' if is_dry else 'gone'}: {path.relative_to(layout.root)}, {size / 1e6:,.1f} MB\n")
    sys.stdout.write(f"{found.bytes / 1e6:,.1f} MB {'would be given back' if is_dry else 'given back'}\n")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

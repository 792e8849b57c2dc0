"""Changed bytes in every kind of file of a finished project: what is damaged is made again, or said; never used."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from random import Random

from ospo_cli.tables.unfinished import remove
from tests.faults import commands
from tests.faults.found import Found, Place

FLIPS_PER_RUN = 12
# What is deleted besides, so that what was kept is asked for: outputs of these stages and their manifests.
DELETED = (
    (),
    ("iterations/001", "iterations/002"),
    ("evaluation",),
    ("policies/001", "policies/002", "iterations/002"),
    ("iterations/001/rollouts.parquet", "iterations/002/rewards.parquet", "cache/dense/shards"),
    ("cache/score_coalitions", "iterations/001/rewards.parquet", "iterations/002/coalition_values.parquet"),
)


def flips(place: Place, found: Found, random: Random) -> None:
    """Change single bits (every fifth time: cut the file, or fill 64 bytes with others) and run again."""
    for done in found.trials(FLIPS_PER_RUN):
        folder = place.finished()
        data = folder / "data"
        _settle(data)
        for gone in random.choice(DELETED):
            remove(data / gone)
        by_kind: dict[str, list[Path]] = {}
        for path in sorted(path for path in data.rglob("*") if path.is_file() and path.stat().st_size):
            by_kind.setdefault(_kind(path.relative_to(data)), []).append(path)
        names = []
        for _ in range(min(FLIPS_PER_RUN, found.count - done)):
            kind = random.choice(sorted(by_kind))
            path = random.choice(by_kind[kind])
            names.append(f"{path.relative_to(data)} {_harm(path, random)}")
            found.counts[f"in {kind}"] += 1
        what = f"flips in {'; '.join(names)}"
        again = commands.run(folder, ("run",), place.root / "output")
        found.counts["runs"] += 1
        found.ended(again, what)
        if again.status == 0:
            found.compare(folder, place, what, is_whole=True)
        else:
            found.counts["refused with one line"] += 1
            found.faults += [] if again.status == 1 else [f"{what}: status {again.status}"]
            if not any(Path(name.split(" ")[0]).name in again.errors or Path(name).parts[1] in again.errors for name in names):
                found.faults.append(f"{what}: refused without naming the file: {again.errors[-400:]}")


def _settle(data: Path) -> None:
    # What lies in SQLite's log is moved into the file that is harmed.
    for path in data.rglob("values.sqlite"):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def _kind(path: Path) -> str:
    place = path.parts[0] if path.parts[0] != "cache" else "/".join(path.parts[:2])
    return f"{place} {path.suffix or 'file'}"


def _harm(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes())
    place = random.randrange(len(content))
    how = random.randrange(10)
    if how == 0:
        path.write_bytes(content[:place])
        return f"cut to {place}"
    if how == 1:
        content[place : place + 64] = random.randbytes(64)
    else:
        content[place] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return f"at {place}"


def kinds(folder: Path) -> Counter[str]:
    """Return how many files of each kind a project holds."""
    return Counter(_kind(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

"""Kills of one of the two processes of `ospo update --gpus 2`: the same command then writes the policy of an undisturbed run, byte by byte.

A trial kills three times, in a step, while a checkpoint is written and after the last step, and then lets the command run to its end; whole
weights and adapters in turn. Both processes are torchrun's own and meet over gloo. `python -m tests.faults.torchrun 24` does nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import yaml

from tests.faults import commands, peer, project
from tests.faults.found import Found, Place

ROOT = Path(__file__).parents[2]
BEFORE = ("prepare-data", "warm-start", "rollout --iter 1", "segment --iter 1", "score-coalitions --iter 1", "attribute --iter 1")
UPDATE = "update --iter 1"
PLACES = (peer.STEP, peer.CHECKPOINT, peer.POLICY)
KINDS = {"whole weights": {}, "adapter": {"lora_rank": 3}}
NEVER = 1_000_000
LONGEST_SECONDS = 600.0


def kills(place: Place, found: Found, random: Random) -> None:
    """Kill `found.count` times, three times over an update."""
    projects, expected, events = {}, {}, {}
    for number in found.trials(len(PLACES)):
        kind = list(KINDS)[number // len(PLACES) % len(KINDS)]
        if kind not in projects:
            projects[kind] = _project(place, kind)
            undisturbed = project.copied(projects[kind], place.root / "several")
            ran, events[kind] = _update(undisturbed, peer.STEP, NEVER, 0)
            assert ran.status == 0, ran.errors
            expected[kind] = _written(undisturbed)
        folder = project.copied(projects[kind], place.root / "several")
        for at, most in zip(PLACES, events[kind], strict=True):
            # A run that goes on from a checkpoint has fewer steps left, and so fewer events of a step and of checkpoints.
            drawn, victim = random.randrange(most // 3 if at != peer.POLICY else most), random.randrange(2)
            what = f"kill of process {victim} {at} (event {drawn} of {most}), {kind}"
            ran, _ = _update(folder, at, drawn, victim)
            found.ended(ran, what)
            if not (place.root / "peers" / "killed").exists():
                found.faults.append(f"{what}: has not come so far: status {ran.status}")
                continue
            found.counts[f"process {victim} killed {at}"] += 1
            found.counts["most seconds to the end"] = max(found.counts["most seconds to the end"], round(_seconds_since_kill(place)))
            if left := _alive(place.root / "peers"):
                found.faults.append(f"{what}: outlive it: {left}")
        again, _ = _update(folder, peer.STEP, NEVER, 0)
        found.counts["updates compared"] += 1
        found.counts["of them from a checkpoint"] += "from cache" in again.errors
        if again.status != 0 or again.complaint():
            found.faults.append(f"after kills, {kind}: status {again.status}: {again.errors[-600:]}")
        if (now := _written(folder)) != expected[kind]:
            found.faults.append(f"after kills, {kind}: differ: {[path for path in now if now[path] != expected[kind].get(path)]}")
        if left := project.leftovers(folder):
            found.faults.append(f"after kills, {kind}: left over: {', '.join(left[:3])}")


def _project(place: Place, kind: str) -> Path:
    """Return the miniature before its first update, of sixteen steps."""
    folder = project.copied(place.before(UPDATE), place.root / kind)
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content["update"]["epochs"] = 8
    content["policy"] |= KINDS[kind]
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def _update(folder: Path, where: str, number: int, victim: int) -> tuple[commands.Command, list[int]]:
    """Run the update in two processes; return it, and how many events each place had."""
    own = folder.parent / "peers"
    for old in own.glob("*"):
        old.unlink()
    own.mkdir(exist_ok=True)
    (own / "order").write_text(f"{where}\n{number}\n{victim}")

    def before() -> None:
        from torch.distributed import run

        os.environ.update({peer.FOLDER: str(own), "PYTHONPATH": str(ROOT)})
        parse = run.parse_args
        run.parse_args = lambda given: parse(["tests.faults.peer" if each == "ospo_cli" else each for each in given])

    command = commands.start(folder, (*UPDATE.split(), "--gpus", "2"), folder.parent / "output", before)
    command.wait(LONGEST_SECONDS)
    counts = [own / f"count-{each}" for each in range(len(PLACES))]
    return command, [int(path.read_text()) if path.exists() else 0 for path in counts]


def _written(folder: Path) -> dict[str, str]:
    return {path: digest for path, digest in project.outputs(folder).items() if path.startswith(("policies/001", "iterations/001/update_"))}


def _seconds_since_kill(place: Place) -> float:
    return time.time() - (place.root / "peers" / "killed").stat().st_mtime


def _alive(own: Path) -> list[str]:
    return [path.read_text() for path in own.glob("pid-*") if Path(f"/proc/{path.read_text()}").exists()]


def main(count: int) -> int:
    """Make the miniature as far as the first update, kill so many times, and print what was found."""
    commands.load()
    found = Found("torchrun", count)
    with tempfile.TemporaryDirectory(prefix="ospo-torchrun-") as folder:
        whole = project.make(Path(folder) / "whole")
        for stage in BEFORE:
            ran = commands.run(whole, tuple(stage.split()), Path(folder) / "output")
            assert ran.status == 0, ran.errors
        kills(Place(Path(folder), whole, {}, {}), found, Random(0))
    print(f"{dict(sorted(found.counts.items()))}\nfaults {len(found.faults)}", *found.faults, sep="\n")
    return min(1, len(found.faults))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

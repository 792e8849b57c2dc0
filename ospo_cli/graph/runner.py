"""All stages of all iterations in one process: the same tables as `dvc repro`, without DVC."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError
from ospo_cli.executors import engines, kept
from ospo_cli.executors.usage import Usage
from ospo_cli.graph import before_training, code
from ospo_cli.graph.declared import Node
from ospo_cli.graph.dvc_lock import DvcLock
from ospo_cli.graph.nodes import plan, planned, require_inputs
from ospo_cli.layout import Layout
from ospo_cli.params.declared import FREE, Declared
from ospo_cli.params.unread import unread
from ospo_cli.params.whole import SECTIONS, Params, check_retrievers, to_mapping
from ospo_cli.tables import files, sealed

PRUNED = "manifests/pruned.json"  # below data/


def execute(wanted: Node, layout: Layout, params: Params, hashes: _Hashes | None = None) -> dict[str, Any]:
    """Run one stage as the command line does: inputs are looked for before anything heavy is imported.

    A manifest tells `run` what the result was made from, so that a stage that was run by its own command is not run again.
    """
    require_inputs(wanted, layout, params)
    if wanted.stage in ("prepare-data", "evaluate"):  # before hours of training, not after
        check_retrievers(params)
    if wanted.stage == "warm-start":
        before_training.check(layout, params)
    is_by_hand = hashes is None and "DVC_STAGE" not in os.environ
    hashes = hashes or _Hashes(layout.root)
    key = _key(wanted, params, hashes)
    if is_by_hand:
        sys.stderr.write(unread(params, [name for name in wanted.sections if name in SECTIONS]) if (wanted.iteration or 1) == 1 else "")
        _name_doubtful(wanted, layout, params, hashes)
    with engines.engaged(params.execution, [*wanted.command.split()[1:], "--project", str(layout.root)]):
        result, took = measured(wanted, layout, params)
    # What `ospo plan` takes its rates from and is compared with; no stage reads it.
    files.write_json(layout.plan(f"actual/{wanted.label}.json"), took)
    written = (*wanted.outputs, *wanted.metrics)
    hashes.forget(*written)
    files.write_json(
        _manifest(layout, wanted), {"key": key, "command": wanted.command, "hashes": {path: hashes.of(path) for path in written}}
    )
    if wanted.stage == "prepare-data":
        before_training.check_fields(layout, params)
    return result


def take_part(wanted: Node, layout: Layout, params: Params) -> dict[str, Any]:
    """Run one stage as a process beside the first, which writes its files."""
    require_inputs(wanted, layout, params)
    return _called(wanted, layout, params)


def _called(wanted: Node, layout: Layout, params: Params) -> dict[str, Any]:
    module = importlib.import_module(wanted.module)
    reads = Declared(params, (*wanted.sections, *FREE), wanted.command)
    found: dict[str, Any] = module.execute(*((layout, reads) if wanted.iteration is None else (layout, reads, wanted.iteration)))
    return found


def _name_doubtful(wanted: Node, layout: Layout, params: Params, hashes: _Hashes) -> None:
    """Say on stderr which inputs are not what their stage wrote, or would be written anew: the stage is run by hand and reads them as
    they are. Only the stages that made its own inputs are asked; `ospo run --dry-run` asks all."""
    makers = {path: made for made in planned(params, wanted.iteration) for path in made.outputs}
    for made in dict.fromkeys(makers[path] for path in wanted.inputs if path in makers):
        content = _made(layout, made)
        changed = [path for path in wanted.inputs if path in made.outputs and content and content["hashes"].get(path) != hashes.of(path)]
        if changed:
            sys.stderr.write(f"{wanted.command}: {changed[0]} is not what `{made.command}` wrote; it is read as it is\n")
        elif content and content["key"] != _key(made, params, hashes):
            sys.stderr.write(f"{wanted.command}: `{made.command}` would run again, its inputs, parameters or code changed; read as it is\n")


def measured(wanted: Node, layout: Layout, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run one stage; return its result, and what it took: seconds, memory, bytes written, what it counted, and the parameters it read."""
    with Usage() as usage:
        result = _called(wanted, layout, params)
    took = {"seconds": usage.seconds, "cpu_seconds": usage.cpu_seconds, "peak_bytes": usage.peak_bytes}
    # A layout may keep its data elsewhere than the project does.
    written = [layout.data / Path(path).relative_to("data") for path in (*wanted.outputs, *wanted.metrics)]
    took["bytes"] = sum(file.stat().st_size for path in written for file in [path, *path.rglob("*")] if file.is_file())
    counts = {name: value for name, value in result.items() if type(value) is int}
    return result, took | {"counts": counts, "params": section_values(wanted, params)}


def section_values(wanted: Node, params: Params) -> dict[str, Any]:
    """Return the values of the sections, or single parameters, that a stage depends on."""
    mapping, values = to_mapping(params), {}
    for section in wanted.sections:
        name, _, field = section.partition(".")
        values[section] = mapping[name][field] if field else mapping[name]
    return values


def _manifest(layout: Layout, wanted: Node) -> Path:
    return layout.data / "manifests" / f"{wanted.label}.json"


def run(layout: Layout, params: Params, force: bool = False) -> tuple[int, int]:
    """Run what is not up to date; return (stages run, stages skipped). What the next stage needs stays in memory (`executors/kept.py`)."""
    with kept.between_stages():
        return _run(layout, params, force)


def _run(layout: Layout, params: Params, force: bool) -> tuple[int, int]:
    hashes = _Hashes(layout.root)
    ran = skipped = 0
    nodes = plan(params)
    check_retrievers(params)
    sys.stderr.write(unread(params))
    for position, wanted in enumerate(nodes, 1):
        if not force and _is_current(layout, wanted, _key(wanted, params, hashes), hashes, say=True):
            skipped += 1
            if wanted.stage == "warm-start":  # which looks itself where it runs
                before_training.check(layout, params)
            continue
        sys.stderr.write(f"[{position}/{len(nodes)}] {wanted.command}\n")
        start_seconds = time.monotonic()
        if wanted.iteration is None:  # evaluate opens more than an iteration does
            kept.clear()
        execute(wanted, layout, params, hashes)
        sys.stderr.write(f"[{position}/{len(nodes)}] {wanted.command}: {time.monotonic() - start_seconds:.1f} s\n")
        ran += 1
    return ran, skipped


def outlook(layout: Layout, params: Params) -> list[tuple[Node, str]]:
    """Return every stage with what `run` would do: "up to date", "run", or "needs PATH" where an input is missing that no stage makes."""
    hashes, found = _Hashes(layout.root), []
    made: set[str] = set()
    stale: set[str] = set()
    for wanted in plan(params):
        absent = [path for path in wanted.inputs if path not in made and not (layout.root / path).exists() and path not in hashes.pruned]
        is_current = not stale & set(wanted.inputs) and _is_current(layout, wanted, _key(wanted, params, hashes), hashes)
        made.update(wanted.outputs, wanted.metrics)
        if not is_current:
            stale.update(wanted.outputs, wanted.metrics)
        found.append((wanted, f"needs {absent[0]}" if absent else "up to date" if is_current else "run"))
    return found


class _Hashes:
    """SHA-256 of files and folders and of code, each read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, str] = {}
        self.code = code.of_project(root)

    @cached_property
    def dvc(self) -> DvcLock:
        return DvcLock(self.root)

    @cached_property
    def pruned(self) -> dict[str, str]:
        """Hashes of what `ospo prune` has deleted: what was made from it is as current as it was."""
        record = self.root / "data" / PRUNED
        return files.read_json(record) if record.is_file() else {}

    def of(self, path: str) -> str:
        if path not in self.known:
            found = files.sha256_of(self.root / path)
            self.known[path] = self.pruned.get(path, found) if found == files.ABSENT else found
        return self.known[path]

    def forget(self, *paths: str) -> None:
        for path in paths:
            self.known.pop(path, None)


def _key(wanted: Node, params: Params, hashes: _Hashes) -> str:
    inputs = {path: hashes.of(path) for path in (*wanted.inputs, *wanted.optional)}
    content = {"inputs": inputs, "params": section_values(wanted, params), "code": hashes.code.hash(wanted)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_current(layout: Layout, wanted: Node, key: str, hashes: _Hashes, say: bool = False) -> bool:
    content = _made(layout, wanted)
    if content.get("key") != key:
        return False
    for path in (*wanted.outputs, *wanted.metrics):
        now = hashes.of(path)
        if now == files.ABSENT:
            return False
        # Metrics hold durations: those of another run of the same stage, which DVC may have brought back, are as good.
        if now != content["hashes"].get(path) and not (path in wanted.metrics and hashes.dvc.is_output(wanted, path)):
            if say:
                sealed.say_damaged(Path(path), f"`{wanted.command}` runs again")
            return False
    return True


def _made(layout: Layout, wanted: Node) -> dict[str, Any]:
    """Return what a stage's manifest says: the key of what it was made from, and hashes of what it wrote; empty where it says nothing."""
    try:
        content: dict[str, Any] = files.read_json(_manifest(layout, wanted))
    except OspoError:
        return {}
    return content if isinstance(content.get("hashes"), dict) else {}

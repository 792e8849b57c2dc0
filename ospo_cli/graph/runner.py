"""All stages of all iterations in one process: the same tables as `dvc repro`, without DVC."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from ospo_cli.executors import engines, heap, kept
from ospo_cli.executors.usage import Usage
from ospo_cli.graph import before_training
from ospo_cli.graph.declared import Node
from ospo_cli.graph.nodes import plan, require_inputs
from ospo_cli.graph.records import Records, section_values
from ospo_cli.layout import Layout
from ospo_cli.params.declared import FREE, Declared
from ospo_cli.params.unread import unread
from ospo_cli.params.whole import SECTIONS, Params, check_retrievers, to_mapping
from ospo_cli.tables import files


def execute(wanted: Node, layout: Layout, params: Params, records: Records | None = None) -> dict[str, Any]:
    """Run one stage as the command line does: inputs are looked for before anything heavy is imported.

    A manifest tells `run` what the result was made from, so that a stage that was run by its own command is not run again.
    """
    require_inputs(wanted, layout, params)
    if wanted.stage in ("prepare-data", "evaluate"):  # before hours of training, not after
        check_retrievers(params.evaluate, params.score_coalitions, params.retrieval)
    if wanted.stage == "warm-start":
        before_training.check(layout, params)
    is_by_hand = records is None and "DVC_STAGE" not in os.environ
    records = records or Records(layout, params)
    key = records.key(wanted)
    if is_by_hand:
        sys.stderr.write(unread(params, [name for name in wanted.sections if name in SECTIONS]) if (wanted.iteration or 1) == 1 else "")
        records.name_doubtful(wanted)
    with engines.engaged(params.execution, [*wanted.command.split()[1:], "--project", str(layout.root)]):
        result, took = measured(wanted, layout, params)
    heap.give_back()
    # What `ospo plan` takes its rates from and is compared with; no stage reads it.
    files.write_json(layout.plan(f"actual/{wanted.label}.json"), took)
    records.keep(wanted, key)
    if wanted.stage == "prepare-data":
        before_training.check_fields(layout, params.retrieval, params.warm_start)
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


def measured(wanted: Node, layout: Layout, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run one stage; return its result, and what it took: seconds, memory, bytes written, what it counted, and the parameters it read."""
    with Usage() as usage:
        result = _called(wanted, layout, params)
    took = {"seconds": usage.seconds, "cpu_seconds": usage.cpu_seconds, "peak_bytes": usage.peak_bytes}
    # A layout may keep its data elsewhere than the project does.
    written = [layout.data / Path(path).relative_to("data") for path in (*wanted.outputs, *wanted.metrics)]
    took["bytes"] = sum(file.stat().st_size for path in written for file in [path, *path.rglob("*")] if file.is_file())
    counts = {name: value for name, value in result.items() if type(value) is int}
    return result, took | {"counts": counts, "params": section_values(wanted, to_mapping(params))}


def run(layout: Layout, params: Params, force: bool = False) -> tuple[int, int]:
    """Run what is not up to date; return (stages run, stages skipped). What the next stage needs stays in memory (`executors/kept.py`)."""
    with kept.between_stages():
        records = Records(layout, params)
        ran = skipped = 0
        nodes = plan(params)
        check_retrievers(params.evaluate, params.score_coalitions, params.retrieval)
        sys.stderr.write(unread(params))
        for position, wanted in enumerate(nodes, 1):
            if not force and records.is_current(wanted, say=True):
                skipped += 1
                if wanted.stage == "warm-start":  # which looks itself where it runs
                    before_training.check(layout, params)
                continue
            sys.stderr.write(f"[{position}/{len(nodes)}] {wanted.command}\n")
            start_seconds = time.monotonic()
            if wanted.iteration is None:  # evaluate opens more than an iteration does
                kept.clear()
            execute(wanted, layout, params, records)
            sys.stderr.write(f"[{position}/{len(nodes)}] {wanted.command}: {time.monotonic() - start_seconds:.1f} s\n")
            ran += 1
        return ran, skipped


def outlook(layout: Layout, params: Params) -> list[tuple[Node, str]]:
    """Return every stage with what `run` would do: "up to date", "run", or "needs PATH" where an input is missing that no stage makes."""
    records, found = Records(layout, params), []
    made: set[str] = set()
    stale: set[str] = set()
    for wanted in plan(params):
        absent = [path for path in wanted.inputs if path not in made and not (layout.root / path).exists() and path not in records.pruned]
        is_current = not stale & set(wanted.inputs) and records.is_current(wanted)
        made.update(wanted.outputs, wanted.metrics)
        if not is_current:
            stale.update(wanted.outputs, wanted.metrics)
        found.append((wanted, f"needs {absent[0]}" if absent else "up to date" if is_current else "run"))
    return found

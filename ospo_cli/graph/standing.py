"""Whose records hold each stage's results, and which would be computed again."""

from __future__ import annotations

from collections.abc import Iterator

from ospo_cli.graph import runner
from ospo_cli.graph.declared import Node
from ospo_cli.graph.dvc_lock import DvcLock
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params


def standing(layout: Layout, params: Params) -> Iterator[tuple[Node, str]]:
    """Yield every stage and whose records hold its results: ospo run's, dvc repro's alone, or nobody's (empty: it would run again)."""
    lock, stale = DvcLock(layout.root), set[str]()
    for made, state in runner.outlook(layout, params):
        by = "ospo run" if state == "up to date" else ""
        if not by and not stale & set(made.inputs) and lock.is_current(made):
            by = "dvc repro"
        if not by:
            stale.update(made.outputs, made.metrics)
        yield made, by


def would_run_again(layout: Layout, params: Params) -> str | None:
    """Return the first command up to evaluate that would run again under these parameters; None where the results are theirs."""
    return next((made.command for made, by in standing(layout, params) if not by and made.stage != "report"), None)

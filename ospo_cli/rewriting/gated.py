"""A policy behind its gate, asked for held-out prompts as `ospo rewrite` asks it for queries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.layout import Layout
from ospo_cli.rewriting import gate as gates
from ospo_cli.rewriting.decision import REWRITTEN, SAME
from ospo_cli.rewriting.gate import Gate
from ospo_cli.rewriting.setup import Setup, gate_path
from ospo_cli.tables.evaluate import COMPLETIONS, gated_name

if TYPE_CHECKING:
    from ospo_cli.retrievers.base import Retriever
    from ospo_cli.rewriting.rewriter import Rewriter

_PROMPTS_PER_SHARD = 64


class _Work(NamedTuple):
    system: str
    folder: Path
    gate: Gate
    prompts: pl.DataFrame


def found(layout: Layout, folders: Mapping[str, tuple[Path, str]]) -> dict[str, Gate]:
    """Return system -> gate of the policies that have one; one that was made for other weights is named on stderr and left out.

    Args:
        layout: the project.
        folders: system -> a checked policy folder and the hash of its content.

    Raises:
        FileError, PolicyError: a gate cannot be read.
    """
    fitting = {}
    for system, (folder, content) in folders.items():
        path = gate_path(folder, layout)
        gate = gates.load(path)
        if gate is not None and gate.policy == content:
            fitting[system] = gate
        elif gate is not None:
            sys.stderr.write(f"evaluate: {path}: made for other weights than {system} has now, left out; run `ospo gate` again\n")
    return fitting


def answers(
    prompts: pl.DataFrame,
    folders: Mapping[str, tuple[Path, str]],
    found: Mapping[str, Gate],
    setup: Setup,
    cache: Path,
    engine: Callable[[str], Retriever],
) -> list[pl.DataFrame]:
    """Return table completions of each gated policy: what the engine is given, and in `problem` why that is the raw query.

    Args:
        prompts: rows of table prompts.
        folders: system -> a checked policy folder and the hash of its content.
        found: system -> its gate.
        setup: how policies are asked.
        cache: folder of the finished shards.
        engine: opens the retriever of a name, for gates that look at result lists.
    """
    if not found:
        return []
    from ospo_cli.rewriting.rewriter import VERSION

    shards = []
    for system, gate in found.items():
        folder, content = folders[system]
        searched = engine(gate.retriever).fingerprint if gate.retriever else ""
        known = ["evaluate.gated 2", VERSION, content, setup.card, setup.threads, setup.batch_size, gate.identity, searched]
        for part in prompts.select("prompt_id", "query", "history").iter_slices(_PROMPTS_PER_SHARD):
            shards.append(Shard(content_key(*known, part.rows()), part.height, _Work(system, folder, gate, part)))
    made = ShardFolder(cache).map_shards(_Answers(setup, engine).of, shards, {"completions": COMPLETIONS}, "gated", "prompts")
    named = zip(shards, made, strict=True)
    return [tables["completions"].with_columns(system=pl.lit(gated_name(shard.payload.system))) for shard, tables in named]


class _Answers:
    """Asks one policy at a time; it is loaded when its first unfinished shard comes up."""

    def __init__(self, setup: Setup, engine: Callable[[str], Retriever]) -> None:
        self.setup, self.engine = setup, engine
        self.opened: tuple[Path, Rewriter] | None = None

    def of(self, work: _Work) -> dict[str, pl.DataFrame]:
        """Return table completions of one shard."""
        from ospo_cli.policies.opening import load_policy
        from ospo_cli.rewriting.rewriter import Asked, Rewriter

        if self.opened is None or self.opened[0] != work.folder:
            self.opened = None  # freed before the next policy is loaded
            engine = self.engine(work.gate.retriever) if work.gate.retriever else None
            self.opened = work.folder, Rewriter(load_policy(work.folder, self.setup.threads), self.setup, work.gate, engine)
        queries, histories = work.prompts["query"].to_list(), work.prompts["history"].to_list()
        asked = [Asked(query, tuple(history)) for query, history in zip(queries, histories, strict=True)]
        rows = []
        for prompt_id, one in zip(work.prompts["prompt_id"], self.opened[1].rewrite_all(asked), strict=True):
            problem = "" if one.why in (REWRITTEN, SAME) else one.why
            rows.append((gated_name(work.system), "greedy", prompt_id, 0, one.rewrite, one.engine_query, problem))
        return {"completions": pl.DataFrame(rows, schema=COMPLETIONS.schema, orient="row")}

"""Rewrite the queries of a file: each distinct one once, in shards that outlive a kill."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ospo_cli.errors import OspoError
from ospo_cli.executors import engines
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.instruments.rewrite import inputs, outputs
from ospo_cli.instruments.rewrite.rankings import both_rankings
from ospo_cli.rewriting.chosen import Chosen, to_serve
from ospo_cli.rewriting.rewriter import Asked, Rewriter
from ospo_cli.tables.rewrite import ANSWERED, with_columns

QUERIES_PER_SHARD = 128
_FIXED = ("row", "query", "rewrite", "engine_query", "is_used", "why", "mean_logprob", "probability")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        policy: number, folder, or empty for the default (`chosen.by_default`).
        best: distinct rewrites per query.
        top: products per ranking; 0 ranks nothing.
        retriever: name; empty takes score_coalitions.retriever.
        milliseconds: whether to write the time of each query: then two runs differ.
        threads: 0 takes policy.threads.
        query_column, history_column: names in the input.
        ungated: rewrite without the policy's gate, whatever the evaluation says.
    """

    policy: str = ""
    best: int = 1
    top: int = 0
    retriever: str = ""
    milliseconds: bool = False
    threads: int = 0
    query_column: str = "query"
    history_column: str = "history"
    ungated: bool = False


def execute(
    project: Path, source: Path, request: Request, out: Path | None = None, kind_in: str = "", kind_out: str = ""
) -> dict[str, Any]:
    """Rewrite a file's queries into `out` (None: standard output); return counts by reason, queries and seconds.

    Raises:
        OspoError: the file, the policy, or what was asked for cannot be had; a query never is the reason.
    """
    kind_out, kind_in = outputs.format_for(out, kind_out), kind_in or inputs.format_of(source)
    if kind_in not in inputs.FORMATS:
        raise OspoError("--from", "unknown format", found=kind_in, expected=", ".join(inputs.FORMATS))
    queries = inputs.read(source, kind_in, request.query_column, request.history_column)
    chosen = to_serve(project, request.policy, request.threads, request.ungated)
    ranking = both_rankings(chosen, request.retriever) if request.top else None
    began = time.monotonic()
    with _cache(chosen, out) as cache:
        answered = rewrite(queries.asked, chosen, request.best, cache)
    seconds = time.monotonic() - began
    frame = table(queries, answered, request)
    if ranking is not None:
        frame = ranking(frame, request.top)
    frame = frame.select(*with_columns(frame.columns).schema)
    if out is None:
        outputs.write_text(frame, sys.stdout.write, kind_out, sys.stdout.isatty())
    else:
        outputs.write(frame, out, kind_out)
    return {"rows": frame.height, "distinct": answered.height, "seconds": seconds, "why": dict(Counter(frame["why"].to_list()))}


@contextlib.contextmanager
def _cache(chosen: Chosen, out: Path | None) -> Iterator[Path]:
    """Give the folder of finished shards: the project's, else one beside the file to write, which goes when that is written."""
    if chosen.project:
        yield chosen.project.cache / "rewrite"
    elif out is None:
        with tempfile.TemporaryDirectory() as folder, engines.using(engines.Local()):
            yield Path(folder)
    else:
        yield (own := out.parent / f".{out.name}.shards")
        shutil.rmtree(own, ignore_errors=True)


def rewrite(asked: Sequence[Asked], chosen: Chosen, best: int, cache: Path) -> pl.DataFrame:
    """Return the rewrites of the distinct queries, in the order in which each first occurs (table ANSWERED, place from 0)."""
    rewriter = Rewriter.opened(chosen)
    distinct = list(dict.fromkeys(asked))

    def answer(part: list[Asked]) -> dict[str, pl.DataFrame]:
        rows = [outputs.fields(found) | {"place": place} for place, found in enumerate(rewriter.rewrite(part, best))]
        return {"answered": pl.DataFrame(rows, schema=ANSWERED.schema)}

    shards = []
    for start in range(0, len(distinct), QUERIES_PER_SHARD):
        part = distinct[start : start + QUERIES_PER_SHARD]
        key = content_key(*rewriter.identity, best, [(one.query, one.history) for one in part])
        shards.append(Shard(key, len(part), part))
    done = ShardFolder(cache).map_shards(answer, shards, {"answered": ANSWERED}, "rewrite", "distinct queries")
    found = pl.concat([ANSWERED.empty(), *(tables["answered"] for tables in done)])
    return found.with_columns(place=pl.int_range(pl.len(), dtype=pl.Int64))


def table(queries: inputs.Queries, answered: pl.DataFrame, request: Request) -> pl.DataFrame:
    """Return table rewrites: a row for each of the file's, equal queries with equal answers."""
    place_of = {one: place for place, one in enumerate(dict.fromkeys(queries.asked))}
    places = pl.DataFrame({"place": pl.Series([place_of[one] for one in queries.asked], dtype=pl.Int64)}).with_row_index("row", 1)
    frame = places.join(answered, on="place", how="left", maintain_order="left").with_columns(
        pl.col("row").cast(pl.Int64), is_used=pl.col("why") == "rewritten"
    )
    wanted = [*_FIXED, *(["best"] if request.best > 1 else []), *(["milliseconds"] if request.milliseconds else [])]
    if queries.ids is not None:
        frame = frame.with_columns(query_id=pl.Series(queries.ids, dtype=pl.String))
        wanted.append("query_id")
    return frame.select(wanted)


def in_words(counts: dict[str, Any]) -> str:
    """Return what was done, in one line."""
    used = counts["why"].get("rewritten", 0)
    others = sorted((count, why) for why, count in counts["why"].items() if why != "rewritten")[::-1]
    left = f"; the raw query for {counts['rows'] - used:,}: " + ", ".join(f"{count:,} {why}" for count, why in others) if others else ""
    rate = counts["distinct"] / counts["seconds"] if counts["seconds"] else 0.0
    return f"{counts['rows']:,} queries, {counts['distinct']:,} distinct, {rate:.3g}/s: {used:,} rewritten{left}"

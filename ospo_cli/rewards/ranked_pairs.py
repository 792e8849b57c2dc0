"""Rankings of many (prompt, query) pairs in shards: their metrics, and the first products of those that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.tables.declare import Column, Table

VERSION = "ranked pairs 1"  # of what a shard holds
_PAIRS_PER_SHARD = 1024
_PAIR = (Column("prompt_id", pl.String, "identity of the prompt"), Column("query", pl.String, "text that the retriever was given"))
_FIRST = Table(
    "first",
    "first products of the pairs that are shown",
    ("prompt_id", "query", "rank"),
    (
        *_PAIR,
        Column("rank", pl.Int32, "from 1"),
        Column("doc_id", pl.String, "identity of the product"),
        Column("score", pl.Float64, "score given by the retriever"),
    ),
)


def ranked(
    reward: JudgedReward, asked: pl.DataFrame, metrics: Sequence[str], depth: int, cache: Path, label: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the metrics of each distinct pair (prompt_id, query, then a column per metric), and the first products of those shown.

    All pairs of a prompt are in one shard. A pair's ranking depends on no other pair, so that shards change no number.

    Args:
        reward: ranks and compares.
        asked: prompt_id, query, is_shown; a pair may come more than once, and is shown where any row says so.
        metrics: names, as `parse_metric` spells them.
        depth: ranks of the pairs that are shown.
        cache: folder of the finished shards.
        label: of the progress.

    Raises:
        RetrievalError: the retriever fails.
    """
    pairs = asked.group_by("prompt_id", "query").agg(pl.col("is_shown").any()).sort("prompt_id", "query")
    columns = tuple(Column(name, pl.Float64, "0 to 1") for name in metrics)
    measured = Table("measured", "metrics of the rankings of pairs", ("prompt_id", "query"), (*_PAIR, *columns))

    def work(part: pl.DataFrame) -> dict[str, pl.DataFrame]:
        values = reward.measures(part["prompt_id"].to_list(), part["query"].to_list(), metrics)
        found = part.select("prompt_id", "query").with_columns(pl.Series(name, values[name], dtype=pl.Float64) for name in metrics)
        return {measured.name: found, _FIRST.name: _first(reward, part.filter("is_shown"), depth)}

    tables, shards = {table.name: table for table in (measured, _FIRST)}, _shards(reward, pairs, metrics, depth)
    made = ShardFolder(cache).map_shards(work, shards, tables, label, "queries", reward.tally)
    whole = [pl.concat([table.empty(), *(found[name] for found in made)]) for name, table in tables.items()]
    return whole[0], whole[1]


def _shards(reward: JudgedReward, pairs: pl.DataFrame, metrics: Sequence[str], depth: int) -> list[Shard]:
    shards, known = [], (VERSION, reward.about(metrics), depth)
    sizes = pairs.group_by("prompt_id").len().sort("prompt_id")
    places = (sizes["len"].cum_sum() - 1) // _PAIRS_PER_SHARD
    for _, chosen in sizes.with_columns(place=places).group_by("place", maintain_order=True):
        own = pairs.join(chosen, on="prompt_id", how="semi").sort("prompt_id", "query")
        judged = [reward.fingerprint(prompt_id).hex() for prompt_id in chosen["prompt_id"]]
        shards.append(Shard(content_key(known, judged, own.rows()), own.height, own))
    return shards


def _first(reward: JudgedReward, shown: pl.DataFrame, depth: int) -> pl.DataFrame:
    found = reward.rankings(shown["prompt_id"].to_list(), shown["query"].to_list(), depth)
    counts = np.array([len(ranking.documents) for ranking in found], dtype=np.int64)
    if not counts.sum():
        return _FIRST.empty()
    owner = np.repeat(np.arange(shown.height), counts)
    indices = np.concatenate([ranking.documents for ranking in found]).astype(np.int64)
    return shown.select("prompt_id", "query")[owner].with_columns(
        rank=pl.Series(np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts])),
        doc_id=pl.Series(reward.doc_ids, dtype=pl.String)[indices],
        score=pl.Series(np.concatenate([ranking.scores for ranking in found]), dtype=pl.Float64),
    )

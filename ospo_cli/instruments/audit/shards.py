"""The audit's work in shards: what was measured of a few rollouts lies in the cache, computed once, by whatever worker."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.instruments.audit.games import CURVE_PARTS, RANDOM_ORDERS, Auditor, Values
from ospo_cli.maths.estimators import Estimator
from ospo_cli.tables.audit import AUDIT_CURVES
from ospo_cli.tables.declare import Column, Table

VERSION = "audit 1"
_SHARDS, _MOST_ROLLOUTS = 16, 8  # of a shard; each has hundreds of texts
_ROLLOUTS = Table(
    "rollouts",
    "what the games of an audited rollout took",
    ("rollout_id",),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("texts", pl.Int64, "different texts of its games"),
        Column("asked", pl.Int64, "values that were asked of all retrievers"),
    ),
)
_METHODS = Table(
    "methods",
    "what was measured of a method on a rollout",
    ("rollout_id", "method"),
    (
        Column("rollout_id", pl.String, "identity of the rollout"),
        Column("method", pl.String, "an estimator, the group game, or random orders"),
        Column("sources", pl.List(pl.String), "names of the measures"),
        Column("values", pl.List(pl.Float64), "the measures"),
        Column("curves", pl.List(pl.Float64), "while segments leave, then while they enter, at each part"),
        Column("share", pl.List(pl.Float64), "of each segment"),
    ),
)


@dataclass(frozen=True)
class Methods:
    """What is measured: estimators, and the project's group game by its credit of each segment (rollout -> float[n])."""

    estimators: Sequence[Estimator]
    game: str
    credit: Mapping[str, Values]

    @property
    def names(self) -> list[str]:
        """The methods in order."""
        return [*(estimator.name for estimator in self.estimators), *[self.game] * bool(self.game)]


@dataclass(frozen=True)
class Measured:
    """What was measured of all rollouts.

    Attributes:
        found: method -> per rollout, source -> number.
        shares: rollout -> method -> share of each segment.
        curves: table audit_curves.
        texts: different texts of the games.
        asked: values that were asked, those of shards that were there already too.
    """

    found: dict[str, list[dict[str, float]]]
    shares: dict[str, dict[str, Values]]
    curves: pl.DataFrame
    texts: int
    asked: int


def measured(auditor: Auditor, drawn: Sequence[dict[str, Any]], methods: Methods, cache: Path) -> Measured:
    """Return the measures of the rollouts, from finished shards where they are there."""

    def work(rollouts: Sequence[dict[str, Any]]) -> dict[str, pl.DataFrame]:
        taken, rows = [], list[tuple[Any, ...]]()
        for rollout in rollouts:
            texts, asked = auditor.evaluated, auditor.reward.tally.asked
            rows += _measured(auditor, rollout, methods)
            taken.append((rollout["rollout_id"], auditor.evaluated - texts, auditor.reward.tally.asked - asked))
        return {
            table.name: pl.DataFrame(own, schema=table.schema, orient="row") for table, own in ((_ROLLOUTS, taken), (_METHODS, rows))
        }  # fmt: skip

    tables = {table.name: table for table in (_ROLLOUTS, _METHODS)}
    shards = list(_shards(auditor, drawn, methods))
    made = ShardFolder(cache).map_shards(work, shards, tables, "audit", "rollouts", auditor.reward.tally)
    taken, rows = (pl.concat([found[name] for found in made]) for name in tables)
    by_method = {(row["rollout_id"], row["method"]): row for row in rows.iter_rows(named=True)}
    ids = [rollout["rollout_id"] for rollout in drawn]
    known = {name: [by_method[each, name] for each in ids if (each, name) in by_method] for name in (RANDOM_ORDERS, *methods.names)}
    return Measured(
        {name: [dict(zip(row["sources"], row["values"], strict=True)) for row in known[name]] for name in methods.names},
        {each: {name: np.array(by_method[each, name]["share"]) for name in methods.names if (each, name) in by_method} for each in ids},
        _curves({name: [row["curves"] for row in own] for name, own in known.items() if own}),
        int(taken["texts"].sum()),
        int(taken["asked"].sum()),
    )


def _measured(auditor: Auditor, rollout: dict[str, Any], methods: Methods) -> Iterator[tuple[Any, ...]]:
    case, rollout_id = auditor.case(rollout), rollout["rollout_id"]
    found = {estimator.name: auditor.measured(estimator, case) for estimator in methods.estimators}
    if rollout_id in methods.credit:
        found[methods.game] = auditor.importance(methods.game, methods.credit[rollout_id], case)
    for name, curves in auditor.curves.pop(rollout_id).items():
        own = found.get(name, {})
        share = auditor.shares[rollout_id][name].tolist() if own else []
        yield rollout_id, name, list(own), list(own.values()), curves.ravel().tolist(), share


def _shards(auditor: Auditor, drawn: Sequence[dict[str, Any]], methods: Methods) -> Iterator[Shard]:
    reward, vocabulary = auditor.reward, auditor.vocabulary
    known = [
        VERSION,
        auditor.seed,
        dataclasses.asdict(auditor.settings),
        {name: other.retriever.fingerprint for name, other in auditor.others.items()},
        reward.retriever.fingerprint,
        reward.own_reward.fingerprint if reward.own_reward else "",
        vocabulary.folding,
        hashlib.sha256("\n".join(vocabulary.ordered).encode()).hexdigest(),
        methods.names,
    ]
    size = min(_MOST_ROLLOUTS, -(-len(drawn) // _SHARDS))
    for start in range(0, len(drawn), size):
        rollouts = drawn[start : start + size]
        judged = [
            (reward.raw_query(name), reward.fingerprint(name).hex(), sorted(vocabulary.judged(reward.judged(name)[0])))
            for name in dict.fromkeys(rollout["prompt_id"] for rollout in rollouts)
        ]
        credit = [methods.credit[rollout["rollout_id"]].tolist() for rollout in rollouts if rollout["rollout_id"] in methods.credit]
        yield Shard(content_key(known, rollouts, judged, credit), len(rollouts), rollouts)


def _curves(kept: Mapping[str, Sequence[Sequence[float]]]) -> pl.DataFrame:
    """Return table audit_curves: means over the rollouts that were measured."""
    rows = [
        (name, curve, step / CURVE_PARTS, float(value), len(own))
        for name, own in kept.items()
        for curve, values in zip(("deletion", "insertion"), np.mean(np.reshape(own, (len(own), 2, -1)), axis=0), strict=True)
        for step, value in enumerate(values)
    ]
    return pl.DataFrame(rows, schema=AUDIT_CURVES.schema, orient="row")

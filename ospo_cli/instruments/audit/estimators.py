"""Audit of credit: every estimator on the same rollouts, against properties that have a right answer. Outside the graph."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.instruments.audit.games import Auditor, Vocabulary
from ospo_cli.instruments.audit.measures import audit_table, measures_of
from ospo_cli.instruments.audit.shards import Methods, measured
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.audit_measures import spearman
from ospo_cli.maths.estimators import ESTIMATORS, Estimator
from ospo_cli.maths.group_game import GROUP_GAMES
from ospo_cli.params.evaluate import Evaluate
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.train import Train
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.report import staleness
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import read_prepared
from ospo_cli.rewards.opening import open_reward
from ospo_cli.tables import files, placed
from ospo_cli.tables.attribute import ATTRIBUTIONS
from ospo_cli.tables.audit import AUDIT, AUDIT_CURVES
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.close_names import check_names

CONTROLS = ("uniform", "random")
FEWEST_SEGMENTS, MOST_SEGMENTS = 2, 10  # two more are injected, and all coalitions of 12 are evaluated
# Of params.yaml, what the result depends on besides its tables.
SECTIONS = ("train.seed", "retrieval", "score_coalitions", "evaluate.retrievers", "evaluate.bootstrap")


class Reads(Sections, Protocol):
    """What an auditor reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def evaluate(self) -> Evaluate: ...


def execute(
    layout: Layout, params: Params, iteration: int, rollout_count: int = 100, estimators: Sequence[str] | None = None, examples: int = 0
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Write audit.parquet, audit_curves.parquet and audit_metrics.json of an iteration; return the table and the metrics.

    Args:
        layout: paths of the project.
        params: all parameters.
        iteration: iteration whose rollouts are audited.
        rollout_count: most rollouts that are drawn, by seed.
        estimators: names in the registry, or the project's own group game; None takes all.
        examples: answers in which the methods disagree most, described in the metrics.

    The credit of a group game (splice, swap) is read from table attributions. It has no coalitions of its own: what is measured of it is
    how it orders segments.

    Raises:
        ParameterError: there is no such estimator.
        CreditError: no rollout is fit for an audit.
    """
    start_seconds = time.monotonic()
    game, credit = _credit(layout, params.attribute.estimator, iteration, estimators)
    chosen = _chosen_estimators([name for name in estimators if name != game] if estimators else None)
    rollouts, segments, rewards = (placed.read(table, layout, iteration) for table in (ROLLOUTS, SEGMENTS, REWARDS))
    drawn, counts = _drawn(rollouts, segments, rewards, rollout_count, params.train.seed, iteration)
    auditor = _auditor(layout, params)
    found = measured(auditor, drawn, Methods(chosen, game, credit), layout.cache / "audit")
    table = audit_table(found.found, measures_of(list(auditor.others)), params.train.seed, params.evaluate.bootstrap)
    written = [layout.iteration(iteration, f"{name}.parquet") for name in (AUDIT.name, AUDIT_CURVES.name)]
    placed.write(table, AUDIT, layout, iteration)
    placed.write(found.curves, AUDIT_CURVES, layout, iteration)
    read = [layout.prepared(f"{name.name}.parquet") for name in (DOCUMENTS, PROMPTS, QRELS, POOLS)]
    read += [layout.iteration(iteration, f"{name.name}.parquet") for name in (ROLLOUTS, SEGMENTS, REWARDS, *[ATTRIBUTIONS] * bool(game))]
    tally = dataclasses.replace(auditor.reward.tally, asked=found.asked, reused=found.asked - auditor.reward.tally.asked)
    tally.report("audit")
    values = to_mapping(params)
    metrics = counts | {
        **tally.metrics(),
        "tables": staleness.fingerprints(layout, values, written, []),
        "inputs": staleness.fingerprints(layout, values, read, SECTIONS),
        "evaluated_texts": found.texts,
        "seconds": time.monotonic() - start_seconds,
    }
    if examples:
        metrics["examples"] = disagreements(auditor.reward, found.shares, drawn, examples)
    files.write_json(layout.iteration(iteration, "audit_metrics.json"), metrics)
    return table, metrics


def _auditor(layout: Layout, params: Reads) -> Auditor:
    tables = read_prepared(layout)
    others = {name: open_reward(layout, params, tables, name) for name in unseen_retrievers(params.evaluate, params.score_coalitions)}
    reward = open_reward(layout, params, tables)
    for other in others.values():  # one count of all: what workers counted is brought to one
        other.tally = reward.tally
    vocabulary = Vocabulary(tables.documents, params.retrieval.fields, params.retrieval.folding)
    return Auditor(reward, others, vocabulary, params.score_coalitions, params.train.seed)


def unseen_retrievers(evaluate: Evaluate, score_coalitions: ScoreCoalitions) -> list[str]:
    """Return the retrievers of the evaluation that gave no reward."""
    return [name for name in evaluate.retrievers if name != score_coalitions.retriever]


def _credit(layout: Layout, game: str, iteration: int, asked: Sequence[str] | None) -> tuple[str, dict[str, NDArray[np.float64]]]:
    """Return the project's group game and rollout -> credit of each segment; an empty name where it has none.

    It is left out where other estimators were asked for, or nothing was and nothing is attributed yet.
    """
    is_there = layout.iteration(iteration, f"{ATTRIBUTIONS.name}.parquet").is_file()
    if game not in GROUP_GAMES or (game not in asked if asked else not is_there):
        return "", {}
    rows = placed.read(ATTRIBUTIONS, layout, iteration).sort("rollout_id", "segment_index").group_by("rollout_id", maintain_order=True)
    return game, {name: np.array(credit) for name, credit in rows.agg("credit").iter_rows() if None not in credit}


def disagreements(
    reward: JudgedReward, shares_of: dict[str, dict[str, NDArray[np.float64]]], drawn: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """Return the answers whose methods order their segments least alike: those of the lowest mean rank correlation over pairs of methods.

    The controls (uniform, random) count as no method; nor does one whose shares are constant.
    """
    found = []
    for rollout in drawn:
        shares = {name: share for name, share in shares_of[rollout["rollout_id"]].items() if name not in CONTROLS}
        agreed = [spearman(first, second) for first, second in combinations(shares.values(), 2)]
        agreed = [value for value in agreed if not np.isnan(value)]
        if agreed:
            segments = [rollout["completion"][start:end] for start, end in zip(rollout["start"], rollout["end"], strict=True)]
            found.append({
                "rollout_id": rollout["rollout_id"], "query": reward.raw_query(rollout["prompt_id"]), "segments": segments,
                "agreement": float(np.mean(agreed)), "shares": {name: share.tolist() for name, share in shares.items()},
            })  # fmt: skip
    return sorted(found, key=lambda each: (each["agreement"], each["rollout_id"]))[:count]


def _chosen_estimators(names: Sequence[str] | None) -> list[Estimator]:
    check_names("--estimators", "estimator", names or (), ESTIMATORS)
    return [estimator for name, estimator in ESTIMATORS.items() if names is None or name in names]


def _drawn(
    rollouts: pl.DataFrame, segments: pl.DataFrame, rewards: pl.DataFrame, count: int, seed: int, iteration: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rollouts that are audited, by id, with their spans and unions, and how many were fit or not."""
    if not rollouts.height:
        raise CreditError("table rollouts", "holds no rollout", expected="at least one", remedy=f"run `ospo rollout --iter {iteration}`")
    absent = rollouts.join(rewards, on="rollout_id", how="anti")
    if absent.height:
        remedy = f"run `ospo score-coalitions --iter {iteration}` again"
        raise CreditError("table rewards", "lacks a rollout", found=absent["rollout_id"].min(), remedy=remedy)
    players = segments.sort("rollout_id", "segment_index").group_by("rollout_id", maintain_order=True)
    frame = (
        rollouts.select("rollout_id", "prompt_id", "completion")
        .join(rewards.select("rollout_id", "is_degenerate_group"), on="rollout_id")
        .join(players.agg("start", "end", "union_index"), on="rollout_id", how="left")
        .with_columns(n=pl.col("start").list.len().fill_null(0))
        .sort("rollout_id")
    )
    is_degenerate, n = pl.col("is_degenerate_group"), pl.col("n")
    eligible = frame.filter(~is_degenerate & n.is_between(FEWEST_SEGMENTS, MOST_SEGMENTS))
    counts = {
        "rollouts": frame.height,
        "eligible": eligible.height,
        "audited": min(count, eligible.height),
        "degenerate": frame.filter(is_degenerate).height,
        "too_few_segments": frame.filter(~is_degenerate & (n < FEWEST_SEGMENTS)).height,
        "too_many_segments": frame.filter(~is_degenerate & (n > MOST_SEGMENTS)).height,
    }
    if not eligible.height:
        raise CreditError(
            f"audit of iteration {iteration}",
            "no rollout is fit for it",
            found=", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in ("degenerate", "too_few_segments", "too_many_segments")),
            expected=f"rollouts of {FEWEST_SEGMENTS} to {MOST_SEGMENTS} segments in groups whose rewards differ",
            remedy="segment by another level or audit another iteration",
        )
    order = seeding.generator(seed, f"audit rollouts|{iteration}").permutation(eligible.height)[:count]
    return eligible[np.sort(order).tolist()].to_dicts(), counts

"""Held-out comparison: raw query, warm start, every iteration and an oracle, under the training retriever and unseen ones."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import MissingInputError, SourceError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.progress import Parts
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.ranking import parse_metric
from ospo_cli.report import gated_systems, trec_files, verdict
from ospo_cli.report.evaluation_summary import (
    ORACLE,
    best_of_group,
    curves,
    headline,
    policy_name,
    summarise,
)
from ospo_cli.report.evaluation_summary import Sections as SummarySections
from ospo_cli.report.system_names import RAW_QUERY
from ospo_cli.retrievers.opening import build, weighs_fields
from ospo_cli.rewards import unfound
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_reward import Sections as RewardSections
from ospo_cli.rewards.judgments import Prepared, read_prepared
from ospo_cli.rewards.oracle import OracleSearch
from ospo_cli.rewards.ranked_pairs import ranked
from ospo_cli.rewards.remembered import Tally
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewriting import decision, gated, setup
from ospo_cli.sampling import held_out
from ospo_cli.tables import evaluated_data, files, placed
from ospo_cli.tables.evaluate import CHOICE_VALUES, COMPLETIONS, DECODED, QUERY_METRICS, RUN
from ospo_cli.tables.score_coalitions import REWARDS
from ospo_cli.text.composition import served
from ospo_cli.training.sharpness import sharpness

if TYPE_CHECKING:
    from ospo_cli.params.policy import Policy
    from ospo_cli.params.prepare_data import PrepareData
    from ospo_cli.params.rollout import Rollout
    from ospo_cli.retrievers.base import Retriever
    from ospo_cli.rewriting.gate import Gate

METRICS = ("ndcg@10", "ndcg@pool", "mrr", "recall@10")
RUN_DEPTH = 100  # ranks written to table run and the TREC files
_PROMPTS_PER_SHARD = 64
_KEYS = ["system", "decoding", "prompt_id"]


class Reads(RewardSections, SummarySections, Protocol):
    """The sections that the stage reads: those of the reward and of the summary, and how a policy is sampled."""

    @property
    def policy(self) -> Policy: ...

    @property
    def rollout(self) -> Rollout: ...

    @property
    def prepare_data(self) -> PrepareData: ...


def execute(layout: Layout, params: Reads) -> dict[str, Any]:
    """Answer the held-out prompts with every system, rank, measure, compare; write tables, TREC files and summaries."""
    parts = Parts("evaluate")
    parts.begin("policies and tables")
    folders = _checked_folders(_policy_folders(layout, params.evaluated_iterations))
    gates = _gates(layout, folders, params)
    documents, all_prompts, qrels, pools = read_prepared(layout)
    prompts, (choosing, reason) = choose_prompts(all_prompts, params), choosing_prompts(all_prompts, params)
    asked = pl.concat([prompts, choosing])
    qrels, pools = _of(asked, qrels, "qrels"), _of(asked, pools, "pools")
    rewards, tables = {}, Prepared(documents, asked, qrels, pools)
    for name in params.evaluate.retrievers:
        parts.begin(f"index of {name}")
        rewards[name] = JudgedReward(tables, params, retriever=name, cache=layout.cache, store=Store(layout.store))
    _say_unweighted(params)
    made = [_undecoded(RAW_QUERY, prompts["prompt_id"], prompts["query"].to_list())]
    cache, training = layout.cache / "evaluate", rewards[params.score_coalitions.retriever]
    parts.begin("answers")
    decoded = _composed(held_out.answers(prompts, folders, params, cache), prompts, params)
    tried = _composed(held_out.answers(choosing, folders, params, cache), choosing, params) if choosing.height else []
    parts.begin("choice")
    chosen_by = _choice_values(choosing, tried, training, params, cache)
    chosen = verdict.choice(chosen_by, params.evaluate.choose_on, reason)
    parts.begin("oracle")
    made += _oracle_completions(training, documents, prompts, layout, params, parts)
    parts.begin("gated answers")
    gated_answers = gated.answers(
        prompts, folders, gates, setup.of_project(params), cache, _engine(rewards, documents, params, layout.cache)
    )
    completions = pl.concat([*(frame.with_columns(problem=pl.lit("")) for frame in made), *decoded, *gated_answers])
    query_metrics, run, single = evaluate(completions, rewards, params, parts, cache)
    _say_unfound(prompts, run)
    parts.begin("intervals and verdict")
    summary = summarise(query_metrics, params, chosen.get("decodings", {}))
    judged, wins_and_losses = verdict.verdict(query_metrics, completions, prompts, chosen, params)
    summary |= {"against_raw_query": judged, "choice": chosen, "malformed": malformed(pl.concat(decoded))}
    summary |= {"policies": {system: content for system, (_, content) in folders.items()}, "data": evaluated_data.of(layout)}
    summary["has_guessed_judgments"] = params.prepare_data.has_guesses
    summary["gated"] = gated_systems.compared(gates, (query_metrics, completions), prompts, decision.NOT_TRUSTED, params)
    parts.begin("sharpness and tables")
    summary |= {
        "headroom": _headroom(single, layout, params),
        "sharpness": _sharpness(single, sharpness(prompts, folders, params, cache), params),
    }
    placed.write(chosen_by, CHOICE_VALUES, layout)
    files.write_text(layout.evaluation("wins_and_losses.csv"), verdict.as_csv(wins_and_losses))
    placed.write(completions, COMPLETIONS, layout)
    placed.write(run, RUN, layout)
    placed.write(query_metrics, QUERY_METRICS, layout)
    trec_files.write(run, _of(prompts, qrels, "qrels"), summary["systems"], summary["retrievers"], layout.evaluation("trec"))
    files.write_json(layout.evaluation("summary.json"), summary)
    files.write_json(layout.evaluation("curves.json"), curves(summary))
    files.write_json(layout.evaluation("metrics.json"), headline(summary))
    tally = functools.reduce(operator.iadd, (reward.tally for reward in rewards.values()), Tally())
    files.write_json(layout.evaluation("score_metrics.json"), tally.metrics())
    tally.report("evaluate")
    parts.report()
    _say_malformed(summary["malformed"])
    return summary | {"completions": sum(each.height for each in (*decoded, *tried)), "ranked": completions.height, "parts": parts.seconds}


def _say_malformed(malformed: dict[str, dict[str, float]]) -> None:
    for system, shares in malformed.items():
        if said := ", ".join(f"{share:.1%} of {decoding} answers" for decoding, share in shares.items() if share):
            sys.stderr.write(f"evaluate: {system}: {said} malformed; the raw query counts in their place\n")


def evaluate(
    completions: pl.DataFrame, rewards: dict[str, JudgedReward], params: Reads, parts: Parts, cache: Path
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rank every query with every retriever.

    Returns:
        Table query_metrics (sampled values are means over the samples), table run (what is not sampled), and the training
        retriever's evaluate.metric of every single completion (system, decoding, prompt_id, sample_index, value).
    """
    headline_metric = parse_metric(params.evaluate.metric).name
    is_shown = pl.col("decoding").is_in(["none", "greedy"])
    asked = completions.select("prompt_id", "query", is_shown=is_shown)
    shown = completions.filter(is_shown).select("system", "prompt_id", "query")
    measured, runs, single = [], [], pl.DataFrame()
    for name, reward in rewards.items():
        parts.begin(f"ranking by {name}")
        metrics = [metric for metric in METRICS if metric != "ndcg@pool" or reward.pool(completions["prompt_id"][0]) is not None]
        metrics = list(dict.fromkeys([*metrics, reward.metric.name, headline_metric]))
        values, first = ranked(reward, asked, metrics, RUN_DEPTH, cache, name)
        rows = completions.join(values, on=["prompt_id", "query"])
        rows = rows.sort(*_KEYS, "sample_index")
        if name == params.score_coalitions.retriever:
            single = rows.select(*_KEYS, "sample_index", pl.col(headline_metric).alias("value"))
        means = rows.group_by(_KEYS, maintain_order=True).agg(pl.col(metrics).mean())
        long = means.unpivot(metrics, index=_KEYS, variable_name="metric", value_name="metric_value")
        measured.append(long.with_columns(retriever=pl.lit(name), split=pl.lit(params.evaluate.split)))
        runs.append(shown.join(first, on=["prompt_id", "query"]).with_columns(retriever=pl.lit(name)))
    query_metrics = pl.concat(measured).select(list(QUERY_METRICS.schema)).sort(QUERY_METRICS.key)
    return query_metrics, pl.concat(runs).select(list(RUN.schema)).sort(RUN.key), single


def _engine(rewards: Mapping[str, JudgedReward], documents: pl.DataFrame, params: Reads, cache: Path) -> Callable[[str], Retriever]:
    """Return what opens a retriever by its name; those that are evaluated are open."""
    return lambda name: rewards[name].retriever if name in rewards else build(name, documents, params.retrieval, cache)


def _say_unfound(prompts: pl.DataFrame, run: pl.DataFrame) -> None:
    found = run.filter(pl.col("system") == RAW_QUERY)
    for retriever in sorted(set(run["retriever"])):
        missing = prompts.join(found.filter(pl.col("retriever") == retriever), on="prompt_id", how="anti")
        unfound.say("evaluate", retriever, missing["query"].to_list(), prompts.height)


def _say_unweighted(params: Reads) -> None:
    unable = [name for name in params.evaluate.retrievers if name != params.score_coalitions.retriever and not weighs_fields(name)]
    if unable and any("^" in field for field in params.retrieval.fields):
        sys.stderr.write(f"evaluate: {', '.join(unable)}: every field counts once (weights of retrieval.fields are known to bm25 alone)\n")


def choose_prompts(prompts: pl.DataFrame, params: Reads) -> pl.DataFrame:
    """Return the prompts of evaluate.split, at most evaluate.max_prompts of them, chosen by seed."""
    settings = params.evaluate
    chosen = prompts.filter(pl.col("split") == settings.split).sort("prompt_id")
    if chosen.height == 0:
        found = ", ".join(sorted(set(prompts["split"].to_list()))) or "no prompts"
        raise SourceError(
            "table prompts", f"no prompt in split {settings.split}", found=found, remedy="set evaluate.split to one that exists"
        )
    return _some(chosen, settings.max_prompts, params.train.seed)


def choosing_prompts(prompts: pl.DataFrame, params: Reads) -> tuple[pl.DataFrame, str]:
    """Return the prompts on which policy and decoding are chosen, by seed, and why there are none."""
    settings = params.evaluate
    if settings.choose_on == "none":
        return prompts.clear(), "evaluate.choose_on: none"
    if settings.choose_on == settings.split:
        return prompts.clear(), f"{settings.split} is the split that is evaluated"
    found = prompts.filter(pl.col("split") == settings.choose_on).sort("prompt_id")
    if not found.height:
        return found, f"there are no {settings.choose_on} prompts"
    return _some(found, settings.choose_prompts, params.train.seed), ""


def _some(chosen: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    if not 0 < most < chosen.height:
        return chosen
    order = np.argsort(seeding.uniforms(seed, [f"evaluate:{name}" for name in chosen["prompt_id"].to_list()], 1)[:, 0], kind="stable")
    return chosen[sorted(order[:most].tolist())]


def _of(prompts: pl.DataFrame, table: pl.DataFrame, name: str) -> pl.DataFrame:
    rows = table.filter(pl.col("prompt_id").is_in(prompts["prompt_id"].to_list()))
    if table.height and not rows.height:  # no pools at all would mean that the whole catalogue is ranked
        raise SourceError(
            f"table {name}", "has no row for any evaluated prompt", expected="rows for each", remedy="run `ospo prepare-data` again"
        )
    return rows


def _policy_folders(layout: Layout, iterations: Sequence[int]) -> dict[int, Path]:
    folders = {iteration: layout.policy(iteration) for iteration in iterations}
    for iteration, folder in folders.items():
        if not (folder.is_dir() and any(folder.iterdir())):
            command = f"ospo update --iter {iteration}" if iteration else "ospo warm-start"
            raise MissingInputError(
                folder, "no such policy folder", expected=f"policies {', '.join(f'{k:03d}' for k in folders)}", remedy=f"run `{command}`"
            )
    return folders


def _undecoded(system: str, prompt_ids: Iterable[str], queries: Sequence[str]) -> pl.DataFrame:
    rows = [(system, "none", prompt_id, 0, "", query) for prompt_id, query in zip(prompt_ids, queries, strict=True)]
    return pl.DataFrame(rows, schema=DECODED.schema, orient="row")


def _checked_folders(folders: dict[int, Path]) -> dict[str, tuple[Path, str]]:
    from ospo_cli.policies.folder import check_folder, content_hash

    for iteration, folder in folders.items():
        check_folder(folder, f"ospo update --iter {iteration}" if iteration else "ospo warm-start")
    return {policy_name(iteration): (folder, content_hash(folder)) for iteration, folder in folders.items()}


def _gates(layout: Layout, folders: dict[str, tuple[Path, str]], params: Reads) -> dict[str, Gate]:
    """Return the gates of the policies; none where the evaluated prompts are not test prompts: dev prompts made them."""
    found = gated.found(layout, folders)
    if found and params.evaluate.split != "test":
        sys.stderr.write(f"evaluate: gates are left out: they are made on dev prompts, and evaluate.split is {params.evaluate.split}\n")
        return {}
    return found


def _composed(answers: list[pl.DataFrame], prompts: pl.DataFrame, params: Reads) -> list[pl.DataFrame]:
    raw_queries, composition = dict(prompts.select("prompt_id", "query").iter_rows()), params.score_coalitions.composition

    def composed(completions: pl.DataFrame) -> pl.DataFrame:
        rows = completions.select("prompt_id", "completion").iter_rows()
        found = [served(raw_queries[prompt_id], completion, composition) for prompt_id, completion in rows]
        return completions.with_columns(
            query=pl.Series([each.query for each in found], dtype=pl.String),
            problem=pl.Series([each.problem for each in found], dtype=pl.String),
        )

    return [composed(frame) for frame in answers]


def _choice_values(prompts: pl.DataFrame, tried: list[pl.DataFrame], reward: JudgedReward, params: Reads, cache: Path) -> pl.DataFrame:
    """Return table choice_values: evaluate.metric of the raw query and of each policy and decoding, per choosing prompt."""
    if not prompts.height:
        return CHOICE_VALUES.empty()
    columns, metric = ["system", "decoding", "prompt_id", "query"], parse_metric(params.evaluate.metric).name
    rows = pl.concat(
        [_undecoded(RAW_QUERY, prompts["prompt_id"], prompts["query"].to_list()).select(columns)]
        + [frame.select(columns) for frame in tried]
    )
    asked = rows.select("prompt_id", "query", is_shown=pl.lit(False))
    values, _ = ranked(reward, asked, [metric], 1, cache, "choice")
    found = rows.join(values.rename({metric: "value"}), on=["prompt_id", "query"])
    return found.sort(*_KEYS, "query").group_by(_KEYS, maintain_order=True).agg(pl.col("value").mean())


def _sharpness(single: pl.DataFrame, found: dict[str, dict[str, Any]], params: Reads) -> dict[str, dict[str, Any]]:
    """Return system -> its entropy, its divergence from the warm start, and the best of its samples."""
    for system, measures in found.items():
        samples = single.filter((pl.col("system") == system) & (pl.col("decoding") == "sampled"))
        if samples.height:
            measures["best_of_samples"] = best_of_group(samples, params)
    return found


def malformed(completions: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Return system -> decoding -> share of completions that hold no answer, where the raw query counts in its place."""
    found: dict[str, dict[str, float]] = {}
    decoded = completions.filter(pl.col("decoding") != "none").group_by("system", "decoding").agg((pl.col("problem") != "").mean())
    for system, decoding, share in decoded.sort("system", "decoding").iter_rows():
        found.setdefault(system, {})[decoding] = share
    return found


def _oracle_completions(
    reward: JudgedReward, documents: pl.DataFrame, prompts: pl.DataFrame, layout: Layout, params: Reads, parts: Parts
) -> list[pl.DataFrame]:
    """Return the oracle's queries: greedy single-word edits of the raw query, scored by the reward's retriever and metric."""
    if params.evaluate.oracle_edits == 0:
        return []
    search = OracleSearch(reward, documents, params)
    prompts = prompts.select("prompt_id", "query")
    targets = [
        [prompt_id, *(part.tolist() for part in reward.judged(prompt_id)), _listed(reward.pool(prompt_id))]
        for prompt_id in prompts["prompt_id"]
    ]
    scoring = [
        reward.retriever.fingerprint,
        asdict(params.score_coalitions),
        params.retrieval.fields,
        params.evaluate.oracle_edits,
        params.evaluate.oracle_words,
    ]
    shards = []
    for first in range(0, prompts.height, _PROMPTS_PER_SHARD):
        part = prompts[first : first + _PROMPTS_PER_SHARD]
        key = content_key("evaluate.oracle 1", scoring, targets[first : first + _PROMPTS_PER_SHARD], part.rows())
        shards.append(Shard(key, part.height, part))

    def answer(part: pl.DataFrame) -> dict[str, pl.DataFrame]:
        if not search.knows_words:  # once, however many prompts there are: a part of its own for `ospo plan`
            parts.begin("words of the catalogue")
            search.read_words()
            parts.begin("oracle")
        return {"completions": _undecoded(ORACLE, part["prompt_id"], search.queries(part))}

    executor = ShardFolder(layout.cache / "evaluate")
    return [
        found["completions"] for found in executor.map_shards(answer, shards, {"completions": DECODED}, "oracle", "prompts", reward.tally)
    ]


def _headroom(single: pl.DataFrame, layout: Layout, params: Reads) -> dict[str, Any]:
    """Return best of G of the last iteration's rollouts (train prompts) and of the final policy's evaluation samples."""
    last, found = params.train.iterations, {}
    if last:
        rewards = placed.read(REWARDS, layout, last)
        found["last_rollouts"] = best_of_group(rewards.select("prompt_id", value="retrieval"), params) | {"iteration": last}
    sampled = single.filter((pl.col("system") == policy_name(last)) & (pl.col("decoding") == "sampled"))
    if sampled.height:
        found["final_samples"] = best_of_group(sampled, params)
    return found


def _listed(pool: NDArray[np.int64] | None) -> list[int] | None:
    return None if pool is None else pool.tolist()

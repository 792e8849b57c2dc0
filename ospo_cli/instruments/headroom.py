"""What there is to gain before training: simple edits, samples of the policy and the ideal ranking, per retriever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import OspoError, SourceError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.maths.ranking import metric_rows
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params.policy import Policy
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.train import Train
from ospo_cli.report.number_text import p_value, plain, signed
from ospo_cli.report.terminal import Terminal
from ospo_cli.retrievers.base import TellingRetriever
from ospo_cli.rewards.feedback import Feedback
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_reward import Sections as RewardSections
from ospo_cli.rewards.judgments import Prepared, read_prepared
from ospo_cli.rewards.oracle import OracleSearch
from ospo_cli.rewards.oracle import Sections as OracleSections
from ospo_cli.rewards.store.folder import Store
from ospo_cli.rewards.unfound import say_unfound
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.declare import Column, Table
from ospo_cli.tables.evaluate import DECODED
from ospo_cli.tables.headroom import HEADROOM, HEADROOM_QUERIES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.text.composition import compose, served
from ospo_cli.text.word_edits import EDITS, greedy_edits, single_edits

RAW_QUERY, IDEAL = "raw query", "ideal ranking"
_PROMPTS_PER_SHARD = 64
_SEARCHED_PER_SHARD = 8  # prompts, each of which takes hundreds of rankings
_VERSION = "headroom.search 1"
Values = NDArray[np.float64]
Found = tuple[list[str], Values]  # the query of each prompt, and its value
# What a shard of the search holds: headroom_queries of one retriever.
_SEARCHED = Table(
    "searched",
    "what each system finds for a prompt",
    ("place", "prompt_id"),
    (Column("place", pl.Int64, "of the system, from 0"), *HEADROOM_QUERIES.columns[1:]),
)


class Reads(RewardSections, OracleSections, Protocol):
    """What this reads of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def rollout(self) -> Rollout: ...


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        split: of the prompts (not read where `iteration` is given).
        iteration: take this iteration's saved rollouts and their prompts; 0: sample policy `policy` on the split's prompts.
        policy: number of the policy that is sampled.
        samples: completions per prompt; 0: rollout.group_size, none where there is no such policy.
        prompts: most prompts, by seed; 0 is all.
        edits: most edits of the greedy search.
        words: candidate words per prompt.
        retrievers: names; empty: evaluate.retrievers.
        metric: empty: score_coalitions.metric.
    """

    split: str = "dev"
    iteration: int = 0
    policy: int = 0
    samples: int = 0
    prompts: int = 256
    edits: int = 4
    words: int = 32
    retrievers: tuple[str, ...] = ()
    metric: str = ""


@dataclass(frozen=True)
class Answers:
    """Completions by prompt, as the queries that the retriever is given; `name` says whose."""

    name: str
    queries: dict[str, list[str]]

    @cached_property
    def size(self) -> int:
        """Most completions of a prompt."""
        return max(map(len, self.queries.values()))


def execute(layout: Layout, params: Reads, request: Request) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Read the prepared tables, and rollouts or a policy where there are any; write headroom and headroom_queries."""
    tables = read_prepared(layout)
    prompts = tables.prompts
    if request.iteration:
        path, command = layout.iteration(request.iteration, "rollouts.parquet"), f"ospo rollout --iter {request.iteration}"
        rollouts = parquet.read(path, ROLLOUTS, made_by=command)
        prompts = prompts.filter(pl.col("prompt_id").is_in(rollouts["prompt_id"].unique().to_list()))
        chosen = _chosen(prompts, request.prompts, params.train.seed)
        answers: Answers | None = _saved(rollouts, chosen, params.score_coalitions.composition, request.iteration)
    else:
        in_split = prompts.filter(pl.col("split") == request.split)
        if not in_split.height:
            found = ", ".join(sorted(set(prompts["split"].to_list()))) or "no prompts"
            raise SourceError("table prompts", f"no prompt in split {request.split}", found=found, remedy="name another with --split")
        chosen = _chosen(in_split, request.prompts, params.train.seed)
        answers = _sampled(layout, chosen, params, request)
    table, queries = headroom(tables, chosen, answers, params, request, layout)
    placed.write(table, HEADROOM, layout)
    placed.write(queries, HEADROOM_QUERIES, layout)
    facts = {"prompts": chosen.height, "answers": None if answers is None else answers.name, "split": _split(chosen)}
    files.write_json(layout.headroom("headroom.json"), facts)
    return table, facts


def headroom(
    tables: Prepared,
    chosen: pl.DataFrame,
    answers: Answers | None,
    params: Reads,
    request: Request,
    layout: Layout,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tables headroom and headroom_queries.

    Every system is measured on the same prompts, and compared with the raw query by prompt. Edits are made with the judgments in hand: a
    lower bound of the best query, no policy. Under `composition: append` words can only be added.

    Args:
        tables: the prepared ones.
        chosen: rows of prompts.
        answers: of a policy, or None.
        params: the project.
        request: what is asked for.
        layout: for the retrievers' cache.
    """
    draws = Resamples(chosen.height, params.evaluate.bootstrap, seeding.generator(params.train.seed, "headroom"))
    rows: list[tuple[Any, ...]] = []
    details: list[pl.DataFrame] = []
    ids = chosen["prompt_id"].to_list()
    store = Store(layout.store)
    for name in request.retrievers or params.evaluate.retrievers:
        reward = JudgedReward(tables, params, retriever=name, metric=request.metric or None, cache=layout.cache, store=store)
        found = _searched(_Search(reward, tables.documents, answers, params, request), chosen, layout)
        raw = found.filter(system=RAW_QUERY)["value"].to_numpy()
        say_unfound("headroom", reward, ids, chosen["query"].to_list(), raw)
        for system in found["system"].unique(maintain_order=True):
            values = found.filter(system=system)["value"].to_numpy()
            mean = draws.mean(values)
            against: tuple[float | None, ...] = (None,) * 5
            if system != RAW_QUERY:
                against = (*draws.difference(values, raw)[:4], float(np.mean(values > raw + 1e-12)))
            rows.append((name, reward.metric.name, _split(chosen), system, *mean, *against, chosen.height))
        details.append(found.with_columns(retriever=pl.lit(name)).select(list(HEADROOM_QUERIES.schema)))
    return pl.DataFrame(rows, schema=HEADROOM.schema, orient="row"), pl.concat(details)


def print_result(table: pl.DataFrame, facts: dict[str, Any], stream: TextIO | None = None) -> None:
    """Print a grid per retriever, raw query first and the ideal ranking last."""
    output = Terminal(stream)
    for (retriever, metric), own in table.group_by(["retriever", "metric"], maintain_order=True):
        output.line(f"{retriever}, {metric} on {facts['prompts']} {facts['split']} prompts", style="bold")
        rows = []
        for row in own.iter_rows(named=True):
            gain = ["", "", ""]
            if row["gain"] is not None:
                interval = f"{signed(row['gain'])} [{signed(row['gain_low'])}, {signed(row['gain_high'])}]"
                gain = [interval, p_value(row["p_value"]), f"{row['improved']:.0%}"]
            rows.append([row["system"], f"{plain(row['value'])} [{plain(row['low'])}, {plain(row['high'])}]", *gain])
        header = ["system", "value", "over the raw query", "sign flips", "prompts improved"]
        output.grid(header, rows, numbers=header[1:])
        output.line()
    if facts["answers"] is None:
        output.line("No policy yet: samples are left out (ospo warm-start, or --iter K for saved rollouts).", style="dim")


class _Search(NamedTuple):
    """What the systems of one retriever rest on."""

    reward: JudgedReward
    documents: pl.DataFrame
    answers: Answers | None
    params: Reads
    request: Request


def _searched(search: _Search, chosen: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """Return what each system of a retriever finds for each prompt, in the order of the systems; searched in shards."""
    reward, params, request, answers = search.reward, search.params, search.request, search.answers
    known = [
        _VERSION,
        reward.about([reward.metric.name]),
        asdict(params.retrieval),
        reward.composition,
        params.evaluate.oracle_words,
        [request.edits, request.words],
    ]
    shards = []
    for part in chosen.select("prompt_id", "query").iter_slices(_SEARCHED_PER_SHARD):
        ids = part["prompt_id"].to_list()
        own = [answers.name, answers.size, [answers.queries[prompt_id] for prompt_id in ids]] if answers else []
        judged = [reward.fingerprint(prompt_id).hex() for prompt_id in ids]
        shards.append(Shard(content_key(known, judged, own, part.rows()), part.height, part))
    systems = _Systems(search)

    def work(part: pl.DataFrame) -> dict[str, pl.DataFrame]:
        rows = []
        for place, (system, (queries, values)) in enumerate(systems.of(part).items()):
            frame = pl.DataFrame({"prompt_id": part["prompt_id"], "query": queries, "value": values.tolist()})
            rows.append(frame.with_columns(system=pl.lit(system), place=pl.lit(place, dtype=pl.Int64)))
        return {"searched": pl.concat(rows).select(list(_SEARCHED.schema))}

    executor = ShardFolder(layout.cache / "headroom")
    made = executor.map_shards(work, shards, {"searched": _SEARCHED}, f"headroom, {reward.retriever.name}", "prompts", reward.tally)
    return pl.concat([found["searched"] for found in made]).sort("place", "prompt_id")


class _Systems:
    """The systems of one retriever; what is made from the whole catalogue is made with the first prompts."""

    def __init__(self, search: _Search) -> None:
        self.search = search
        self.reward, self.is_append = search.reward, search.reward.composition == "append"

    @cached_property
    def _oracle(self) -> OracleSearch:
        return OracleSearch(self.reward, self.search.documents, self.search.params)

    @cached_property
    def _feedback(self) -> Feedback:
        return Feedback(self.reward, self.search.documents, self.search.params.retrieval)

    def of(self, prompts: pl.DataFrame) -> dict[str, Found]:
        """Return system -> (query of each prompt, its value); the same order of systems whatever the prompts."""
        reward, ids, raw = self.reward, prompts["prompt_id"].to_list(), prompts["query"].to_list()
        found = {RAW_QUERY: (raw, reward.values(ids, raw))}
        if reward.retriever.name == "bm25":
            for system, expanded in self._feedback.expanded(ids, raw).items():
                found[system] = [each.text for each in expanded], reward.ranking_values(ids, [each.ranking for each in expanded])
        found |= self._edited(ids, raw, found[RAW_QUERY])
        found |= self._answered(ids)
        found[IDEAL] = ([""] * len(ids), np.array([_ideal(reward, prompt_id) for prompt_id in ids]))
        return found

    def _edited(self, ids: list[str], raw: list[str], start: Found) -> dict[str, Found]:
        request, found = self.search.request, dict[str, Found]()
        starts = [[] if self.is_append else query.split() for query in raw]
        candidates = [self._oracle.candidates(prompt_id)[: request.words] for prompt_id in ids]

        def composed(index: int, chosen_words: Sequence[str]) -> str:
            return compose(raw[index], " ".join(chosen_words), self.reward.composition)

        def score(indices: list[int], texts: list[tuple[str, ...]]) -> Values:
            return self.reward.values([ids[index] for index in indices], [composed(*pair) for pair in zip(indices, texts, strict=True)])

        for kind in ("add",) if self.is_append else EDITS:
            tried = [(index, words) for index, own in enumerate(starts) for words in single_edits(kind, own, candidates[index])]
            values = score([index for index, _ in tried], [words for _, words in tried])
            found[f"best word: {kind}"] = _best_of(start, [(index, composed(index, words)) for index, words in tried], values)
        edited = greedy_edits(starts, candidates, score, request.edits, swaps=not self.is_append)
        queries = [composed(index, best.words) for index, best in enumerate(edited)]
        # The raw query stays where its words, joined anew, are worth less than it is.
        values = np.array([best.value for best in edited])
        return found | {f"best {request.edits} words, greedy": _best_of(start, list(enumerate(queries)), values)}

    def _answered(self, ids: list[str]) -> dict[str, Found]:
        if (answers := self.search.answers) is None:
            return {}
        reward, size = self.reward, answers.size
        own = [(index, query) for index, prompt_id in enumerate(ids) for query in answers.queries[prompt_id]]
        values = reward.values([ids[index] for index, _ in own], [query for _, query in own])
        counts = np.bincount([index for index, _ in own], minlength=len(ids))
        sums = np.bincount([index for index, _ in own], weights=values, minlength=len(ids))
        found = {f"{answers.name}: mean of {size}": ([""] * len(ids), sums / counts)}
        nothing = ([""] * len(ids), np.full(len(ids), -1.0))
        if not isinstance(reward.retriever, TellingRetriever):  # a checker scores all alike
            firsts = reward.rankings([ids[index] for index, _ in own], [query for _, query in own], 1)
            found[f"{answers.name}: one of {size} by its score"] = _chosen_by([each.scores.sum() for each in firsts], own, values, len(ids))
        return found | {f"{answers.name}: best of {size}": _best_of(nothing, own, values)}


def _best_of(start: Found, tried: list[tuple[int, str]], values: Values) -> Found:
    """Return the best query of each prompt: the start's, or one of those tried that is better; the first of equal ones."""
    queries, best = list(start[0]), start[1].copy()
    for (index, query), value in zip(tried, values, strict=True):
        if value > best[index]:
            queries[index], best[index] = query, value
    return queries, best


def _chosen_by(scores: Sequence[float], tried: list[tuple[int, str]], values: Values, prompts: int) -> tuple[list[str], Values]:
    """Return for each prompt the query that scores highest, the first of equal ones, and its value: no judgment is read."""
    queries, found, best = [""] * prompts, np.zeros(prompts), np.full(prompts, -1.0)
    for (index, query), value, score in zip(tried, values, scores, strict=True):
        if score > best[index]:
            queries[index], found[index], best[index] = query, value, score
    return queries, found


def _ideal(reward: JudgedReward, prompt_id: str) -> float:
    """Return the metric of the best ranking that there is: all relevant candidates first, best gain first."""
    _, gains = reward.judged(prompt_id)
    best = np.sort(gains)[::-1]
    return float(metric_rows(reward.metric, best[None, :], gains, np.array([len(best)]))[0])


def _split(chosen: pl.DataFrame) -> str:
    return "+".join(sorted(set(chosen["split"].to_list())))


def _chosen(prompts: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """Return at most so many prompts; the names of the draws are evaluate's, so that it takes the same ones."""
    prompts = prompts.sort("prompt_id")
    if not 0 < most < prompts.height:
        return prompts
    names = [f"evaluate:{prompt_id}" for prompt_id in prompts["prompt_id"].to_list()]
    order = np.argsort(seeding.uniforms(seed, names, 1)[:, 0], kind="stable")
    return prompts[sorted(order[:most].tolist())]


def _saved(rollouts: pl.DataFrame, chosen: pl.DataFrame, composition: str, iteration: int) -> Answers:
    raw = dict(chosen.select("prompt_id", "query").iter_rows())
    queries: dict[str, list[str]] = {}
    for prompt_id, completion in rollouts.sort("rollout_id").select("prompt_id", "completion").iter_rows():
        if prompt_id in raw:
            query = served(raw[prompt_id], completion, composition).query
            queries.setdefault(prompt_id, []).append(query)
    return Answers(f"rollouts {iteration:03d}", queries)


def _sampled(layout: Layout, chosen: pl.DataFrame, params: Reads, request: Request) -> Answers | None:
    """Return completions of a policy on the chosen prompts; finished shards are found by the policy's content. None without a policy."""
    folder = layout.policy(request.policy)
    if not folder.is_dir():
        if request.samples or request.policy:
            command = f"ospo update --iter {request.policy}" if request.policy else "ospo warm-start"
            raise OspoError(folder, "no such policy to sample", remedy=f"run `{command}`, or leave --samples and --policy out")
        return None
    from ospo_cli.policies.folder import check_folder, content_hash, render_prompt
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.sampling.causal_lm import Sampler
    from ospo_cli.sampling.sampler import Request as SampleRequest

    check_folder(folder, "ospo warm-start" if not request.policy else f"ospo update --iter {request.policy}")
    settings, samples = params.rollout, request.samples or params.rollout.group_size
    sampling = [samples, settings.temperature, settings.top_k, settings.top_p, settings.max_new_tokens]
    sampling += [params.train.seed, settings.batch_size, params.policy.threads]
    content, sampler = content_hash(folder), None
    shards = [
        Shard(content_key("headroom.completions 3", content, sampling, part.rows()), part.height * samples, part)
        for part in chosen.select("prompt_id", "prompt").iter_slices(_PROMPTS_PER_SHARD)
    ]

    def work(part: pl.DataFrame) -> dict[str, pl.DataFrame]:
        nonlocal sampler
        sampler = sampler or Sampler(load_policy(folder, params.policy.threads))
        ids = part["prompt_id"].to_list()
        names = [[f"headroom:{prompt_id}:{index:02d}" for index in range(samples)] for prompt_id in ids]
        prompts = [render_prompt(sampler.policy, prompt) for prompt in part["prompt"].to_list()]
        groups = sampler.sample(SampleRequest.of(settings, params.train.seed, prompts, names))
        rows = [
            (f"policy-{request.policy:03d}", "sampled", prompt_id, index, row.text, "")
            for prompt_id, group in zip(ids, groups, strict=True)
            for index, row in enumerate(group)
        ]
        return {"completions": pl.DataFrame(rows, schema=DECODED.schema, orient="row")}

    executor = ShardFolder(layout.cache / "headroom")
    found = executor.map_shards(work, shards, {"completions": DECODED}, "headroom", "completions")
    raw = dict(chosen.select("prompt_id", "query").iter_rows())
    queries: dict[str, list[str]] = {}
    for prompt_id, completion in pl.concat([tables["completions"] for tables in found]).select("prompt_id", "completion").iter_rows():
        queries.setdefault(prompt_id, []).append(served(raw[prompt_id], completion, params.score_coalitions.composition).query)
    return Answers("warm start" if not request.policy else f"policy {request.policy:03d}", queries)

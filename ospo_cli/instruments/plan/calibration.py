"""Every stage on little, in a folder of its own: what a unit of its work takes here, and what one completion is like."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli import retrievers
from ospo_cli.executors.usage import Usage, current_bytes, give_back
from ospo_cli.graph.nodes import uses_raw_query_values
from ospo_cli.layout import Layout
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.params.whole import Params
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES
from ospo_cli.text.answers import find_answer

# Weights × tokens that a calibration may put through the model: some seconds on two cores, whatever the model's size.
SAMPLED_WORK = 1.0e11
TRAINED_WORK = 4.0e10
GROUPS = 48  # rollout groups that are cut and scored
REPEATS = 3  # of cutting, scoring and sharing out
RAW_QUERIES = 256  # of score-queries
QUERIES = 48  # answers that are ranked as evaluate does it
ORACLES = 4  # prompts that the oracle searches
STEPS = 12  # most optimiser steps of the warm start
LENGTH_ROWS = 16  # completions that are sampled to their end, where the policy is there already


@dataclass(frozen=True)
class _Scratch(Layout):
    """The project's folder for inputs, and another one for everything that is written."""

    folder: Path
    prepared_folder: Path

    @property
    def data(self) -> Path:
        """The scratch folder."""
        return self.folder

    def prepared(self, name: str) -> Path:
        """A prepared table, of the project or made for the plan."""
        return self.prepared_folder / name


@dataclass
class Cost:
    """Seconds, processor seconds and bytes on disk, fixed + per unit; `peak` bytes of memory, and memory per unit beyond it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    unit_seconds: float = 0.0
    unit_cpu_seconds: float = 0.0
    bytes: float = 0.0
    unit_bytes: float = 0.0
    peak: int = 0
    unit_memory: float = 0.0

    def of(self, units: float) -> tuple[float, float, int, int]:
        """Return seconds, processor seconds, bytes and peak memory of so many units."""
        return (
            self.seconds + self.unit_seconds * units,
            self.cpu_seconds + self.unit_cpu_seconds * units,
            round(self.bytes + self.unit_bytes * units),
            round(self.peak + self.unit_memory * units),
        )


@dataclass
class Measures:
    """What the calibration found: costs per stage, and what one completion is like.

    Attributes:
        costs: by stage; rollout per sampled token, and its prompts apart; update per place (prompt and completion tokens);
            score-coalitions per distinct text.
        coalitions, distinct_texts: per rollout, degenerate groups not left out (how many there will be is not known).
        raw_queries_found, texts_found: share of the raw queries, and of the calibration's distinct texts, that the store holds for this
            reward; None where nothing is looked up.
        answers_from: where the completions come from that coalitions were counted of: rollouts 001, policy 000, or the teacher.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    prompts: int = 0
    train_prompts: int = 0
    evaluated_prompts: int = 0
    teacher_pairs: int = 0
    judged_titles: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    coalitions: float = 0.0
    distinct_texts: float = 0.0
    answers_from: str = ""
    weights: int = 0
    seconds: float = 0.0
    raw_queries_found: float | None = None
    texts_found: float | None = None


def calibrate(layout: Layout, folder: Path, params: Params) -> Measures:
    """Run every stage on little in a folder of its own; return what was measured."""
    own = params
    # What the store holds would make the unit costs those of a look-up.
    params = dataclasses.replace(params, store=dataclasses.replace(params.store, values="never"))
    measures = Measures()
    # Loops that are compiled on their first call would be taken for the cost of a value.
    tiny = pl.DataFrame({"doc_id": ["d"], "title": ["coat"]})
    for name in {params.score_coalitions.retriever, *params.evaluate.retrievers} & {"bm25", "tfidf-char"}:
        for query in ("coat", "coat " * 64):  # sums of 32 bits, and of 64, which are loops of their own
            retrievers.build(name, tiny, Retrieval(), None).rank([query], [None], 1)
    with Usage() as whole:
        scratch = _prepare(layout, folder, params, measures)
        prompts = parquet.read(scratch.prepared("prompts.parquet"), PROMPTS)
        answers = _policy(layout, scratch, params, prompts, measures)
        saved = _sample(layout, scratch, params, prompts, answers, measures)
        _credit(scratch, params, saved, measures)
        _look_up(layout, scratch, own, prompts, measures)
        _update(scratch, params, saved, measures)
        _evaluate(scratch, params, prompts, saved, measures)
        _report(scratch, params, measures)
    measures.seconds = whole.seconds
    return measures


def _prepare(layout: Layout, folder: Path, params: Params, measures: Measures) -> _Scratch:
    """Read the data set anew: what it takes, and tables that belong to the present parameters."""
    from ospo_cli.rewards.judged_reward import JudgedReward
    from ospo_cli.stages import prepare_data, score_queries

    scratch = _Scratch(layout.root, folder, folder / "prepared")
    with Usage() as usage:
        prepare_data.execute(scratch, params)
    measures.costs["prepare-data"] = _fixed(usage, _size(scratch.prepared_folder))
    prompts = parquet.read(scratch.prepared("prompts.parquet"), PROMPTS)
    measures.prompts = prompts.height
    measures.train_prompts = prompts.filter(pl.col("split") == "train").height
    held_out = prompts.filter(pl.col("split") == params.evaluate.split).height
    measures.evaluated_prompts = min(held_out, params.evaluate.max_prompts or held_out)
    measures.costs["score-queries"] = Cost()
    if uses_raw_query_values(params):
        tables = _prepared(scratch)
        with Usage() as building:
            reward = JudgedReward(*tables, params, cache=scratch.cache)
        some = prompts.head(RAW_QUERIES)
        with Usage() as ranking:
            score_queries.score_queries(some, reward)
        cost = measures.costs["score-queries"] = _fixed(building, 0)
        cost.unit_seconds, cost.unit_cpu_seconds = ranking.seconds / some.height, ranking.cpu_seconds / some.height
        cost.unit_bytes, cost.peak = some.select("prompt_id").estimated_size() / some.height + 8, ranking.peak_bytes
    return scratch


def _policy(layout: Layout, scratch: _Scratch, params: Params, prompts: pl.DataFrame, measures: Measures) -> list[str]:
    """Measure the start of a policy and some steps of its warm start; leave policy 000; return the teacher's answers."""
    from ospo_cli.policies import folder as folders
    from ospo_cli.policies.opening import load_policy, save_policy
    from ospo_cli.policies.starting_point import write_starting_point
    from ospo_cli.stages import warm_start

    settings, target = params.warm_start, scratch.policy(0)

    def few(steps: int) -> Params:
        return dataclasses.replace(params, warm_start=dataclasses.replace(settings, steps=min(settings.steps, steps), max_epochs=0.0))

    with Usage() as start:
        pairs = warm_start.teacher_pairs(scratch, few(STEPS), prompts)
        target.mkdir(parents=True)
        write_starting_point(
            target, scratch.root, params.policy, params.train.seed, lambda: warm_start.tokenizer_texts(scratch, prompts, pairs)
        )
        policy = load_policy(target, params.policy.threads, trainable=True, project=scratch.root)
    measures.weights = sum(weight.numel() for weight in policy.model.parameters())
    measures.prompt_tokens = float(np.mean([len(folders.render_prompt(policy, text)) for text in prompts["prompt"].head(64).to_list()]))
    measures.teacher_pairs = pairs.height
    if settings.teacher == "judgments" and pairs.height:
        measures.teacher_pairs = min(measures.train_prompts, settings.steps * settings.batch_size)
        measures.judged_titles = _judged_titles(scratch, prompts, measures.teacher_pairs)
    cost = measures.costs["warm-start"] = _fixed(start, 0)
    answers = pairs["completion"].to_list()
    if answers:
        lengths = [len(policy.tokenizer.encode(text, add_special_tokens=False)) + 1 for text in answers[:256]]
        measures.completion_tokens = float(np.mean(lengths))
        batch = min(settings.batch_size, pairs.height)
        work = measures.weights * batch * (measures.prompt_tokens + measures.completion_tokens)
        more = int(np.clip(TRAINED_WORK / work, 1, STEPS))
        some = pairs.head(batch * (1 + more))

        def train(steps: int) -> None:
            warm_start.warm_start(policy, prompts, some, few(steps), scratch.folder / f"steps-{steps}")

        _unit(cost, train, 1, 1 + more)
    with Usage() as saving:
        save_policy(policy, target)
    cost.seconds, cost.cpu_seconds = cost.seconds + saving.seconds, cost.cpu_seconds + saving.cpu_seconds
    cost.bytes = _size(target)
    if (layout.policy(0) / "tokenizer.json").is_file():
        shutil.rmtree(target)
        shutil.copytree(layout.policy(0), target)
        measures.answers_from = "policy 000"
    return answers


def _judged_titles(scratch: _Scratch, prompts: pl.DataFrame, count: int) -> int:
    """Return how many titles of relevant documents are scored to make teacher pairs for so many prompts."""
    qrels = parquet.read(scratch.prepared("qrels.parquet"), QRELS).filter(pl.col("relevance") > 0)
    train = prompts.filter(pl.col("split") == "train")
    return round(qrels.join(train, on="prompt_id", how="semi").height / max(train.height, 1) * count)


def _sample(
    layout: Layout, scratch: _Scratch, params: Params, prompts: pl.DataFrame, answers: list[str], measures: Measures
) -> pl.DataFrame:
    """Measure sampling; return rollouts to cut and score: saved ones, of the policy, or made of the teacher's answers."""
    from ospo_cli.policies.folder import render_prompt
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.sampling.causal_lm import Sampler
    from ospo_cli.sampling.next_token import Sampling

    settings = params.rollout
    with Usage() as loading:
        sampler = Sampler(load_policy(scratch.policy(0), params.policy.threads, project=scratch.root))
    policy = sampler.policy
    measures.costs["evaluate: load"] = Cost(unit_seconds=loading.seconds, unit_cpu_seconds=loading.cpu_seconds, peak=loading.peak_bytes)
    train = prompts.filter(pl.col("split") == "train").sort("prompt_id")
    rows = min(settings.batch_size, settings.prompts_per_iteration * settings.group_size)
    asked = train.head(max(1, rows // settings.group_size))
    rendered = [render_prompt(policy, text) for text in asked["prompt"].to_list()]
    rows = len(rendered) * settings.group_size
    names = [[f"plan:{index}:{sample}" for sample in range(settings.group_size)] for index in range(len(rendered))]
    positions = int(np.clip(SAMPLED_WORK / (measures.weights * rows), 3, settings.max_new_tokens))
    sampled = {}

    def draw(most: int) -> None:
        found = sampler.sample(rendered, names, most, Sampling.of(settings), params.train.seed, settings.batch_size)
        sampled[most] = sum(len(row.token_ids) for group in found for row in group)

    cost = measures.costs["rollout"] = Cost()
    _unit(cost, draw, 1, positions, units=lambda most: sampled[most])
    # What does not grow with the tokens is the reading of the prompts, once per rollout group.
    measures.costs["rollout: prompt"] = Cost(unit_seconds=cost.seconds / len(rendered), unit_cpu_seconds=cost.cpu_seconds / len(rendered))
    cost.seconds, cost.cpu_seconds = loading.seconds, loading.cpu_seconds
    path = layout.iteration(1, "rollouts.parquet")
    if path.is_file():
        saved = parquet.read(path, ROLLOUTS)
        measures.answers_from = "rollouts 001"
        measures.completion_tokens = float(saved["token_ids"].list.len().mean() or 0.0)  # type: ignore[arg-type]
        kept = saved["prompt_id"].unique().sort().head(GROUPS).to_list()
        return saved.filter(pl.col("prompt_id").is_in(kept))
    if measures.answers_from == "policy 000" or not answers:
        measures.answers_from = "policy 000" if answers or measures.answers_from else "the base policy"
        some = list(range(min(LENGTH_ROWS, len(rendered))))
        found = sampler.sample(
            [rendered[index] for index in some], [[f"plan:length:{index}"] for index in some], settings.max_new_tokens,
            Sampling.of(settings), params.train.seed, settings.batch_size,
        )  # fmt: skip
        answers = [group[0].text for group in found]
        measures.completion_tokens = float(np.mean([len(group[0].token_ids) for group in found]))
    else:
        measures.answers_from = "the teacher"
    return _written(policy, train.head(GROUPS), answers, settings.group_size)


def _written(policy: Any, prompts: pl.DataFrame, answers: list[str], group_size: int) -> pl.DataFrame:
    """Return table rollouts of given completions, dealt out to the prompts in turn."""
    from ospo_cli.policies.folder import render_prompt

    rows, dealt = [], 0
    for prompt_id, text in prompts.select("prompt_id", "prompt").iter_rows():
        prompt_ids = render_prompt(policy, text)
        for sample in range(group_size):
            completion = answers[dealt % len(answers)]
            ids = [*policy.tokenizer.encode(completion, add_special_tokens=False), policy.end_token_id]
            completion = policy.pieces.text(ids)
            answer = find_answer(completion)
            row = (f"001:{prompt_id}:{sample:02d}", prompt_id, sample, prompt_ids, completion, ids, [-1.0] * len(ids))
            rows.append((*row, answer.start, answer.end, answer.has_tags, "stop"))
            dealt += 1
    return pl.DataFrame(rows, schema=ROLLOUTS.schema, orient="row")


def _credit(scratch: _Scratch, params: Params, saved: pl.DataFrame, measures: Measures) -> None:
    """Cut, score and share out a few rollout groups, then more: what is fixed, and what a rollout adds."""
    from ospo_cli.stages import attribute, score_coalitions, segment

    # How many groups will be degenerate is not known: none, and so the larger number of coalitions.
    all_groups = dataclasses.replace(params, score_coalitions=dataclasses.replace(params.score_coalitions, degenerate_groups="evaluate"))
    ids = saved["prompt_id"].unique(maintain_order=True).to_list()
    counted: dict[int, dict[str, Any]] = {}
    stages: dict[str, Callable[[], Any]] = {
        "segment": lambda: segment.execute(scratch, params, 1),
        "score-coalitions": lambda: score_coalitions.execute(scratch, all_groups, 1),
        "attribute": lambda: attribute.execute(scratch, all_groups, 1),
    }
    outputs = {
        "segment": ["segments"],
        "score-coalitions": ["rewards", "coalition_values"],
        "attribute": ["attributions", "interactions", "token_advantages"],
    }
    usages: dict[str, list[Usage]] = {name: [] for name in stages}
    sizes = sorted({max(1, len(ids) // 6), len(ids)})
    for size in sizes:
        part = saved.filter(pl.col("prompt_id").is_in(ids[:size]))
        parquet.write(part, scratch.iteration(1, "rollouts.parquet"), ROLLOUTS)
        counted[size] = {"rollouts": part.height}
        for name, execute in stages.items():
            repeats = []
            for _ in range(REPEATS):
                shutil.rmtree(scratch.cache / "score_coalitions", ignore_errors=True)
                with Usage() as usage:
                    found = execute()
                repeats.append(usage)
            usages[name].append(_least(repeats))
            counted[size][name] = part.height if name != "score-coalitions" else found["distinct_values"]
            if name == "score-coalitions":
                counted[size]["coalitions"] = found["coalitions"]
    last = counted[sizes[-1]]
    measures.coalitions, measures.distinct_texts = last["coalitions"] / last["rollouts"], last["score-coalitions"] / last["rollouts"]
    for name, found in usages.items():
        cost = measures.costs[name] = _fixed(found[0], 0)
        _share_out(cost, found[0], found[-1], counted[sizes[0]][name], last[name])
        paths = [scratch.iteration(1, f"{table}.parquet") for table in outputs[name]]
        copies = 2 if name == "score-coalitions" else 1  # its shards stay in the cache
        cost.unit_bytes = copies * sum(path.stat().st_size for path in paths) / last[name]
        cost.unit_memory = 2 * sum(pl.read_parquet(path).estimated_size() for path in paths) / last[name]
        cost.peak = found[-1].peak_bytes
    rollouts, tokens = scratch.iteration(1, "rollouts.parquet"), int(saved["token_ids"].list.len().sum())
    measures.costs["rollout"].unit_bytes = 2 * rollouts.stat().st_size / tokens
    measures.costs["rollout"].unit_memory = 2 * saved.estimated_size() / tokens


def _look_up(layout: Layout, scratch: _Scratch, params: Params, prompts: pl.DataFrame, measures: Measures) -> None:
    """Find what the project's store holds for this reward; nothing is computed, and no book is made."""
    from ospo_cli.rewards.judged_reward import JudgedReward
    from ospo_cli.rewards.store.folder import Store

    store = Store(layout.store) if params.score_coalitions.calls == "batched" else None
    reward = JudgedReward(*_prepared(scratch), params, cache=scratch.cache, store=store)
    if reward.store is None:
        return
    has_book = reward.store.has_book(reward.about((reward.metric.name,)))

    def share(prompt_ids: list[str], queries: list[str]) -> float:
        return float(reward.remembered(prompt_ids, queries)[0].mean()) if has_book and queries else 0.0

    measures.raw_queries_found = share(prompts["prompt_id"].to_list(), prompts["query"].to_list())
    rollouts = parquet.read(scratch.iteration(1, "rollouts.parquet"), ROLLOUTS).select("rollout_id", "prompt_id")
    values = parquet.read(scratch.iteration(1, "coalition_values.parquet"), COALITION_VALUES)
    pairs = values.join(rollouts, on="rollout_id").select("prompt_id", "query").unique(maintain_order=True)
    measures.texts_found = share(pairs["prompt_id"].to_list(), pairs["query"].to_list())


def _update(scratch: _Scratch, params: Params, saved: pl.DataFrame, measures: Measures) -> None:
    """Train on as many rollout groups as take some seconds; the advantages are made up, and so is no number of the plan."""
    from ospo_cli.stages import update

    settings = params.update
    ids = saved["prompt_id"].unique(maintain_order=True).to_list()
    group_tokens = params.rollout.group_size * measures.completion_tokens + measures.prompt_tokens
    wanted = int(np.clip(TRAINED_WORK / (measures.weights * group_tokens), 1, settings.groups_per_step))
    part = saved.filter(pl.col("prompt_id").is_in(ids[:wanted]))
    advantages = [[1.0 if index % 2 else -1.0] * len(own) for index, own in enumerate(part["token_ids"].to_list())]
    table = pl.DataFrame({"rollout_id": part["rollout_id"], "advantages": advantages}, schema=TOKEN_ADVANTAGES.schema)
    parquet.write(part, scratch.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(table, scratch.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    firsts = part.group_by("prompt_id", maintain_order=True).agg(pl.first("rollout_id"), last=pl.last("rollout_id"))
    targets = firsts.select("rollout_id", "prompt_id", reward=pl.lit(1.0))
    pairs = firsts.select(chosen_rollout_id="rollout_id", rejected_rollout_id="last", prompt_id="prompt_id", margin=pl.lit(1.0))
    parquet.write(targets, scratch.iteration(1, "targets.parquet"), TARGETS)
    parquet.write(pairs, scratch.iteration(1, "preference_pairs.parquet"), PREFERENCE_PAIRS)
    # The completions were not sampled by this policy: their log-probabilities are no check here.
    loose = dataclasses.replace(params, update=dataclasses.replace(settings, max_logprob_mismatch=1e9, epochs=1, examples_file=""))
    give_back()
    before = current_bytes()
    with Usage() as usage:
        found = update.execute(scratch, loose, 1)
    places = found["tokens"] / found["completion_token_share"]
    if settings.objective != "policy-gradient":  # most completions are left out: seconds by what was sampled, as the plan counts
        places = len(part["prompt_id"].unique()) * group_tokens
    training = found["training_seconds"]
    cost = measures.costs["update"] = Cost(seconds=usage.seconds - training, unit_seconds=training / places)
    cost.unit_cpu_seconds = usage.cpu_seconds * training / usage.seconds / places
    cost.cpu_seconds = usage.cpu_seconds * (1 - training / usage.seconds)
    cost.bytes = _size(scratch.policy(1))
    # Activations grow with the micro-batch, which these few groups may not have filled; the float32 weights are there anyway.
    activations = max(usage.peak_bytes - before - 4 * measures.weights, 0)
    whole = params.rollout.prompts_per_iteration * group_tokens
    filled = min(settings.tokens_per_micro_batch, max(places, group_tokens))
    cost.peak = round(usage.peak_bytes + activations * max(min(settings.tokens_per_micro_batch, whole) / filled - 1.0, 0.0))


def _evaluate(scratch: _Scratch, params: Params, prompts: pl.DataFrame, saved: pl.DataFrame, measures: Measures) -> None:
    """Rank some answers under every retriever, and let the oracle search for a few prompts."""
    from ospo_cli.rewards.judged_reward import JudgedReward
    from ospo_cli.rewards.oracle import OracleSearch
    from ospo_cli.stages.evaluate import METRICS, RUN_DEPTH

    tables = _prepared(scratch)
    answers = saved.head(QUERIES)
    ids = answers["prompt_id"].to_list()
    texts = [text[start:end] for text, start, end in answers.select("completion", "answer_start", "answer_end").iter_rows()]
    total, ranks = Cost(), []
    for name in params.evaluate.retrievers:
        with Usage() as building:
            reward = JudgedReward(*tables, params, retriever=name, cache=scratch.cache)
        metrics = [metric for metric in METRICS if metric != "ndcg@pool" or reward.pool(ids[0]) is not None]
        with Usage() as ranking:
            reward.measures(ids, [reward.compose(*pair) for pair in zip(ids, texts, strict=True)], metrics)
            rankings = reward.rankings(ids, texts, RUN_DEPTH)
        # Table run holds little besides its TREC copy, which is text.
        line = len(f"{ids[0]} Q0 {reward.doc_ids[0]} {RUN_DEPTH} 12.345678 {params.train.iterations:010d}\n")
        ranks.append(float(np.mean([len(ranking.documents) for ranking in rankings])) * line)
        total.seconds, total.cpu_seconds = total.seconds + building.seconds, total.cpu_seconds + building.cpu_seconds
        total.unit_seconds += ranking.seconds / len(ids)
        total.unit_cpu_seconds += ranking.cpu_seconds / len(ids)
        total.peak = max(total.peak, ranking.peak_bytes, building.peak_bytes)
        if name == params.score_coalitions.retriever:
            search = OracleSearch(reward, tables[0], params)
            some = prompts.filter(pl.col("split") == params.evaluate.split).select("prompt_id", "query").head(ORACLES + 1)
            search.queries(some.head(1))  # the words of all documents are read at the first one
            with Usage() as usage:
                search.queries(some.tail(-1))
            searched = max(some.height - 1, 1)
            measures.costs["evaluate: oracle"] = Cost(
                unit_seconds=usage.seconds / searched, unit_cpu_seconds=usage.cpu_seconds / searched, peak=usage.peak_bytes
            )
    measures.costs["evaluate: rank"], measures.costs["evaluate: run"] = total, Cost(unit_bytes=sum(ranks))
    measures.costs.setdefault("evaluate: oracle", Cost())


def _report(scratch: _Scratch, params: Params, measures: Measures) -> None:
    from ospo_cli.stages import report

    one = dataclasses.replace(params, train=dataclasses.replace(params.train, iterations=1))
    with Usage() as usage:
        report.execute(scratch, one)
    measures.costs["report"] = _fixed(usage, scratch.report().stat().st_size)


def _prepared(scratch: _Scratch) -> list[pl.DataFrame]:
    declared = (DOCUMENTS, PROMPTS, QRELS, POOLS)
    return [parquet.read(scratch.prepared(f"{table.name}.parquet"), table) for table in declared]


def _fixed(usage: Usage, size: int) -> Cost:
    return Cost(usage.seconds, usage.cpu_seconds, bytes=size, peak=usage.peak_bytes)


def _unit(cost: Cost, work: Callable[[int], Any], small: int, large: int, units: Callable[[int], int] = lambda size: size) -> None:
    """Add what `work` takes: the difference of a large and a small run is the units', the rest is fixed."""
    usages = []
    for size in (small, large):
        with Usage() as usage:
            work(size)
        usages.append(usage)
    before = cost.seconds, cost.cpu_seconds
    _share_out(cost, usages[0], usages[1], units(small), units(large))
    cost.seconds, cost.cpu_seconds = cost.seconds + before[0], cost.cpu_seconds + before[1]
    cost.peak = max(cost.peak, *(usage.peak_bytes for usage in usages))


def _least(usages: list[Usage]) -> Usage:
    """Return the least of each: of work of some tenths of a second, a busy machine doubles one in a few."""
    found = usages[0]
    found.seconds, found.cpu_seconds = min(usage.seconds for usage in usages), min(usage.cpu_seconds for usage in usages)
    found.peak_bytes = max(usage.peak_bytes for usage in usages)
    return found


def _share_out(cost: Cost, small: Usage, large: Usage, few: float, many: float) -> None:
    """Set fixed and unit costs from two runs; where the large one was no slower, or is the small one, all is the units'."""
    for fixed, unit, pair in (
        ("seconds", "unit_seconds", (small.seconds, large.seconds)),
        ("cpu_seconds", "unit_cpu_seconds", (small.cpu_seconds, large.cpu_seconds)),
    ):
        slope = (pair[1] - pair[0]) / (many - few) if many > few else 0.0
        if slope <= 0.0:
            slope = pair[1] / max(many, 1)
        setattr(cost, unit, slope)
        setattr(cost, fixed, max(pair[0] - slope * few, 0.0))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

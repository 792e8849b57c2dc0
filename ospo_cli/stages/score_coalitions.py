"""The characteristic function: rewards of whole answers, then values of the coalitions of their segments."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.local import LocalExecutor, content_key
from ospo_cli.executors.usage import without_collection
from ospo_cli.layout import Layout
from ospo_cli.maths import coalitions, seeding
from ospo_cli.maths.adaptive import AdaptiveGroup
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS, evaluated_coalitions
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.rewards.answers import Parts, TextScorer, answer_rewards
from ospo_cli.rewards.judged_reward import JudgedReward, compose
from ospo_cli.rewards.opening import open_reward
from ospo_cli.tables import files, parquet
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS
from ospo_cli.tables.segment import SEGMENTS
from ospo_cli.text.coalition_text import Runs, coalition_texts, runs_of, segment_words

if TYPE_CHECKING:
    from ospo_cli.params.whole import Params

GROUPS_PER_SHARD = 64
# Where coalitions cost microseconds, opening and writing tables would take longer than what a kill can lose.
GROUPS_PER_QUICK_SHARD = 512
# Two ways to the same sum of a few floats agree far better than this.
TOLERANCE = 1e-9
VERSION = "score-coalitions-4"


def execute(layout: Layout, params: Params, iteration: int) -> dict[str, Any]:
    """Read the prepared tables, rollouts and segments; write rewards, coalition_values and score_metrics.json."""
    start_seconds = time.monotonic()
    reward = open_reward(layout, params)
    rollouts = read_rollouts(layout.iteration(iteration, "rollouts.parquet"), iteration)
    segments = parquet.read(layout.iteration(iteration, "segments.parquet"), SEGMENTS, made_by=f"ospo segment --iter {iteration}")
    _check_segments(rollouts, segments, made_by=f"ospo segment --iter {iteration}")
    settings = params.score_coalitions
    index_seconds = time.monotonic() - start_seconds

    is_quick = _takes_parts(reward, settings) and _is_light(settings)
    scored = 0

    def score_shard(payload: tuple[pl.DataFrame, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        nonlocal scored
        with without_collection() if is_quick else nullcontext():
            rewards, values, _ = score_coalitions(*payload, reward, params)
        scored += rewards.height + values.height
        return {REWARDS.name: rewards, COALITION_VALUES.name: values}

    shards = _shards(rollouts, segments, reward, params, GROUPS_PER_QUICK_SHARD if is_quick else GROUPS_PER_SHARD)
    done = LocalExecutor(layout.cache / "score_coalitions").map_shards(
        score_shard, shards, {REWARDS.name: REWARDS, COALITION_VALUES.name: COALITION_VALUES}, "score-coalitions", "rollouts"
    )
    rewards = pl.concat([tables[REWARDS.name] for tables in done])
    values = pl.concat([tables[COALITION_VALUES.name] for tables in done])
    parquet.write(rewards, layout.iteration(iteration, "rewards.parquet"), REWARDS)
    parquet.write(values, layout.iteration(iteration, "coalition_values.parquet"), COALITION_VALUES)
    metrics = _metrics(rollouts, rewards, values, reward)
    asked, distinct = metrics["asked_values"], metrics["distinct_values"]
    tally = dataclasses.replace(reward.tally, asked=asked, distinct=distinct, reused=asked - scored)
    metrics |= tally.metrics() | {"index_seconds": index_seconds, "seconds": time.monotonic() - start_seconds}
    files.write_json(layout.iteration(iteration, "score_metrics.json"), metrics)
    tally.report("score-coalitions")
    return metrics | {"rollouts": rewards.height}


def score_coalitions(
    rollouts: pl.DataFrame, segments: pl.DataFrame, reward: JudgedReward, params: Params
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return tables rewards and coalition_values of whole rollout groups, and how many (prompt, text) pairs were ranked.

    Rewards come first; the coalitions of degenerate groups (standard deviation of the rewards below 1e-8, or one rollout) and of answers
    without segments are not evaluated (`degenerate_groups: evaluate` does evaluate the former).
    The order of rollouts, and which groups are given together, change no value.

    Raises:
        CreditError: the grand coalition is not worth what the whole answer is (reward without its format part; `grand_value: reward`).
        RetrievalError: a prompt has no relevant product, or the retriever fails.
    """
    rollouts = rollouts.sort("rollout_id")
    scorer = TextScorer(reward, params.score_coalitions)
    rewards, answer_values = answer_rewards(rollouts, scorer)
    values = _coalition_values(rollouts, segments, answer_values, rewards["is_degenerate_group"].to_list(), scorer, params)
    return rewards, values, scorer.ranked


def _coalition_values(
    rollouts: pl.DataFrame,
    segments: pl.DataFrame,
    answer_values: NDArray[np.float64],
    is_degenerate: list[bool],
    scorer: TextScorer,
    params: Params,
) -> pl.DataFrame:
    settings = params.score_coalitions
    budget = Budget(**settings.coalition_budget)
    players_of: dict[str, tuple[list[tuple[int, int]], list[int]]] = {}
    columns = ("rollout_id", "start", "end", "union_index")
    for rollout_id, start, end, union in segments.sort("rollout_id", "segment_index").select(columns).iter_rows():
        spans, unions = players_of.setdefault(rollout_id, ([], []))
        spans.append((start, end))
        unions.append(union)
    drawn_by_nobody: dict[Players, tuple[list[Runs], list[str]]] = {}
    table = _Table(scorer, settings)
    games: dict[str, list[_Game]] = {}
    grand: list[tuple[int, int]] = []  # row of rollouts, row of coalition values
    for row, (rollout_id, prompt_id, completion) in enumerate(rollouts.select("rollout_id", "prompt_id", "completion").iter_rows()):
        spans, unions = players_of.get(rollout_id, ([], []))
        if not spans or (is_degenerate[row] and settings.degenerate_groups == "skip"):
            continue
        game = _Game(rollout_id, prompt_id, completion, spans, Players(len(spans), tuple(unions)))
        games.setdefault(prompt_id, []).append(game)
        runs, masks = _coalitions(game, params, budget, drawn_by_nobody)
        table.ask(game, runs, masks)
        grand.append((row, table.height - 1))  # rows are ordered by size
    table.evaluate()
    for row, index in grand if settings.grand_value == "reward" else ():
        if abs(table.values[index] - answer_values[row]) > TOLERANCE:
            raise CreditError(
                f"rollout {rollouts['rollout_id'][row]}",
                "its segments together are not worth what its answer is: words outside every segment",
                found=table.values[index],
                expected=answer_values[row],
                remedy="run `ospo segment` for this iteration again",
            )
    if budget.further:
        _evaluate_further(games, table, params, budget)
    return table.frame()


def _coalitions(
    game: _Game, params: Params, budget: Budget, drawn_by_nobody: dict[Players, tuple[list[Runs], list[str]]]
) -> tuple[list[Runs], list[str]]:
    # Rows by size: the empty coalition first, the grand one last. What uses no random number is the same for every rollout with the same
    # players, and kept.
    if game.players in drawn_by_nobody:
        return drawn_by_nobody[game.players]
    settings = params.score_coalitions
    draw = seeding.streams(params.train.seed, game.rollout_id)
    present = evaluated_coalitions(settings.estimators, settings.families, game.players, budget, draw)
    masks = coalitions.to_mask_strings(present)
    found = [runs_of(mask) for mask in masks], masks
    names = [name for each in settings.estimators for name in ESTIMATORS[each].families_for(game.players, budget)] + settings.families
    if not any(coalitions.is_drawn(name, game.players, budget) for name in names):
        drawn_by_nobody[game.players] = found
    return found


def _evaluate_further(games: dict[str, list[_Game]], table: _Table, params: Params, budget: Budget) -> None:
    """Give rollout groups their further coalitions, a round of all groups at a time, so that the retriever has full batches."""
    samplers = []
    for name in params.score_coalitions.estimators:
        for group in games.values():
            members = [game for game in group if ESTIMATORS[name].can_adapt(game.players, budget)]
            draws = [seeding.streams(params.train.seed, game.rollout_id) for game in members]
            if members:
                samplers.append((AdaptiveGroup(ESTIMATORS[name], [game.players for game in members], budget, draws), members))
    while samplers:
        asked = [(sampler, members, sampler.request()) for sampler, members in samplers]
        asked = [(sampler, members, wanted) for sampler, members, wanted in asked if wanted]
        texts = [[(members[index], coalitions.to_mask_strings(masks)) for index, masks in wanted] for _, members, wanted in asked]
        for named in texts:
            for game, mask_strings in named:
                table.ask(game, [runs_of(mask) for mask in mask_strings], mask_strings)
        table.evaluate()
        for (sampler, _, _), named in zip(asked, texts, strict=True):
            sampler.receive([table.values_of(game, mask_strings) for game, mask_strings in named])
        samplers = [(sampler, members) for sampler, members, _ in asked]


@dataclass(frozen=True)
class _Game:
    """A rollout and its players."""

    rollout_id: str
    prompt_id: str
    completion: str
    spans: list[tuple[int, int]]
    players: Players


class _Table:
    """The rows of table coalition_values as they are asked for, each (rollout, coalition) once, and evaluated in batches."""

    def __init__(self, scorer: TextScorer, settings: ScoreCoalitions) -> None:
        self.scorer, self.settings = scorer, settings
        self.values: list[float] = []
        self._rollout_ids: list[str] = []
        self._prompt_ids: list[str] = []
        self._masks: list[str] = []
        self._texts: list[str] = []
        self._queries: list[str] = []
        self._parts: list[Parts] = []
        self._asked: list[tuple[_Game, int, int]] = []  # rollout, first row and the one behind the last, since the last evaluation
        self._row_of: dict[str, dict[str, int]] = {}

    @property
    def height(self) -> int:
        """Number of rows that were asked for."""
        return len(self._masks)

    def ask(self, game: _Game, runs: Sequence[Runs], masks: Sequence[str]) -> None:
        """Add the coalitions that are not there yet."""
        rows = self._row_of.setdefault(game.rollout_id, {})
        first = len(self._masks)
        new = {mask: own for own, mask in zip(runs, masks, strict=True) if mask not in rows}
        rows.update(zip(new, range(first, first + len(new)), strict=True))
        texts = coalition_texts(game.completion, game.spans, list(new.values()))
        raw, composition = self.scorer.reward.raw_query(game.prompt_id), self.scorer.reward.composition
        queries = [compose(raw, text, composition) for text in texts] if composition != "replace" else texts
        if self.settings.empty_value == "query":
            queries = [query if own else raw for query, own in zip(queries, new.values(), strict=True)]
        self._masks += new
        self._texts += texts
        self._queries += queries
        self._rollout_ids += [game.rollout_id] * len(new)
        self._prompt_ids += [game.prompt_id] * len(new)
        self._asked.append((game, first, len(self._masks)))

    def evaluate(self) -> None:
        """Find the values of the rows that have none yet."""
        start = len(self.values)
        retrieval, is_plain = self._by_parts(start) if _takes_parts(self.scorer.reward, self.settings) else (None, None)
        parts = self.scorer.parts(self._prompt_ids[start:], self._queries[start:], self._texts[start:], retrieval, is_plain)
        self._parts.append(parts)
        self._asked = []
        self.values += parts.value.tolist()

    def _by_parts(self, start: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        # The metric where a coalition's words are those of its segments, NaN where it has to be found by its text; and where the answer
        # has no word too many and none twice, so that no coalition of its segments has.
        found = np.full(len(self._masks) - start, np.nan)
        is_plain = np.zeros(len(found), dtype=bool)
        chosen = []
        present_of: dict[tuple[int, str], NDArray[np.bool_]] = {}  # answers of as many segments mostly ask for the same coalitions
        for game, first, last in self._asked:
            own = segment_words(game.completion, game.spans) if last > first else None
            if own is not None:
                segments = [game.completion[begin:end] for begin, end in game.spans]
                key = len(game.spans), "".join(self._masks[first:last])
                if key not in present_of:
                    marks = np.frombuffer(key[1].encode(), dtype=np.uint8).reshape(last - first, -1)
                    present_of[key] = marks == ord("1")
                chosen.append((game.prompt_id, segments, present_of[key], first - start, last - start))
                is_plain[first - start : last - start] = len(own) <= self.settings.length_limit and len(set(own)) == len(own)
        if chosen:
            prompt_ids, parts, present, _, _ = zip(*chosen, strict=True)
            values = self.scorer.reward.coalition_values(prompt_ids, parts, present, is_raw_if_empty=self.settings.empty_value == "query")
            row = 0
            for _, _, _, first, last in chosen:
                found[first:last] = values[row : row + last - first]
                row += last - first
        return found, is_plain

    def values_of(self, game: _Game, masks: list[str]) -> NDArray[np.float64]:
        """Return v of evaluated coalitions."""
        rows = self._row_of[game.rollout_id]
        return np.array([self.values[rows[mask]] for mask in masks])

    def frame(self) -> pl.DataFrame:
        """Return table coalition_values."""
        columns = {"rollout_id": self._rollout_ids, "coalition": self._masks, "query": self._queries, "coalition_value": self.values}
        parts = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in ("retrieval", "length", "repetition")}
        further = {name: np.concatenate([part.further[name] for part in self._parts]) for name in self.scorer.further.names}
        return pl.DataFrame(columns | parts | further, schema=COALITION_VALUES.schema | dict.fromkeys(further, pl.Float64))


def _takes_parts(reward: JudgedReward, settings: ScoreCoalitions) -> bool:
    # Whether the metric of coalitions can be had without a text for each.
    return settings.calls == "batched" and reward.takes_parts


def _is_light(settings: ScoreCoalitions) -> bool:
    # Whether the number of an answer's coalitions grows with the square of its segments at most: large shards then fit the memory.
    budget, long = Budget(**settings.coalition_budget), Players(64)
    families = {family for name in settings.estimators for family in ESTIMATORS[name].families_for(long, budget)} | set(settings.families)
    return families <= {"contiguous", "prefix", "leave-one-out"} and settings.budget == "fixed"


def _shards(rollouts: pl.DataFrame, segments: pl.DataFrame, reward: JudgedReward, params: Params, size: int) -> list[Shard]:
    # A rollout group is never cut: all texts of a prompt are in one shard, so that each is ranked once.
    groups = rollouts["prompt_id"].unique().sort().to_list()
    own = reward.own_reward.fingerprint if reward.own_reward else ""
    settings = (VERSION, params.train.seed, asdict(params.score_coalitions), reward.retriever.fingerprint, own)
    shards = []
    for start in range(0, len(groups), size):
        chosen = groups[start : start + size]
        own = rollouts.filter(pl.col("prompt_id").is_in(chosen)).sort("rollout_id")
        own_segments = segments.filter(pl.col("rollout_id").is_in(own["rollout_id"].to_list())).sort("rollout_id", "segment_index")
        judgments = [(prompt_id, reward.raw_query(prompt_id), reward.fingerprint(prompt_id).hex()) for prompt_id in chosen]
        texts = own.select("rollout_id", "prompt_id", "completion", "answer_start", "answer_end", "has_answer_tags", "finish_reason")
        spans = own_segments.select("rollout_id", "segment_index", "union_index", "start", "end")
        key = content_key(settings, judgments, parquet.rows_hash(texts), parquet.rows_hash(spans))
        shards.append(Shard(key, own.height, (own, own_segments)))
    return shards


def _check_segments(rollouts: pl.DataFrame, segments: pl.DataFrame, made_by: str) -> None:
    remedy = f"run `{made_by}` again"
    if rollouts.height == 0:
        raise CreditError(
            "table rollouts", "holds no rollout", expected="at least one", remedy="check rollout.prompts and rollout.headroom_max"
        )
    strangers = segments.join(rollouts, on="rollout_id", how="anti")
    if strangers.height:
        raise CreditError(
            "table segments", "names a rollout that is not in table rollouts", found=strangers["rollout_id"][0], remedy=remedy
        )
    placed = segments.join(rollouts.select("rollout_id", "answer_start", "answer_end"), on="rollout_id", how="left").sort(
        "rollout_id", "segment_index"
    )
    outside = placed.filter(
        (pl.col("start") < pl.col("answer_start"))
        | (pl.col("end") > pl.col("answer_end"))
        | (pl.col("end") <= pl.col("start"))
        | (pl.col("start") < pl.col("end").shift(1).over("rollout_id"))
    )
    if outside.height:
        row = outside.row(0, named=True)
        raise CreditError(
            f"table segments, rollout {row['rollout_id']}, segment {row['segment_index']}",
            "is empty, outside the answer or overlaps the one before it",
            found=f"{row['start']} to {row['end']}",
            expected=f"spans in order between {row['answer_start']} and {row['answer_end']}",
            remedy=remedy,
        )


def _metrics(rollouts: pl.DataFrame, rewards: pl.DataFrame, values: pl.DataFrame, reward: JudgedReward) -> dict[str, Any]:
    answers = rollouts.select(
        "prompt_id", pl.col("completion").str.slice(pl.col("answer_start"), pl.col("answer_end") - pl.col("answer_start"))
    )
    composed = [reward.compose(prompt_id, answer) for prompt_id, answer in answers.iter_rows()]
    of_answers = answers.select("prompt_id", query=pl.Series(composed, dtype=pl.String))
    of_coalitions = values.join(rollouts.select("rollout_id", "prompt_id"), on="rollout_id").select("prompt_id", "query")
    groups = rewards.group_by("prompt_id").agg(pl.col("is_degenerate_group").first(), pl.col("reward").max())
    return {
        "asked_values": rewards.height + values.height,
        "distinct_values": pl.concat([of_answers, of_coalitions]).select(pl.struct("prompt_id", "query").n_unique()).item(),
        "coalitions": values.height,
        "rollout_groups": groups.height,
        "degenerate_groups": int(groups["is_degenerate_group"].sum()),
        "mean_best_of_group": groups["reward"].mean(),
        **{f"mean_{name}": rewards[name].mean() for name in rewards.columns if rewards.schema[name] == pl.Float64},
    }

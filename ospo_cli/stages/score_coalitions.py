"""The characteristic function: rewards of whole answers, then values of the coalitions of their segments."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ospo_cli.errors import CreditError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.executors.usage import without_collection
from ospo_cli.layout import Layout
from ospo_cli.maths.coalitions import Budget, Players
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.group_game import Precedence
from ospo_cli.rewards.answers import TextScorer, answer_rewards
from ospo_cli.rewards.coalition_sizes import CELLS_PER_SHARD, MOST_CELLS, cells, check_group
from ospo_cli.rewards.coalition_values import CoalitionTable, Draws, Game, deletion_estimators, evaluate_further, takes_parts
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.rewards.judged_reward import Sections as RewardSections
from ospo_cli.rewards.opening import open_reward
from ospo_cli.rewards.recombined import recombined_answers
from ospo_cli.rewards.spliced_values import Answer, SplicedTable, answer_groups, group_games, numbered_segments, precedence_of
from ospo_cli.rewards.unfound import say_unfound
from ospo_cli.tables import files, parquet, placed
from ospo_cli.tables.rollout import read_rollouts
from ospo_cli.tables.score_coalitions import COALITION_VALUES, RECOMBINED, REWARDS, SEARCHED, SPLICED_VALUES
from ospo_cli.tables.segment import SEGMENTS, check_worded
from ospo_cli.text.words import Reader

if TYPE_CHECKING:
    from ospo_cli.params.score_coalitions import ScoreCoalitions
    from ospo_cli.params.train import Train

GROUPS_PER_SHARD = 64
# Where coalitions cost microseconds, opening and writing tables would take longer than what a kill can lose.
GROUPS_PER_QUICK_SHARD = 512
# A rollout group of long answers has thousands of spliced texts, which are all in memory.
GROUPS_PER_SPLICED_SHARD = 128
# Two ways to the same sum of a few floats agree far better than this.
TOLERANCE = 1e-9
VERSION = "score-coalitions-4"


class Reads(RewardSections, Protocol):
    """The sections that the stage reads: the seed, and those of the reward."""

    @property
    def train(self) -> Train: ...


def execute(layout: Layout, params: Reads, iteration: int) -> dict[str, Any]:
    """Read the prepared tables, rollouts and segments; write rewards, values, recombined answers and score_metrics.json."""
    start_seconds = time.monotonic()
    reward = open_reward(layout, params)
    rollouts = read_rollouts(layout, iteration)
    segments = placed.read(SEGMENTS, layout, iteration)
    _check_segments(rollouts, segments, made_by=SEGMENTS.command(iteration))
    settings = params.score_coalitions
    if settings.grand_value == "reward":
        check_worded(rollouts, segments, iteration)
    index_seconds = time.monotonic() - start_seconds
    if iteration == 1 and getattr(reward.retriever, "reads_words_alone", False):  # others may be slow, or ask a server
        prompt_ids = rollouts["prompt_id"].unique().sort().to_list()
        say_unfound("score-coalitions", reward, prompt_ids, [reward.raw_query(prompt_id) for prompt_id in prompt_ids])

    is_quick = takes_parts(reward, settings) and _is_light(settings)
    batch = _batch(rollouts, segments, settings, reward.words)

    def score_shard(payload: tuple[pl.DataFrame, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        with without_collection() if is_quick else nullcontext():
            scorer = TextScorer(reward, settings)
            rewards, values, _ = score_coalitions(*payload, reward, params, scorer)
            spliced = score_spliced(*payload, rewards, scorer, batch)
            made, searched = recombine(*payload, rewards, scorer, (values, spliced))
        found = (rewards, values, spliced, made, searched)
        return dict(zip(tables, found, strict=True))

    tables = {table.name: table for table in (REWARDS, COALITION_VALUES, SPLICED_VALUES, RECOMBINED, SEARCHED)}
    size = min(GROUPS_PER_QUICK_SHARD if is_quick else GROUPS_PER_SHARD, GROUPS_PER_SPLICED_SHARD if batch else GROUPS_PER_QUICK_SHARD)
    if settings.recombine:  # each round of a group asks for as many texts as it has pairs of segments
        size = min(size, GROUPS_PER_SHARD)
    shards = _shards(rollouts, segments, reward, params, size, batch)
    folder = ShardFolder(layout.cache / "score_coalitions")
    done = folder.map_shards(score_shard, shards, tables, "score-coalitions", "rollouts", reward.tally)
    whole = {name: pl.concat([found[name] for found in done]) for name in tables}
    searched, made = int(whole[SEARCHED.name]["texts"].sum()), whole[RECOMBINED.name]
    for name, table in tables.items():
        if table.place:
            placed.write(whole[name], table, layout, iteration)
    rewards = whole[REWARDS.name]
    metrics = _metrics(rollouts, rewards, whole[COALITION_VALUES.name], whole[SPLICED_VALUES.name], reward)
    metrics |= {"recombined": made.height, "mean_recombined": made["recombined_value"].mean(), "searched": searched}
    asked, distinct = (metrics[name] + searched for name in ("asked_values", "distinct_values"))
    fresh = [done[number] for number in folder.fresh]
    scored = sum(found[table.name].height for found in fresh for table in (REWARDS, COALITION_VALUES, SPLICED_VALUES))
    scored += sum(int(found[SEARCHED.name]["texts"].sum()) for found in fresh)
    tally = dataclasses.replace(reward.tally, asked=asked, distinct=distinct, reused=asked - scored)
    metrics |= tally.metrics() | {"index_seconds": index_seconds, "seconds": time.monotonic() - start_seconds}
    files.write_json(layout.iteration(iteration, "score_metrics.json"), metrics)
    tally.report("score-coalitions")
    return metrics | {"rollouts": rewards.height}


@dataclass(frozen=True)
class Batch:
    """What splices take from all answers of the iteration: the order in which they say their segments, and a hash of it.

    Attributes:
        numbered: as from `numbered_segments`.
        precedence: None where the alignment does not ask the batch.
        key: what the values of a shard depend on besides its own rows.
    """

    numbered: pl.DataFrame
    precedence: Precedence | None
    key: str


def score_spliced(
    rollouts: pl.DataFrame, segments: pl.DataFrame, rewards: pl.DataFrame, scorer: TextScorer, batch: Batch | None = None
) -> pl.DataFrame:
    """Return table spliced_values of whole rollout groups: of no row where no estimator is a group game.

    Degenerate groups are left out as their coalitions are. The order of rollouts, and which groups are given together, change no value.

    Args:
        rollouts, segments: of whole rollout groups.
        rewards: table rewards of the same rollouts.
        scorer: of the texts.
        batch: all answers of the iteration; None: these are all.

    Raises:
        RetrievalError: the retriever fails.
    """
    settings, table = scorer.settings, SplicedTable(scorer)
    games = group_games(settings)
    if games:
        batch = batch or _batch(rollouts, segments, settings, scorer.reward.words)
        assert batch is not None
        for group in _compared_groups(rollouts, batch.numbered, rewards, settings):
            nearer = Precedence([answer.said for answer in group]) if settings.alignment.startswith("group") else None
            table.ask(group, games, batch.precedence or nearer, nearer)
    return table.frame()


def recombine(
    rollouts: pl.DataFrame, segments: pl.DataFrame, rewards: pl.DataFrame, scorer: TextScorer, valued: Sequence[pl.DataFrame] = ()
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return table recombined of whole rollout groups, and table searched: how many texts that took which `valued` (tables of values) and
    the answers themselves do not hold. Degenerate groups are left out as in `score_spliced`.

    Raises:
        RetrievalError: the retriever fails.
    """
    if not scorer.settings.recombine:
        return RECOMBINED.empty(), SEARCHED.empty()
    numbered = numbered_segments(rollouts, segments, scorer.reward.words)
    made, asked = recombined_answers(_compared_groups(rollouts, numbered, rewards, scorer.settings), rewards, scorer)
    new = asked.join(pl.concat(_scored_texts(rollouts, valued, scorer.reward)), on=["prompt_id", "query"], how="anti")
    return made, new.group_by("prompt_id").agg(pl.len().cast(pl.Int64).alias("texts"))


def _compared_groups(
    rollouts: pl.DataFrame, numbered: pl.DataFrame, rewards: pl.DataFrame, settings: ScoreCoalitions
) -> Iterator[list[Answer]]:
    is_skipped = dict(rewards.select("rollout_id", "is_degenerate_group").iter_rows())
    for group in answer_groups(rollouts, numbered):
        if not is_skipped[group[0].rollout_id] or settings.degenerate_groups != "skip":
            yield group


def _batch(rollouts: pl.DataFrame, segments: pl.DataFrame, settings: ScoreCoalitions, split: Reader) -> Batch | None:
    if not group_games(settings):
        return None
    numbered = numbered_segments(rollouts, segments, split)
    if settings.alignment in ("group", "index"):
        return Batch(numbered, None, "")
    lengths = numbered.group_by("rollout_id").len()["len"].cast(pl.Int64)
    if (pairs := int((lengths * (lengths - 1)).sum()) // 2) > MOST_CELLS:
        raise CreditError(
            "score_coalitions.alignment", "batch counts the order of every two segments of every answer", found=f"{pairs:,} pairs",
            expected=f"at most {MOST_CELLS:,}", remedy="set score_coalitions.alignment: group, or segment.max_segments",
        )  # fmt: skip
    return Batch(numbered, precedence_of(numbered), parquet.rows_hash(numbered.select("rollout_id", "said")))


def score_coalitions(
    rollouts: pl.DataFrame, segments: pl.DataFrame, reward: JudgedReward, params: Reads, scorer: TextScorer | None = None
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return tables rewards and coalition_values of whole rollout groups, and how many (prompt, text) pairs were ranked.

    Rewards come first; the coalitions of degenerate groups (standard deviation of the rewards below 1e-8, or one rollout) and of answers
    without segments are not evaluated (`degenerate_groups: evaluate` does evaluate the former).
    The order of rollouts, and which groups are given together, change no value.

    Raises:
        CreditError: the grand coalition is not worth what the whole answer is (reward without its format part; `grand_value: reward`).
        RetrievalError: a prompt has no relevant product, or the retriever fails.
    """
    settings, seed = params.score_coalitions, params.train.seed
    rollouts = rollouts.sort("rollout_id")
    scorer = scorer or TextScorer(reward, settings)
    rewards, answer_values = answer_rewards(rollouts, scorer)
    budget, table = Budget(**settings.coalition_budget), CoalitionTable(scorer)
    draws = Draws(settings, budget, seed)
    is_skipped = rewards["is_degenerate_group"].to_list() if settings.degenerate_groups == "skip" else [False] * rewards.height
    grand: list[tuple[int, int]] = []  # row of rollouts, row of coalition values
    groups: dict[str, list[Game]] = {}
    for row, game in _games(rollouts, segments):
        if is_skipped[row]:
            continue
        groups.setdefault(game.prompt_id, []).append(game)
        table.ask(game, *draws.of(game))
        grand.append((row, table.height - 1))  # rows are ordered by size
    table.evaluate()
    if settings.grand_value == "reward":
        _check_grand(rollouts, grand, table, answer_values)
    if budget.further:
        evaluate_further(groups.values(), table, budget, seed)
    return rewards, table.frame(), scorer.ranked


def _games(rollouts: pl.DataFrame, segments: pl.DataFrame) -> Iterator[tuple[int, Game]]:
    # Answers that have segments, with their row.
    players_of: dict[str, tuple[list[tuple[int, int]], list[int]]] = {}
    columns = ("rollout_id", "start", "end", "union_index")
    for rollout_id, start, end, union in segments.sort("rollout_id", "segment_index").select(columns).iter_rows():
        spans, unions = players_of.setdefault(rollout_id, ([], []))
        spans.append((start, end))
        unions.append(union)
    for row, (rollout_id, prompt_id, completion) in enumerate(rollouts.select("rollout_id", "prompt_id", "completion").iter_rows()):
        if rollout_id in players_of:
            spans, unions = players_of[rollout_id]
            yield row, Game(rollout_id, prompt_id, completion, spans, Players(len(spans), tuple(unions)))


def _check_grand(rollouts: pl.DataFrame, grand: list[tuple[int, int]], table: CoalitionTable, answer_values: NDArray[np.float64]) -> None:
    for row, index in grand:
        if abs(table.values[index] - answer_values[row]) > TOLERANCE:
            raise CreditError(
                f"rollout {rollouts['rollout_id'][row]}",
                "its segments together are not worth what its answer is: words outside every segment",
                found=table.values[index],
                expected=answer_values[row],
                remedy="run `ospo segment` for this iteration again",
            )


def _is_light(settings: ScoreCoalitions) -> bool:
    # Whether the number of an answer's coalitions grows with the square of its segments at most: large shards then fit the memory.
    budget, long = Budget(**settings.coalition_budget), Players(64)
    families = {family for name in deletion_estimators(settings) for family in ESTIMATORS[name].families_for(long, budget)}
    families |= set(settings.families)
    return families <= {"contiguous", "prefix", "leave-one-out"} and settings.budget == "fixed"


def _shards(
    rollouts: pl.DataFrame, segments: pl.DataFrame, reward: JudgedReward, params: Reads, size: int, batch: Batch | None
) -> list[Shard]:
    # A rollout group is never cut: all texts of a prompt are in one shard, so that each is ranked once.
    sizes = _sizes(rollouts, segments, params.score_coalitions)
    print_of_own = reward.own_reward.fingerprint if reward.own_reward else ""
    settings = (
        VERSION,
        params.train.seed,
        asdict(params.score_coalitions),
        reward.retriever.fingerprint,
        print_of_own,
        batch.key if batch else "",
    )
    shards = []
    for chosen in _together(sizes, size):
        own = rollouts.filter(pl.col("prompt_id").is_in(chosen)).sort("rollout_id")
        own_segments = segments.filter(pl.col("rollout_id").is_in(own["rollout_id"].to_list())).sort("rollout_id", "segment_index")
        judgments = [(prompt_id, reward.raw_query(prompt_id), reward.fingerprint(prompt_id).hex()) for prompt_id in chosen]
        texts = own.select("rollout_id", "prompt_id", "completion", "answer_start", "answer_end", "has_answer_tags", "finish_reason")
        spans = own_segments.select("rollout_id", "segment_index", "union_index", "start", "end")
        key = content_key(settings, judgments, parquet.rows_hash(texts), parquet.rows_hash(spans))
        shards.append(Shard(key, own.height, (own, own_segments)))
    return shards


def _sizes(rollouts: pl.DataFrame, segments: pl.DataFrame, settings: ScoreCoalitions) -> dict[str, int]:
    """Return prompt -> cells of the coalitions of its rollout group, prompts ascending; raise CreditError where a group has too many."""
    budget, known, groups = Budget(**settings.coalition_budget), dict[Players, int](), dict[str, list[tuple[str, Players, int]]]()
    for _, game in _games(rollouts, segments):
        size = known.get(game.players)
        if size is None:
            size = known[game.players] = cells(game.players, settings, budget)
        groups.setdefault(game.prompt_id, []).append((game.rollout_id, game.players, size))
    of_prompts = rollouts["prompt_id"].value_counts().sort("prompt_id").iter_rows()
    return {prompt_id: check_group(groups.get(prompt_id, ()), size, settings, budget) for prompt_id, size in of_prompts}


def _together(sizes: dict[str, int], most: int) -> Iterator[list[str]]:
    # At most so many groups, and no more cells than fit the memory.
    chosen, held = list[str](), 0
    for prompt_id, size in sizes.items():
        if chosen and (len(chosen) == most or held + size > CELLS_PER_SHARD):
            yield chosen
            chosen, held = [], 0
        chosen.append(prompt_id)
        held += size
    if chosen:
        yield chosen


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


def _metrics(
    rollouts: pl.DataFrame, rewards: pl.DataFrame, values: pl.DataFrame, spliced: pl.DataFrame, reward: JudgedReward
) -> dict[str, Any]:
    of_answers, *of_tables = _scored_texts(rollouts, (values, spliced), reward)
    groups = rewards.group_by("prompt_id").agg(pl.col("is_degenerate_group").first(), pl.col("reward").max())
    return {
        "asked_values": rewards.height + values.height + spliced.height,
        "distinct_values": _distinct([of_answers, *of_tables]),
        "coalitions": values.height,
        "spliced": spliced.height,
        "distinct_spliced": _distinct(of_tables[1:]),
        "rollout_groups": groups.height,
        "degenerate_groups": int(groups["is_degenerate_group"].sum()),
        "mean_best_of_group": groups["reward"].mean(),
        **{f"mean_{name}": rewards[name].mean() for name in rewards.columns if rewards.schema[name] == pl.Float64},
    }


def _scored_texts(rollouts: pl.DataFrame, valued: Sequence[pl.DataFrame], reward: JudgedReward) -> list[pl.DataFrame]:
    # Columns prompt_id and query: of the answers, then of each table of values.
    answers = rollouts.select(
        "prompt_id", pl.col("completion").str.slice(pl.col("answer_start"), pl.col("answer_end") - pl.col("answer_start"))
    )
    composed = [reward.compose(prompt_id, answer) for prompt_id, answer in answers.iter_rows()]
    of_answers = answers.select("prompt_id", query=pl.Series(composed, dtype=pl.String))
    prompts = rollouts.select("rollout_id", "prompt_id")
    return [of_answers, *(table.join(prompts, on="rollout_id").select("prompt_id", "query") for table in valued)]


def _distinct(pairs: list[pl.DataFrame]) -> int:
    found: int = pl.concat(pairs).select(pl.struct("prompt_id", "query").n_unique()).item()
    return found

"""Sample rollout groups: completions with token ids and log-probabilities, no reward of its own."""

from __future__ import annotations

import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from ospo_cli.errors import ParameterError, PolicyError, shorten
from ospo_cli.executors import kept
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.policy import Policy
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.train import Train
from ospo_cli.tables import files, placed
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS, SAMPLING_LOGPROBS
from ospo_cli.tables.rollout_rows import RolloutRow, located, rollouts_frame
from ospo_cli.tables.score_queries import RAW_QUERY_VALUES
from ospo_cli.text.answers import PROBLEMS, find_answer

if TYPE_CHECKING:
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.sampling.sampler import CompletionSampler

TABLES = {"rollouts": ROLLOUTS, "sampling_logprobs": SAMPLING_LOGPROBS}
# What is loaded only where a parameter asks for it: then rollouts depend on the reward, and the graph knows.
LOADED = {"further_rounds": "ospo_cli.rewards.alive_groups:counter"}


class Reads(Protocol):
    """The sections that the stage reads; where further_rounds asks for rewards, theirs too."""

    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def rollout(self) -> Rollout: ...


def execute(layout: Layout, params: Reads, iteration: int) -> dict[str, Any]:
    """Read prompts and policy k-1; write rollouts and their metrics. Finished shards of a run that was cut off are used.

    Where rollout.further_rounds is above 0, further groups are sampled for those of equal rewards, in at most so many rounds. All groups
    are kept; `update.groups: alive` leaves those of equal rewards out.
    """
    from ospo_cli.policies.folder import render_prompt
    from ospo_cli.sampling import chosen_sampler

    settings, threads = params.rollout, params.policy.threads
    # Opened first: rewards that cannot be had end the run before anything is sampled.
    count_alive = pkgutil.resolve_name(LOADED["further_rounds"])(layout, params) if settings.further_rounds else None
    chosen, further = _asked(layout, settings, params.train.seed, iteration)
    made_by = f"ospo update --iter {iteration - 1}" if iteration > 1 else "ospo warm-start"
    policy = chosen_sampler.load_for(layout.policy(iteration - 1), settings, threads, made_by)
    rows, waiting = (
        [(prompt_id, render_prompt(policy, text)) for prompt_id, text in drawn.select("prompt_id", "prompt").iter_rows()]
        for drawn in (chosen, further)
    )
    sampled = _Sampled(rounds=[])
    # Prompts that do not fit are left out when their round is drawn: no engine is asked for a longer context than there is.
    longest = min(max(len(ids) for _, ids in (*rows, *waiting)), policy.context_length - settings.max_new_tokens)
    with chosen_sampler.opened(policy, settings, threads, longest) as sampler:
        sampling = _Sampling(ShardFolder(layout.cache / "rollouts"), policy, sampler, params, iteration, sampled)
        sampling.draw(rows)
        if count_alive is not None:
            sampling.draw_until_full(len(rows), waiting, count_alive)
    made = {name: pl.concat([tables[name] for tables in sampled.rounds]) for name in TABLES}
    metrics = describe(made["rollouts"]) | sampled.metrics | {"iteration": iteration}
    if settings.further_rounds:
        metrics |= {"rounds": len(sampled.rounds), "alive_groups": sampled.alive}
    if metrics["empty_completions"]:
        empty = made["rollouts"].filter(pl.col("completion") == "")["prompt_id"].unique(maintain_order=True).to_list()
        sys.stderr.write(
            f"rollout {iteration}: {metrics['empty_completions']} empty completions (the end token came first), "
            f"of prompts {_named(empty)}: scored as an empty query, counted in rollout_metrics.json\n"
        )
    for name, table in TABLES.items():
        placed.write(made[name], table, layout, iteration)
    files.write_json(layout.iteration(iteration, "rollout_metrics.json"), metrics)
    return metrics


def _asked(layout: Layout, settings: Rollout, seed: int, iteration: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the prompts of the iteration, and those of further rounds; say where there are fewer than were asked for."""
    prompts = kept.read(PROMPTS, layout)
    values = None
    if settings.prompts == "headroom":
        values = placed.read(RAW_QUERY_VALUES, layout)
    chosen = choose_prompts(prompts, values, settings, seed, iteration)
    if chosen.height < settings.prompts_per_iteration:
        sys.stderr.write(
            f"rollout {iteration}: {chosen.height} prompts, all there are "
            f"(rollout.prompts_per_iteration asks for {settings.prompts_per_iteration})\n"
        )
    further = further_prompts(prompts, values, settings, seed, iteration)
    return chosen, further.head(settings.further_rounds * chosen.height)


@dataclass
class _Sampled:
    """What was drawn so far: the tables of each round, and what the metrics count."""

    rounds: list[dict[str, pl.DataFrame]]
    too_long: int = 0
    seconds: float = 0.0
    fresh_tokens: int = 0
    shards: int = 0
    alive: int = 0

    @property
    def metrics(self) -> dict[str, Any]:
        """Counts and speed over all rounds."""
        return {
            "prompts": sum(tables["rollouts"]["prompt_id"].n_unique() for tables in self.rounds),
            "prompts_too_long": self.too_long,
            "sampling_seconds": self.seconds,
            "tokens_per_second": self.fresh_tokens / self.seconds if self.fresh_tokens else None,
            "shards": self.shards,
        }


@dataclass(frozen=True)
class _Sampling:
    """Draws rounds of rollout groups; `done` grows."""

    executor: ShardFolder
    policy: LoadedPolicy
    sampler: CompletionSampler
    params: Reads
    iteration: int
    done: _Sampled

    def draw(self, rows: list[tuple[str, list[int]]]) -> pl.DataFrame:
        """Sample a group for each (prompt id, prompt tokens) that fits, and return table rollouts of this round."""
        from ospo_cli.sampling.sampler import too_long

        settings, seed = self.params.rollout, self.params.train.seed
        unfit = {rows[index][0] for index in too_long(self.policy, [ids for _, ids in rows], settings.max_new_tokens)}
        rows = _fitting(rows, unfit, self.policy.context_length, settings, self.iteration, is_first=not self.done.rounds)
        rows.sort(key=lambda row: (len(row[1]), row[0]))  # prompts of like length share a shard: less padding
        shards = self._shards(rows)
        began = time.monotonic()

        def work(part: Any) -> dict[str, pl.DataFrame]:
            return dict(zip(TABLES, rollout(self.sampler, part, settings, seed, self.iteration), strict=True))

        label = f"rollout {self.iteration}" + (f", round {len(self.done.rounds) + 1}" if self.done.rounds else "")
        results = self.executor.map_shards(work, shards, TABLES, label, "completions")
        self.done.seconds += time.monotonic() - began
        self.done.fresh_tokens += sum(int(results[number]["rollouts"]["token_ids"].list.len().sum()) for number in self.executor.fresh)
        self.done.shards += len(shards)
        self.done.too_long += len(unfit)
        made = {name: pl.concat([table.empty(), *(result[name] for result in results)]) for name, table in TABLES.items()}
        made["rollouts"] = located(made["rollouts"])
        self.done.rounds.append(made)
        return made["rollouts"]

    def draw_until_full(self, wanted: int, waiting: list[tuple[str, list[int]]], count_alive: Callable[[pl.DataFrame], int]) -> None:
        """Go on, a round at a time with as many prompts as are lacking, until so many groups have unequal rewards.

        Source: Yu et al. 2025 (DAPO), dynamic sampling.
        """
        rollouts = self.done.rounds[0]["rollouts"]
        most = self.params.rollout.further_rounds
        for number in range(most + 1):
            self.done.alive += count_alive(rollouts)
            lacking = wanted - self.done.alive
            so_far = f"rollout {self.iteration}: {self.done.alive} of {wanted} rollout groups with unequal rewards after round {number + 1}"
            if not lacking:
                sys.stderr.write(f"{so_far}\n")
                return
            if number == most or not waiting:
                why = f"rollout.further_rounds is {most}" if number == most else "no further prompt"
                sys.stderr.write(f"{so_far}; {why}: the update has those\n")
                return
            rows, waiting = waiting[:lacking], waiting[lacking:]
            sys.stderr.write(f"{so_far}; {len(rows)} further prompt{'s' * (len(rows) > 1)}\n")
            rollouts = self.draw(rows)

    def _shards(self, rows: list[tuple[str, list[int]]]) -> list[Shard]:
        from ospo_cli.sampling import chosen_sampler

        settings = self.params.rollout
        per_shard = max(1, settings.batch_size // settings.group_size)
        shards = []
        for start in range(0, len(rows), per_shard):
            part = rows[start : start + per_shard]
            key = content_key(
                "rollouts 3",
                self.policy.content_hash,
                part,
                settings.group_size,
                settings.temperature,
                settings.top_k,
                settings.top_p,
                settings.max_new_tokens,
                self.params.train.seed,
                self.iteration,
                self.params.policy.threads,
                *chosen_sampler.kind_of(settings).identity(settings),
            )
            shards.append(Shard(key, len(part) * settings.group_size, part))
        return shards


def choose_prompts(
    prompts: pl.DataFrame, raw_query_values: pl.DataFrame | None, settings: Rollout, seed: int, iteration: int
) -> pl.DataFrame:
    """Return the train prompts of an iteration, in the order drawn.

    Each epoch is a permutation of its own, dealt out iteration by iteration; what is left at its end is too little for an iteration and
    is left out, so that no prompt occurs twice in one iteration. Where there are fewer than prompts_per_iteration, all are taken.

    Args:
        prompts: table prompts.
        raw_query_values: restricts to values ≤ settings.headroom_max where given.
        settings: section rollout.
        seed: root seed.
        iteration: from 1.

    Raises:
        ParameterError: there is no prompt to take.
    """
    return _drawn(prompts, raw_query_values, settings, seed, iteration)[0]


def further_prompts(
    prompts: pl.DataFrame, raw_query_values: pl.DataFrame | None, settings: Rollout, seed: int, iteration: int
) -> pl.DataFrame:
    """Return the train prompts that `choose_prompts` leaves to other iterations, in an order of this iteration's own."""
    return _drawn(prompts, raw_query_values, settings, seed, iteration)[1]


def _drawn(
    prompts: pl.DataFrame, raw_query_values: pl.DataFrame | None, settings: Rollout, seed: int, iteration: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    train = prompts.filter(pl.col("split") == "train").sort("prompt_id")
    if raw_query_values is not None:
        train = train.join(
            raw_query_values.filter(pl.col("value") <= settings.headroom_max).select("prompt_id"),
            on="prompt_id",
            how="semi",
            maintain_order="left",
        )
    if not train.height:
        kind = "train prompts with headroom" if raw_query_values is not None else "train prompts"
        raise ParameterError(
            "rollout", f"there are no {kind}", expected="at least one", remedy="see data/prepared/card.json for the splits"
        )
    count = min(settings.prompts_per_iteration, train.height)
    per_epoch = train.height // count
    epoch, slot = divmod(iteration - 1, per_epoch)
    order = seeding.generator(seed, f"rollout prompts/epoch {epoch}").permutation(train.height)
    own = order[slot * count : (slot + 1) * count]
    others = np.setdiff1d(order, own)
    others = others[seeding.generator(seed, f"rollout further prompts/{iteration}").permutation(len(others))]
    return train[own.tolist()], train[others.tolist()]


def _fitting(
    rows: list[tuple[str, list[int]]],
    too_long: set[str],
    context_length: int,
    settings: Rollout,
    iteration: int,
    is_first: bool,
) -> list[tuple[str, list[int]]]:
    """Return the rows that fit; name and count the others, which get no rollouts (and so no reward)."""
    kept = [row for row in rows if row[0] not in too_long]
    if not kept and is_first:
        raise PolicyError(
            f"rollout {iteration}",
            f"no prompt fits the context of the policy, such as that of prompt {rows[0][0]}",
            found=f"{len(rows[0][1])} prompt tokens + {settings.max_new_tokens} new",
            expected=f"at most {context_length} in all",
            remedy="shorten prepare_data.prompt_template or lower rollout.max_new_tokens",
        )
    if too_long:
        longest = max(len(ids) for prompt_id, ids in rows if prompt_id in too_long)
        sys.stderr.write(
            f"rollout {iteration}: {len(too_long)} of {len(rows)} prompts are too long and left out: {_named(sorted(too_long))} "
            f"(the longest has {longest} tokens; with {settings.max_new_tokens} new ones {context_length} fit)\n"
        )
    return kept


def _named(prompt_ids: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(shorten(prompt_id, 60) for prompt_id in prompt_ids[:most])
    return shown if len(prompt_ids) <= most else f"{shown} and {len(prompt_ids) - most} more"


def rollout(
    sampler: CompletionSampler, prompts: Sequence[tuple[str, list[int]]], settings: Rollout, seed: int, iteration: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tables rollouts and sampling_logprobs for (prompt_id, prompt token ids)."""
    from ospo_cli.sampling.sampler import Request

    names = [[f"{iteration:03d}:{prompt_id}:{index:02d}" for index in range(settings.group_size)] for prompt_id, _ in prompts]
    groups = sampler.sample(Request.of(settings, seed, [ids for _, ids in prompts], names))
    rows, logprobs = [], []
    for (prompt_id, ids), group_names, group in zip(prompts, names, groups, strict=True):
        for index, (name, row) in enumerate(zip(group_names, group, strict=True)):
            logprobs.append((name, row.sampled_logprobs, row.policy_logprobs))
            rows.append(RolloutRow(name, prompt_id, index, ids, row.text, row.token_ids, row.logprobs, row.finish_reason))
    return rollouts_frame(rows), pl.DataFrame(logprobs, schema=SAMPLING_LOGPROBS.schema, orient="row")


def describe(rollouts: pl.DataFrame) -> dict[str, Any]:
    """Return counts of a table rollouts; entropy is the mean of -log-probability over the sampled tokens, in nats."""
    lengths = rollouts["token_ids"].list.len().to_numpy()
    tokens = int(lengths.sum())
    logprobs = rollouts["behavior_logprobs"].explode(empty_as_null=False).to_numpy().astype(np.float64)
    problems = Counter(find_answer(completion).problem for completion in rollouts["completion"].to_list())
    return {
        "rollouts": rollouts.height,
        "tokens": tokens,
        "mean_tokens": tokens / max(rollouts.height, 1),
        "mean_prompt_tokens": _mean(rollouts["prompt_token_ids"].list.len()),
        "entropy": float(-logprobs.mean()) if tokens else 0.0,
        "stop_share": _mean(rollouts["finish_reason"] == "stop"),
        "length_share": _mean(rollouts["finish_reason"] == "length"),
        "answer_tags_share": _mean(rollouts["has_answer_tags"]),
        "empty_completions": int((rollouts["completion"] == "").sum()),
        "malformed_answers": rollouts.height - problems[""],
        **{f"malformed_{problem.replace(' ', '_')}": problems[problem] for problem in PROBLEMS},
        "distinct_completions_per_group": _mean(rollouts.group_by("prompt_id").agg(pl.col("completion").n_unique())["completion"]),
    }


def _mean(values: pl.Series) -> float:
    return float(values.cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]

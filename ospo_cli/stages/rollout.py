"""Sample rollout groups: completions with token ids and log-probabilities, no reward."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ospo_cli import params as parameters
from ospo_cli import parquet, schemas
from ospo_cli.errors import ParameterError, PolicyError, shorten
from ospo_cli.executors.base import Shard
from ospo_cli.executors.local import LocalExecutor, content_key
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.text.answers import find_answer

if TYPE_CHECKING:
    from ospo_cli.policies.sampler import CompletionSampler


def execute(layout: Layout, params: parameters.Params, iteration: int) -> dict[str, Any]:
    """Read prompts and policy k-1; write rollouts and their metrics. Finished shards of a run that was cut off are used."""
    from ospo_cli.policies import chosen_sampler
    from ospo_cli.policies.folder import render_prompt
    from ospo_cli.policies.sampler import too_long

    prompts = parquet.read(layout.prepared("prompts.parquet"), schemas.PROMPTS, made_by="ospo prepare-data")
    values = None
    if params.rollout.prompts == "headroom":
        values = parquet.read(layout.raw_query_values(), schemas.RAW_QUERY_VALUES, made_by="ospo score-queries")
    chosen = choose_prompts(prompts, values, params.rollout, params.train.seed, iteration)
    if chosen.height < params.rollout.prompts_per_iteration:
        sys.stderr.write(
            f"rollout {iteration}: {chosen.height} prompts, all there are "
            f"(rollout.prompts_per_iteration asks for {params.rollout.prompts_per_iteration})\n"
        )
    made_by = f"ospo update --iter {iteration - 1}" if iteration > 1 else "ospo warm-start"
    policy = chosen_sampler.load_for(layout.policy(iteration - 1), params, made_by)
    settings = params.rollout
    shards = []
    per_shard = max(1, settings.batch_size // settings.group_size)
    rows = [(prompt_id, render_prompt(policy, text)) for prompt_id, text in chosen.select("prompt_id", "prompt").iter_rows()]
    unfit = {rows[index][0] for index in too_long(policy, [ids for _, ids in rows], settings.max_new_tokens)}
    rows = _fitting(rows, unfit, policy.context_length, settings, iteration)
    rows.sort(key=lambda row: (len(row[1]), row[0]))  # prompts of like length share a shard: less padding
    for start in range(0, len(rows), per_shard):
        part = rows[start : start + per_shard]
        key = content_key(
            "rollouts 2",
            policy.content_hash,
            part,
            settings.group_size,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.max_new_tokens,
            params.train.seed,
            iteration,
            params.policy.threads,
            *chosen_sampler.identity(settings),
        )
        shards.append(Shard(key, len(part) * settings.group_size, part))
    began = time.monotonic()
    fresh_tokens = 0

    def work(sampler: CompletionSampler, part: Any) -> dict[str, pl.DataFrame]:
        nonlocal fresh_tokens
        frame, logprobs = rollout(sampler, part, settings, params.train.seed, iteration)
        fresh_tokens += int(frame["token_ids"].list.len().sum())
        return {"rollouts": frame, "sampling_logprobs": logprobs}

    executor = LocalExecutor(layout.cache / "rollouts")
    tables = {"rollouts": schemas.ROLLOUTS, "sampling_logprobs": schemas.SAMPLING_LOGPROBS}
    with chosen_sampler.opened(policy, params, max(len(ids) for _, ids in rows)) as sampler:
        results = executor.map_shards(partial(work, sampler), shards, tables, f"rollout {iteration}", "completions")
    seconds = time.monotonic() - began
    made = {name: pl.concat([result[name] for result in results]) for name in tables}
    rollouts = made["rollouts"]
    metrics = describe(rollouts) | {
        "iteration": iteration,
        "prompts": len(rows),
        "prompts_too_long": len(unfit),
        "sampling_seconds": seconds,
        "tokens_per_second": fresh_tokens / seconds if fresh_tokens else None,
        "shards": len(shards),
    }
    if metrics["empty_completions"]:
        empty = rollouts.filter(pl.col("completion") == "")["prompt_id"].unique(maintain_order=True).to_list()
        sys.stderr.write(
            f"rollout {iteration}: {metrics['empty_completions']} empty completions (the end token came first), "
            f"of prompts {_named(empty)}: scored as an empty query, counted in rollout_metrics.json\n"
        )
    for name, table in tables.items():
        parquet.write(made[name], layout.iteration(iteration, f"{name}.parquet"), table)
    with parquet.replacing(layout.iteration(iteration, "rollout_metrics.json")) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return metrics


def choose_prompts(
    prompts: pl.DataFrame, raw_query_values: pl.DataFrame | None, settings: parameters.Rollout, seed: int, iteration: int
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
    return train[order[slot * count : (slot + 1) * count].tolist()]


def _fitting(
    rows: list[tuple[str, list[int]]], too_long: set[str], context_length: int, settings: parameters.Rollout, iteration: int
) -> list[tuple[str, list[int]]]:
    """Return the rows that fit; name and count the others, which get no rollouts (and so no reward)."""
    kept = [row for row in rows if row[0] not in too_long]
    if not kept:
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
    sampler: CompletionSampler, prompts: Sequence[tuple[str, list[int]]], settings: parameters.Rollout, seed: int, iteration: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return tables rollouts and sampling_logprobs for (prompt_id, prompt token ids)."""
    from ospo_cli.policies.next_token import Sampling

    names = [[f"{iteration:03d}:{prompt_id}:{index:02d}" for index in range(settings.group_size)] for prompt_id, _ in prompts]
    groups = sampler.sample([ids for _, ids in prompts], names, settings.max_new_tokens, Sampling.of(settings), seed, settings.batch_size)
    rows, logprobs = [], []
    for (prompt_id, ids), group_names, group in zip(prompts, names, groups, strict=True):
        for index, (name, row) in enumerate(zip(group_names, group, strict=True)):
            answer = find_answer(row.text)
            logprobs.append((name, row.sampled_logprobs, row.policy_logprobs))
            rows.append(
                (
                    name,
                    prompt_id,
                    index,
                    ids,
                    row.text,
                    row.token_ids,
                    row.logprobs,
                    answer.start,
                    answer.end,
                    answer.has_tags,
                    row.finish_reason,
                )
            )
    return (
        pl.DataFrame(rows, schema=schemas.ROLLOUTS.schema, orient="row"),
        pl.DataFrame(logprobs, schema=schemas.SAMPLING_LOGPROBS.schema, orient="row"),
    )


def describe(rollouts: pl.DataFrame) -> dict[str, Any]:
    """Return counts of a table rollouts; entropy is the mean of -log-probability over the sampled tokens, in nats."""
    lengths = rollouts["token_ids"].list.len().to_numpy()
    tokens = int(lengths.sum())
    logprobs = rollouts["behavior_logprobs"].explode(empty_as_null=False).to_numpy().astype(np.float64)
    return {
        "rollouts": rollouts.height,
        "tokens": tokens,
        "mean_tokens": tokens / max(rollouts.height, 1),
        "mean_prompt_tokens": float(rollouts["prompt_token_ids"].list.len().mean() or 0.0),  # type: ignore[arg-type]
        "entropy": float(-logprobs.mean()) if tokens else 0.0,
        "stop_share": float((rollouts["finish_reason"] == "stop").mean() or 0.0),  # type: ignore[arg-type]
        "length_share": float((rollouts["finish_reason"] == "length").mean() or 0.0),  # type: ignore[arg-type]
        "answer_tags_share": float(rollouts["has_answer_tags"].mean() or 0.0),  # type: ignore[arg-type]
        "empty_completions": int((rollouts["completion"] == "").sum()),
        "empty_answers": int((rollouts["answer_start"] == rollouts["answer_end"]).sum()),
        "distinct_completions_per_group": float(
            rollouts.group_by("prompt_id").agg(pl.col("completion").n_unique())["completion"].mean() or 0.0
        ),  # type: ignore[arg-type]
    }

"""How sharp a policy is, and how far from the warm start: entropy and divergence of its own samples on held-out prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.sampling.held_out import Reads, rendered
from ospo_cli.tables.declare import Column, Table

PROMPTS = 128  # one sample each: the error of a mean over some 1,500 tokens is about .02 nats
_TOKENS_AT_ONCE = 4096
_SAMPLES = Table(
    "sharpness_samples",
    "one completion per prompt, drawn at temperature 1 from the whole distribution",
    ("prompt_id",),
    (
        Column("prompt_id", pl.String, "identity of the prompt"),
        Column("token_ids", pl.List(pl.Int64), "of the completion"),
        Column("logprobs", pl.List(pl.Float64), "of each token under the policy"),
        Column("entropies", pl.List(pl.Float64), "of the policy's distribution before each token, nats"),
    ),
)
_LOGPROBS = dataclasses.replace(_SAMPLES, name="sharpness_logprobs", columns=(_SAMPLES.columns[0], _SAMPLES.columns[2]))


def sharpness(prompts: pl.DataFrame, folders: Mapping[str, tuple[Path, str]], params: Reads, cache: Path) -> dict[str, dict[str, Any]]:
    """Return system -> entropy and divergence from the first system, nats per token, and the counts they rest on.

    Entropy is the mean over the sampled tokens of that of the whole distribution. Divergence is the mean of π0/π - 1 - log(π0/π), an
    estimate of the Kullback-Leibler divergence of π from π0 that is never below 0 (Schulman, "Approximating KL divergence", 2020).

    Args:
        prompts: rows of table prompts, of which the first PROMPTS are answered.
        folders: system -> a checked policy folder and the hash of its content; the first is the warm start.
        params: the root seed, the cap of the completion's length, batches and threads.
        cache: folder of the finished shards.
    """
    part, executor = prompts.select("prompt_id", "prompt").head(PROMPTS), ShardFolder(cache)
    drawing = [params.train.seed, params.rollout.max_new_tokens, params.rollout.batch_size, params.policy.threads, part.rows()]
    shards = [
        Shard(content_key("evaluate.sharpness 1", content, drawing), part.height, (folder, part)) for folder, content in folders.values()
    ]

    def drawn(payload: tuple[Path, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        return {"samples": _sample(*payload, params)}

    found = [tables["samples"] for tables in executor.map_shards(drawn, shards, {"samples": _SAMPLES}, "entropy", "completions")]
    start, content = next(iter(folders.values()))
    others = [
        Shard(content_key("evaluate.divergence 1", content, shard.key), part.height, (start, part, samples))
        for shard, samples in zip(shards[1:], found[1:], strict=True)
    ]
    forward = _Forward(params)

    def under_the_start(payload: tuple[Path, pl.DataFrame, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        return {"logprobs": forward.measured(*payload).select(*_LOGPROBS.schema)}

    measured = executor.map_shards(under_the_start, others, {"logprobs": _LOGPROBS}, "divergence", "completions") if others else []
    return dict(zip(folders, map(_means, found, [found[0], *(tables["logprobs"] for tables in measured)]), strict=True))


def _means(samples: pl.DataFrame, of_start: pl.DataFrame) -> dict[str, Any]:
    logprobs, others = (np.array(frame["logprobs"].explode().drop_nulls().to_list(), dtype=np.float64) for frame in (samples, of_start))
    entropies = np.array(samples["entropies"].explode().drop_nulls().to_list(), dtype=np.float64)
    apart = others - logprobs
    return {
        "entropy": float(entropies.mean()),
        "divergence": float(np.mean(np.exp(apart) - 1 - apart)),
        "prompts": samples.height,
        "tokens": int(logprobs.size),
    }


def _sample(folder: Path, prompts: pl.DataFrame, params: Reads) -> pl.DataFrame:
    from ospo_cli.policies.opening import load_policy
    from ospo_cli.sampling.causal_lm import Sampler
    from ospo_cli.sampling.sampler import Request

    policy = load_policy(folder, params.policy.threads)
    sampler = Sampler(policy)
    settings = dataclasses.replace(params.rollout, temperature=1.0, top_k=0, top_p=1.0)
    names = [[f"evaluate:{prompt_id}:00"] for prompt_id in prompts["prompt_id"]]
    groups = sampler.sample(Request.of(settings, params.train.seed, rendered(sampler, prompts, settings), names))
    ids = pl.DataFrame({"prompt_id": prompts["prompt_id"], "token_ids": [group[0].token_ids for group in groups]})
    return _Forward(params, policy).measured(folder, prompts, ids)


class _Forward:
    """Forward passes over given completions; the policy is loaded once."""

    def __init__(self, params: Reads, policy: Any = None) -> None:
        self.params, self.policy = params, policy

    def measured(self, folder: Path, prompts: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
        """Return table samples: the completions with their log-probabilities and entropies under the policy of `folder`."""
        import torch

        from ospo_cli.policies.folder import render_prompt
        from ospo_cli.policies.opening import load_policy
        from ospo_cli.training import token_batches
        from ospo_cli.training.token_logprobs import token_logprobs

        self.policy = self.policy or load_policy(folder, self.params.policy.threads)
        asked = [render_prompt(self.policy, prompt) for prompt in prompts["prompt"].to_list()]
        completions = samples["token_ids"].to_list()
        groups = [token_batches.Group(prompt, [ids], index) for index, (prompt, ids) in enumerate(zip(asked, completions, strict=True))]
        logprobs: list[list[float]] = [[] for _ in groups]
        entropies: list[list[float]] = [[] for _ in groups]
        for part in token_batches.micro_batches(groups, _TOKENS_AT_ONCE):
            batch = token_batches.build(part, self.policy.pad_token_id, self.policy.device)
            with torch.no_grad():
                found = [
                    values.double().cpu().tolist() for values in token_logprobs(self.policy.model, batch, 1.0, True) if values is not None
                ]
            end = 0
            for group in part:
                begin, end = end, end + group.tokens
                logprobs[group.first], entropies[group.first] = (values[begin:end] for values in found)
        return samples.select("prompt_id", "token_ids").with_columns(
            logprobs=pl.Series(logprobs, dtype=pl.List(pl.Float64)), entropies=pl.Series(entropies, dtype=pl.List(pl.Float64))
        )

"""What policies answer to held-out prompts: greedy, and sampled at one or more temperatures; finished shards are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import polars as pl

from ospo_cli.errors import PolicyError
from ospo_cli.executors.base import Shard
from ospo_cli.executors.shard_folder import ShardFolder, content_key
from ospo_cli.tables.evaluate import DECODED

if TYPE_CHECKING:
    from ospo_cli.params.evaluate import Evaluate
    from ospo_cli.params.policy import Policy
    from ospo_cli.params.rollout import Rollout
    from ospo_cli.params.train import Train
    from ospo_cli.policies.folder import LoadedPolicy
    from ospo_cli.sampling.causal_lm import Sampler

_PROMPTS_PER_SHARD = 64


class Reads(Protocol):
    """The sections that answers depend on."""

    @property
    def train(self) -> Train: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def evaluate(self) -> Evaluate: ...


class Pass(NamedTuple):
    """A way in which all prompts are answered once: a temperature, the decoding's name, samples per prompt, rows of likeliest tokens."""

    decoding: str
    temperature: float
    samples: int
    greedy_rows: int


class _Work(NamedTuple):
    system: str
    folder: Path
    prompts: pl.DataFrame
    how: Pass


def passes(rollout: Rollout, settings: Evaluate) -> list[Pass]:
    """Return the passes: greedy with the samples at the rollouts' temperature, then a quarter as many at each further temperature."""
    further = [temperature for temperature in settings.temperatures if temperature != rollout.temperature]
    first = Pass("sampled", rollout.temperature, settings.samples, 1)
    fewer = -(-settings.samples // 4)  # as many would make an evaluation half as long again
    return [first] + [Pass(f"sampled-{temperature:g}", temperature, fewer, 0) for temperature in further if fewer]


def answers(prompts: pl.DataFrame, folders: Mapping[str, tuple[Path, str]], params: Reads, cache: Path) -> list[pl.DataFrame]:
    """Return table completions of each policy, by shards, without the query; finished shards are found by the policy's content.

    Args:
        prompts: rows of table prompts.
        folders: system -> a checked policy folder and the hash of its content.
        params: how answers are drawn.
        cache: folder of the finished shards.

    Raises:
        PolicyError: a prompt does not fit a policy's context.
    """
    settings, shards = params.evaluate, []
    for system, (folder, content) in folders.items():
        for how in passes(params.rollout, settings):
            drawn = [how.temperature, params.rollout.top_k, params.rollout.top_p] if settings.samples else []
            sampling = [how.samples, drawn, params.rollout.max_new_tokens, params.train.seed]
            # Batches and threads may change sums in their last bits, and so now and then a draw.
            sampling += [params.rollout.batch_size, params.policy.threads]
            kind = "evaluate.completions 2" if how.greedy_rows else "evaluate.samples 1"
            for part in prompts.select("prompt_id", "prompt").iter_slices(_PROMPTS_PER_SHARD):
                key = content_key(kind, content, sampling, part.rows())
                shards.append(Shard(key, part.height * (how.greedy_rows + how.samples), _Work(system, folder, part, how)))
    found = ShardFolder(cache).map_shards(_Answers(params).sample, shards, {"completions": DECODED}, "evaluate", "completions")
    # Equal weights share their shards, whichever iteration made them: the system's name comes from here.
    return [tables["completions"].with_columns(system=pl.lit(shard.payload.system)) for shard, tables in zip(shards, found, strict=True)]


class _Answers:
    """Samples one policy at a time; a policy is loaded when its first unfinished shard comes up."""

    def __init__(self, params: Reads) -> None:
        self.params = params
        self.sampler: Sampler | None = None

    def sample(self, work: _Work) -> dict[str, pl.DataFrame]:
        """Return table completions of one shard; queries are composed later, so that composition is no part of the cache."""
        from ospo_cli.policies.opening import load_policy
        from ospo_cli.sampling.causal_lm import Sampler
        from ospo_cli.sampling.sampler import Request

        if self.sampler is None or self.sampler.policy.folder != work.folder:
            self.sampler = None  # freed before the next policy is loaded
            self.sampler = Sampler(load_policy(work.folder, self.params.policy.threads))
        settings = dataclasses.replace(self.params.rollout, temperature=work.how.temperature)
        ids = work.prompts["prompt_id"].to_list()
        asked = rendered(self.sampler, work.prompts, settings)
        # No policy in the names: all are sampled with the same uniforms, which makes paired differences narrower.
        names = [[f"evaluate:{prompt_id}:{index:02d}" for index in range(work.how.samples)] for prompt_id in ids]
        if work.how.greedy_rows:
            names = [[f"evaluate:{prompt_id}:greedy", *drawn] for prompt_id, drawn in zip(ids, names, strict=True)]
        groups = self.sampler.sample(Request.of(settings, self.params.train.seed, asked, names), greedy_rows=work.how.greedy_rows)
        rows = []
        for prompt_id, group in zip(ids, groups, strict=True):
            likeliest, drawn = group[: work.how.greedy_rows], group[work.how.greedy_rows :]
            rows += [(work.system, "greedy", prompt_id, 0, row.text, "") for row in likeliest]
            rows += [(work.system, work.how.decoding, prompt_id, index, row.text, "") for index, row in enumerate(drawn)]
        return {"completions": pl.DataFrame(rows, schema=DECODED.schema, orient="row")}


def rendered(sampler: Sampler, prompts: pl.DataFrame, settings: Rollout) -> list[list[int]]:
    """Return the token ids of each prompt; raise PolicyError where one does not fit: leaving it out would change what the means are of."""
    from ospo_cli.policies.folder import render_prompt

    policy: LoadedPolicy = sampler.policy
    asked = [render_prompt(policy, prompt) for prompt in prompts["prompt"].to_list()]
    for index in sampler.too_long(asked, settings.max_new_tokens)[:1]:
        raise PolicyError(
            f"evaluate, prompt {prompts['prompt_id'][index]}",
            "does not fit the context of the policy",
            found=f"{len(asked[index])} prompt tokens + {settings.max_new_tokens} new",
            expected=f"at most {policy.context_length} in all",
            remedy="shorten prepare_data.prompt_template or lower rollout.max_new_tokens",
        )
    return asked

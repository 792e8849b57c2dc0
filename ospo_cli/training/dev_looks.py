"""How a policy that is being warm-started answers dev prompts: greedy, sampled, and the best of its samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import polars as pl
import torch

from ospo_cli.errors import SourceError
from ospo_cli.executors.shard_folder import content_key
from ospo_cli.layout import Layout
from ospo_cli.maths import seeding
from ospo_cli.params.rollout import Rollout
from ospo_cli.params.train import Train
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.rewards.judged_reward import JudgedReward, Sections
from ospo_cli.rewards.judgments import Prepared
from ospo_cli.rewards.store.folder import Store
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.held_out import rendered
from ospo_cli.sampling.sampler import Request
from ospo_cli.tables import placed
from ospo_cli.tables.files import sha256_of
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.text.composition import served

FEW, SAMPLES = 64, 8


class Reads(Sections, Protocol):
    """What looks read of the parameters."""

    @property
    def train(self) -> Train: ...
    @property
    def rollout(self) -> Rollout: ...


def looker(layout: Layout, params: Reads, prompts: pl.DataFrame) -> tuple[Callable[[LoadedPolicy], dict[str, float]], str]:
    """Return what measures a policy, and a hash of what the numbers depend on besides it.

    They are means over at most FEW dev prompts (by seed) of the greedy answer, the samples and their best. Every look draws with
    the same uniforms, so that looks differ by the policy alone.

    Raises:
        SourceError: there are no dev prompts.
    """
    dev = prompts.filter(pl.col("split") == "dev").sort("prompt_id")
    if not dev.height:
        remedy = "set warm_start.look_every: 0, or prepare_data.dev_share"
        raise SourceError("table prompts", "no prompt in split dev to look at", expected="some (warm_start.look_every)", remedy=remedy)
    order = seeding.generator(params.train.seed, "warm start looks").permutation(dev.height)[:FEW]
    dev = dev[sorted(order.tolist())]
    own = [placed.read(table, layout).join(dev.select("prompt_id"), on="prompt_id", how="semi") for table in (QRELS, POOLS)]
    reward = JudgedReward(Prepared(placed.read(DOCUMENTS, layout), dev, *own), params, cache=layout.cache, store=Store(layout.store))
    scoring = params.score_coalitions
    composition = scoring.composition

    def look(policy: LoadedPolicy) -> dict[str, float]:
        was_training = policy.model.training
        policy.model.eval()
        with torch.no_grad():
            sampler = Sampler(policy)
            names = [[f"warm start:{name}:{index}" for index in range(1 + SAMPLES)] for name in dev["prompt_id"]]
            request = Request.of(params.rollout, params.train.seed, rendered(sampler, dev, params.rollout), names)
            groups = sampler.sample(request, greedy_rows=1)
        policy.model.train(was_training)
        asked = [(name, served(query, row.text, composition).query) for (name, query), group in zip(
            dev.select("prompt_id", "query").iter_rows(), groups, strict=True) for row in group]  # fmt: skip
        values = reward.values([name for name, _ in asked], [query for _, query in asked]).reshape(dev.height, 1 + SAMPLES)
        drawn = values[:, 1:]
        return {"greedy": float(values[:, 0].mean()), "sampled": float(drawn.mean()), "best_of_8": float(drawn.max(axis=1).mean())}

    sections = [dataclasses.asdict(section) for section in (params.rollout, params.retrieval)]
    sections.append({"retriever": scoring.retriever, "metric": scoring.metric, "composition": composition})
    return look, content_key(sections, [sha256_of(table.path(layout)) for table in (DOCUMENTS, PROMPTS, QRELS, POOLS)])

"""Clipped policy-gradient steps over rollout groups: micro-batches by token budget, one AdamW step per few groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.params import Update
from ospo_cli.policies import token_batches
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.policies.policy_loss import clipped_loss, k3, token_weights
from ospo_cli.policies.supervised import seeded_dropout
from ospo_cli.policies.token_batches import Group
from ospo_cli.policies.token_logprobs import token_logprobs
from ospo_cli.policies.training_state import Checkpoint, Training


@dataclass(frozen=True)
class Rows:
    """The iteration's rollouts as arrays: groups number their completions by `Group.first`, per-token values lie row by row.

    Attributes:
        groups: rollout groups.
        lengths: [rows] completion tokens.
        starts: [rows] first token of each row in the flat arrays.
        behavior_logprobs: [tokens] at sampling time, sampling temperature.
        advantages: [tokens].
        reference_logprobs: [tokens] under policy 000, or None without a penalty.
        temperature: of the sampling.
        max_new_tokens: cap of the completions.
    """

    groups: list[Group]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    behavior_logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    reference_logprobs: NDArray[np.float32] | None
    temperature: float
    max_new_tokens: int

    def tokens_of(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Return the places of the groups' tokens in the flat arrays, in the order of `token_batches.build`."""
        parts = [
            np.arange(self.starts[row], self.starts[row] + self.lengths[row])
            for group in groups
            for row in range(group.first, group.first + len(group.completions))
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def is_alive(self, group: Group) -> bool:
        """Tell whether the group has any advantage; without one its gradient is zero."""
        return bool(np.any(self.advantages[self.tokens_of([group])] != 0))


def logprobs_of(policy: LoadedPolicy, rows: Rows, token_budget: int) -> NDArray[np.float32]:
    """Return [tokens] log-probabilities of the rollouts under a policy, without gradient."""
    found = np.zeros(len(rows.behavior_logprobs), dtype=np.float32)
    for part in token_batches.micro_batches(_layout(rows.groups), token_budget):
        batch = token_batches.build(part, policy.pad_token_id, policy.device)
        with torch.no_grad():
            logprobs, _ = token_logprobs(policy.model, batch, rows.temperature)
        found[rows.tokens_of(part)] = logprobs.cpu().numpy()
    return found


def train(
    policy: LoadedPolicy,
    rows: Rows,
    training: Training,
    checkpoint: Checkpoint,
    settings: Update,
    *,
    seed: int,
    iteration: int,
    dropout: bool = False,
    progress: Callable[[str, bool], None] | None = None,
) -> list[dict[str, float]]:
    """Train in place; return one dict of measures per step.

    Groups without any advantage take part in the denominators and are not run through the model, unless a penalty pulls on them.

    Raises:
        PolicyError: the sampler's log-probabilities are not those of this policy, or the loss is not finite.
    """
    plan = step_plan(len(rows.groups), settings, seed, iteration)
    finished, notes = checkpoint.restore(training)
    steps: list[dict[str, float]] = notes.get("steps", [])
    policy.model.train(dropout)
    for measures in steps:
        if progress:
            progress(_note(measures), True)
    for step in range(finished, len(plan)):
        groups = [rows.groups[index] for index in plan[step]]
        with seeded_dropout(seed, f"update dropout/{iteration}/{step}", dropout):
            measures = accumulate(policy, rows, groups, settings, is_first=step == 0 and not dropout)
        if step == 0 and measures["logprob_mismatch"] > settings.max_logprob_mismatch:
            raise PolicyError(
                f"iteration {iteration}",
                "the sampler's log-probabilities are not those of the policy that is trained",
                found=f"largest difference {measures['logprob_mismatch']:.3g}",
                expected=f"at most update.max_logprob_mismatch = {settings.max_logprob_mismatch:g}",
                remedy=f"run `ospo rollout --iter {iteration}` again with the same policy and rollout.temperature",
            )
        measures["gradient_norm"] = training.step(settings.learning_rate) if measures["tokens"] else 0.0
        steps.append(measures)
        checkpoint.offer(training, step + 1, {"steps": steps})
        if progress:
            progress(_note(measures), False)
    policy.model.eval()
    return steps


def accumulate(policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update, is_first: bool = False) -> dict[str, float]:
    """Add the gradient of one optimiser step over some groups; return its measures. Cutting into micro-batches changes rounding alone."""
    step_rows = [row for group in groups for row in range(group.first, group.first + len(group.completions))]
    weights = np.zeros(len(rows.advantages))
    weights[rows.tokens_of(groups)] = token_weights(rows.lengths[step_rows], settings.aggregation, rows.max_new_tokens)
    taken = [group for group in groups if settings.kl_weight > 0 or rows.is_alive(group)]
    seen: dict[str, list[Any]] = {
        name: [] for name in ("loss", "ratio", "clipped", "penalty", "behavior_kl", "entropy", "advantage", "mismatch")
    }
    tokens_in_all = 0

    def device(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(policy.device)

    for part in token_batches.micro_batches(_layout(taken), settings.tokens_per_micro_batch):
        places = rows.tokens_of(part)
        if not len(places):
            continue
        batch = token_batches.build(part, policy.pad_token_id, policy.device)
        tokens_in_all += batch.tokens_in_all
        logprobs, entropies = token_logprobs(policy.model, batch, rows.temperature, want_entropy=True)
        behavior = device(rows.behavior_logprobs[places])
        reference = device(rows.reference_logprobs[places]) if rows.reference_logprobs is not None else None
        result = clipped_loss(
            logprobs,
            behavior,
            device(rows.advantages[places]),
            device(weights[places]),
            settings.clip_low,
            settings.clip_high,
            reference,
            settings.kl_weight,
            settings.trace,
            [int(rows.lengths[row]) for group in part for row in range(group.first, group.first + len(group.completions))],
        )
        loss = float(result.loss.detach())
        if not math.isfinite(loss):
            raise PolicyError(
                f"rollouts {part[0].first} to {part[-1].first}", "the loss is not finite", found=loss, remedy="lower update.learning_rate"
            )
        result.loss.backward()
        detached = logprobs.detach()
        seen["loss"].append(loss)
        seen["ratio"].append(result.ratios.cpu().numpy())
        seen["clipped"].append(result.is_clipped.cpu().numpy())
        seen["penalty"].append(result.penalties.cpu().numpy())
        seen["behavior_kl"].append(k3(behavior, detached).cpu().numpy())
        seen["entropy"].append(entropies.cpu().numpy() if entropies is not None else np.zeros(0))
        seen["advantage"].append(rows.advantages[places])
        seen["mismatch"].append(np.abs(detached.cpu().numpy() - rows.behavior_logprobs[places]))
    return _measures(seen, tokens_in_all, len(groups), len(taken), is_first)


def _measures(seen: dict[str, list[Any]], tokens_in_all: int, groups: int, taken: int, is_first: bool) -> dict[str, float]:
    measures: dict[str, float] = {
        "loss": float(sum(seen["loss"])),
        "groups": groups,
        "groups_used": taken,
        "tokens_with_prompts": tokens_in_all,
        "tokens": 0,
    }
    if not seen["ratio"]:
        return measures | dict.fromkeys(
            (
                "clipped_fraction",
                "clipped_fraction_positive",
                "clipped_fraction_negative",
                "behavior_kl",
                "reference_kl",
                "entropy",
                "logprob_mismatch",
            ),
            0.0,
        )
    ratio, clipped, advantage = (np.concatenate(seen[name]) for name in ("ratio", "clipped", "advantage"))
    measures |= {
        "tokens": len(ratio),
        "clipped_fraction": float(clipped.mean()),
        "clipped_fraction_positive": _mean(clipped[advantage > 0]),
        "clipped_fraction_negative": _mean(clipped[advantage < 0]),
        "behavior_kl": _mean(np.concatenate(seen["behavior_kl"])),
        "reference_kl": _mean(np.concatenate(seen["penalty"])),
        "entropy": _mean(np.concatenate(seen["entropy"])),
        # Dropout, or steps already done, make later differences a matter of training.
        "logprob_mismatch": float(np.concatenate(seen["mismatch"]).max()) if is_first else 0.0,
    }
    for name, quantile in (("ratio_01", 0.01), ("ratio_50", 0.5), ("ratio_99", 0.99)):
        measures[name] = float(np.quantile(ratio, quantile))
    return measures


def step_plan(groups: int, settings: Update, seed: int, iteration: int) -> list[NDArray[np.int64]]:
    """Return the groups of each optimiser step: every epoch a permutation of its own, cut into steps of like size."""
    plan: list[NDArray[np.int64]] = []
    for epoch in range(settings.epochs):
        order = seeding.generator(seed, f"update/{iteration}/epoch {epoch}").permutation(groups)
        plan.extend(np.array_split(order, max(1, math.ceil(groups / settings.groups_per_step))))
    return plan


def _layout(groups: Sequence[Group]) -> list[Group]:
    filled = [group for group in groups if group.tokens]
    if not filled or token_batches.packing_pays(filled):
        return list(filled)
    return [single for group in filled for single in group.apart() if single.tokens]


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _note(measures: dict[str, float]) -> str:
    return f"loss {measures['loss']:+.4f}, entropy {measures['entropy']:.2f}"

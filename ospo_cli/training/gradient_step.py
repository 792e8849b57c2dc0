"""Training steps over rollout groups: micro-batches by token budget, one AdamW step per few groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import token_batches
from ospo_cli.training.likelihood import imitation_weights, preference_weights, weighted_likelihood
from ospo_cli.training.policy_loss import clipped_loss, k3, kl_terms, sampler_weights, token_weights
from ospo_cli.training.supervised import seeded_dropout
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from ospo_cli.training.training_state import Checkpoint, Training

# The loss's factor in float16, and what it is divided by where a gradient overflows: powers of two, which change no bit of a sum.
FIRST_SCALE, SCALE_STEP = 65536.0, 4.0


@dataclass(frozen=True)
class Rows:
    """The iteration's rollouts as arrays: groups number their completions by `Group.first`, per-token values lie row by row.

    Attributes:
        groups: rollout groups.
        lengths: [rows] completion tokens.
        starts: [rows] first token of each row in the flat arrays.
        behavior_logprobs: [tokens] at sampling time, sampling temperature.
        advantages: [tokens]; for objective sft 1 on the tokens of targets, for dpo 1 on those of paired completions, else 0.
        reference_logprobs: [tokens] under policy 000, or None where the loss does not ask for it.
        temperature: of the sampling.
        max_new_tokens: cap of the completions.
        old_logprobs: [tokens] under the policy that training starts from, where ratios are taken to it in place of the sampler.
        corrections: [tokens] importance weights of that policy over the sampler, or None.
        pairs: [pairs, 2] rows, the preferred one first (objective dpo), or None.
    """

    groups: list[Group]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    behavior_logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    reference_logprobs: NDArray[np.float32] | None
    temperature: float
    max_new_tokens: int
    old_logprobs: NDArray[np.float32] | None = None
    corrections: NDArray[np.float32] | None = None
    pairs: NDArray[np.int64] | None = None

    def tokens_of(self, groups: Sequence[Group]) -> NDArray[np.int64]:
        """Return the places of the groups' tokens in the flat arrays, in the order of `token_batches.build`."""
        parts = [
            np.arange(self.starts[group.first + index], self.starts[group.first + index] + len(ids))
            for group in groups
            for index, ids in enumerate(group.completions)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def is_alive(self, group: Group) -> bool:
        """Tell whether the group has any advantage; without one its gradient is zero."""
        return bool(np.any(self.advantages[self.tokens_of([group])] != 0))


def logprobs_of(policy: LoadedPolicy, rows: Rows, token_budget: int, precision: str = "float32") -> NDArray[np.float32]:
    """Return [tokens] log-probabilities of the rollouts under a policy, without gradient; 0 for groups that are not in `rows.groups`."""
    found = np.zeros(len(rows.behavior_logprobs), dtype=np.float32)
    for part in token_batches.micro_batches(arranged(rows.groups), token_budget):
        batch = token_batches.build(part, policy.pad_token_id, policy.device)
        with torch.no_grad(), arithmetic(policy, precision):
            logprobs, _ = token_logprobs(policy.model, batch, rows.temperature)
        found[rows.tokens_of(part)] = logprobs.float().cpu().numpy()
    return found


def arithmetic(policy: LoadedPolicy, precision: str) -> AbstractContextManager[Any]:
    """Return the context of forward passes: plain float32, or 16 bits for the products of matrices where a GPU is there."""
    if precision == "float32":
        return nullcontext()
    if policy.device.type != "cuda":
        raise PolicyError(
            "update.precision",
            "is for GPUs: on this processor it would be slower and less exact",
            found=f"{precision} on {policy.device.type}",
            expected="float32",
        )
    return torch.autocast("cuda", dtype=getattr(torch, precision))


def checkpoint_layers(policy: LoadedPolicy) -> None:
    """Have the backward pass compute each layer again; dropout stays as it is.

    transformers does so only in training mode: its layers alone are put there, what lies within them is not.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    base = policy.model.get_base_model() if hasattr(policy.model, "get_base_model") else policy.model
    if not base.supports_gradient_checkpointing:
        raise PolicyError(policy.folder, "this model has no gradient checkpointing", remedy="set update.gradient_checkpointing: false")
    # transformers renames it: the old name warns from 5.2x on.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def chosen(rows: Rows, settings: Update, seed: int, iteration: int) -> Rows:
    """Return the rows whose groups take part in the steps: with `groups: alive` those with an advantage, at most `max_groups` by seed."""
    groups = [group for group in rows.groups if settings.groups == "all" or rows.is_alive(group)]
    if settings.max_groups and len(groups) > settings.max_groups:
        order = seeding.generator(seed, f"update/{iteration}/groups").permutation(len(groups))
        groups = [groups[index] for index in sorted(order[: settings.max_groups].tolist())]
    return replace(rows, groups=groups)


def penalised(rows: Rows, settings: Update) -> Rows:
    """Return the rows with β times the KL terms taken off the advantages where `kl_in` is reward.

    A completion's penalty is the sum over its tokens, centred over its rollout group as rewards are; k1 gives the divergence's gradient.
    """
    if settings.kl_in != "reward" or settings.kl_weight == 0 or rows.reference_logprobs is None:
        return rows
    old, reference = rows.behavior_logprobs if rows.old_logprobs is None else rows.old_logprobs, rows.reference_logprobs
    terms = kl_terms(torch.from_numpy(old), torch.from_numpy(reference), settings.kl).numpy().astype(np.float64)
    owner = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    sums = np.bincount(owner, weights=terms, minlength=len(rows.lengths))
    penalties = np.zeros(len(rows.lengths))
    for group in rows.groups:
        of_group = slice(group.first, group.first + len(group.completions))
        penalties[of_group] = sums[of_group] - sums[of_group].mean()
    advantages = rows.advantages - (settings.kl_weight * penalties)[owner].astype(np.float32)
    return replace(rows, advantages=advantages, reference_logprobs=None)


def corrected(rows: Rows, policy: LoadedPolicy, settings: Update) -> Rows:
    """Return the rows with ratios to the policy as it is now, and weights for what the sampler differs from it (`sampler_correction`)."""
    if settings.sampler_correction == "none":
        return rows
    old = logprobs_of(policy, rows, settings.tokens_per_micro_batch, settings.precision)
    weights = sampler_weights(old - rows.behavior_logprobs, rows.lengths.tolist(), settings.sampler_correction, settings.sampler_bound)
    return replace(rows, old_logprobs=old, corrections=weights)


def wanted_tokens(rows: Rows, settings: Update) -> NDArray[np.bool_]:
    """Return [tokens] those whose log-probability the loss depends on; no other is run through the output embedding.

    A ratio of sequences depends on every token of its row, a trace on those before, a penalty or an entropy bonus on all there are.
    """
    has_advantage = rows.advantages != 0
    if rows.corrections is not None:
        has_advantage &= rows.corrections != 0
    if (settings.kl_weight > 0 and settings.kl_in != "reward") or settings.entropy_bonus > 0:
        return np.ones_like(has_advantage)
    if settings.ratio == "token" and settings.trace == 0:
        return has_advantage
    owner = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    last = np.full(len(rows.lengths), -1, dtype=np.int64)
    np.maximum.at(last, owner[has_advantage], np.flatnonzero(has_advantage))
    if settings.ratio != "token":
        return np.asarray(last[owner] >= 0)
    return np.asarray(np.arange(len(owner)) <= last[owner])


def trimmed(rows: Rows, groups: Sequence[Group], is_wanted: NDArray[np.bool_]) -> list[Group]:
    """Return the groups with every completion up to its last wanted token; those in which nothing is wanted are left out."""
    found = []
    for group in groups:
        kept = []
        for index, ids in enumerate(group.completions):
            start = rows.starts[group.first + index]
            wanted = np.flatnonzero(is_wanted[start : start + len(ids)])
            kept.append(ids[: int(wanted[-1]) + 1] if len(wanted) else [])
        if any(kept):
            found.append(Group(group.prompt, kept, group.first))
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
    iterations: int = 1,
    dropout: bool = False,
    progress: Callable[[str, bool], None] | None = None,
) -> list[dict[str, float]]:
    """Train in place; return one dict of measures per step.

    Args:
        policy: loaded trainable.
        rows: the rollouts.
        training: the policy's weights and optimiser.
        checkpoint: where a cut-off run resumes.
        settings: section update.
        seed: root seed.
        iteration: from 1.
        iterations: of the whole training, for the learning rate's schedule.
        dropout: whether the adapter's dropout is on.
        progress: called for each step with a short note, and whether the step was done before a cut.

    In float16 gradients would vanish below 6e-8: the loss is scaled by a power of two, which falls where a gradient is too large for it.
    The step is then taken anew, so that none is lost, and a resumed run takes the same ones.

    Groups without any advantage take part in the denominators and are not run through the model, unless a penalty pulls on them.

    Raises:
        PolicyError: the sampler's log-probabilities are not those of this policy, or the loss is not finite.
    """
    plan = step_plan(len(rows.groups), settings, seed, iteration)
    finished, notes = checkpoint.restore(training)
    steps: list[dict[str, float]] = notes.get("steps", [])
    scale = FIRST_SCALE if settings.precision == "float16" else 1.0
    scale = steps[-1].get("loss_scale", scale) if steps else scale
    policy.model.train(dropout)
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    for measures in steps:
        if progress:
            progress(_note(measures), True)
    for step in range(finished, len(plan)):
        groups = [rows.groups[index] for index in plan[step]]
        is_first = not any(measures["tokens"] for measures in steps)  # steps without advantages leave the weights as they were
        apart = _mismatches(policy, rows, groups, settings) if is_first and dropout else None
        while True:
            with seeded_dropout(seed, f"update dropout/{iteration}/{step}", dropout):
                measures = accumulate(policy, rows, groups, settings, is_first=is_first and not dropout, scale=scale)
            if scale == 1.0 or training.unscale(scale):
                break
            scale /= SCALE_STEP
        if settings.precision == "float16":
            measures["loss_scale"] = scale
        if apart is not None:
            measures |= apart
        if is_first and measures["logprob_mismatch"] > settings.max_logprob_mismatch:
            raise PolicyError(
                f"iteration {iteration}",
                "the sampler's log-probabilities are not those of the policy that is trained",
                found=f"largest difference {measures['logprob_mismatch']:.3g}",
                expected=f"at most update.max_logprob_mismatch = {settings.max_logprob_mismatch:g}",
                remedy=f"run `ospo rollout --iter {iteration}` again with the same policy and rollout.temperature",
            )
        rate = learning_rate_at(training.finished_steps, (iteration - 1 + step / len(plan)) / max(iterations, iteration), settings)
        measures["learning_rate"] = rate
        measures["gradient_norm"] = training.step(rate) if measures["tokens"] else 0.0
        steps.append(measures)
        checkpoint.offer(training, step + 1, {"steps": steps})
        if progress:
            progress(_note(measures), False)
    policy.model.eval()
    return steps


def _mismatches(policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update) -> dict[str, float]:
    """Return how far the sampler's log-probabilities are from the policy's without dropout, on a step's groups."""
    some = replace(rows, groups=list(groups))
    places = some.tokens_of(some.groups)
    found = np.abs(_without_dropout(policy, some, settings) - rows.behavior_logprobs)[places]
    return {"logprob_mismatch": float(found.max(initial=0.0)), "logprob_mismatch_mean": _mean(found)}


def _without_dropout(policy: LoadedPolicy, rows: Rows, settings: Update) -> NDArray[np.float32]:
    """Return `logprobs_of` the policy with its dropout off; afterwards it is as it was."""
    was_training = policy.model.training
    policy.model.eval()
    found = logprobs_of(policy, rows, settings.tokens_per_micro_batch, settings.precision)
    policy.model.train(was_training)
    if settings.gradient_checkpointing:
        checkpoint_layers(policy)
    return found


def step_weights(
    policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """Return [tokens] weights of an optimiser step over some groups, 0 elsewhere, and what objective dpo measures besides.

    Preferences need each completion's likelihood first, which is a forward pass of its own; dropout is off in it.
    """
    step_rows = np.array([row for group in groups for row in range(group.first, group.first + len(group.completions))], dtype=np.int64)
    weights = np.zeros(len(rows.advantages))
    if settings.objective == "policy-gradient":
        weights[rows.tokens_of(groups)] = token_weights(rows.lengths[step_rows], settings.aggregation, rows.max_new_tokens)
        return weights, {}
    owner = np.repeat(np.arange(len(rows.lengths)), rows.lengths)
    is_used = np.bincount(owner, weights=rows.advantages, minlength=len(rows.lengths)) > 0
    if settings.objective == "sft":
        weights[rows.tokens_of(groups)] = imitation_weights(
            rows.lengths[step_rows].tolist(), is_used[step_rows].tolist(), settings.aggregation, rows.max_new_tokens
        )
        return weights, {}
    assert rows.pairs is not None
    paired = replace(rows, groups=trimmed(rows, groups, rows.advantages != 0))
    reference = rows.behavior_logprobs if rows.reference_logprobs is None else rows.reference_logprobs
    differences = np.where(is_used[owner], _without_dropout(policy, paired, settings).astype(np.float64) - reference, 0.0)
    log_ratios = np.bincount(owner, weights=differences, minlength=len(rows.lengths))
    by_row, measures = preference_weights(log_ratios, rows.pairs[np.isin(rows.pairs[:, 0], step_rows)], settings.dpo_beta)
    return by_row[owner], measures


def accumulate(
    policy: LoadedPolicy, rows: Rows, groups: Sequence[Group], settings: Update, is_first: bool = False, scale: float = 1.0
) -> dict[str, float]:
    """Add the gradient of one optimiser step over some groups, times `scale`; return its measures.

    Cutting into micro-batches changes rounding alone.
    """
    weights, preference = step_weights(policy, rows, groups, settings)
    is_wanted = wanted_tokens(rows, settings)
    taken = trimmed(rows, groups, is_wanted)
    needs_rows = settings.trace > 0 or settings.ratio != "token"
    old = rows.behavior_logprobs if rows.old_logprobs is None else rows.old_logprobs
    seen: dict[str, list[Any]] = {name: [] for name in ("ratio", "clipped", "penalty", "behavior_kl", "entropy", "advantage", "mismatch")}
    losses: dict[str, list[float]] = {name: [] for name in ("loss", "policy", "kl", "entropy")}
    tokens_in_all = filling = 0

    def device(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(policy.device)

    for part in token_batches.micro_batches(arranged(taken), settings.tokens_per_micro_batch):
        places = rows.tokens_of(part)
        batch = token_batches.build(part, policy.pad_token_id, policy.device).only(is_wanted[places])
        tokens_in_all += batch.tokens_in_all
        filling += batch.tokens_in_all - sum(group.width for group in part)
        lengths = [int(is_wanted[rows.tokens_of([single])].sum()) for group in part for single in group.apart()] if needs_rows else None
        places = places[is_wanted[places]]
        with arithmetic(policy, settings.precision):
            logprobs, entropies = token_logprobs(
                policy.model, batch, rows.temperature, want_entropy=True, entropy_has_gradient=settings.entropy_bonus > 0
            )
        behavior = device(rows.behavior_logprobs[places])
        reference = device(rows.reference_logprobs[places]) if rows.reference_logprobs is not None else None
        if settings.objective == "policy-gradient":
            result = clipped_loss(
                logprobs,
                behavior if rows.old_logprobs is None else device(old[places]),
                device(rows.advantages[places]),
                device(weights[places]),
                settings.clip_low,
                settings.clip_high,
                reference,
                settings.kl_weight,
                settings.trace,
                lengths,
                dual_clip=settings.dual_clip,
                ratio=settings.ratio,
                kl=settings.kl,
                is_kl_weighted=settings.kl_in == "weighted-loss",
                entropies=entropies,
                entropy_bonus=settings.entropy_bonus,
                correction=device(rows.corrections[places]) if rows.corrections is not None else None,
            )
        else:
            result = weighted_likelihood(logprobs, behavior, device(weights[places]), reference)
        loss = float(result.loss.detach())
        if not math.isfinite(loss):
            raise PolicyError(
                f"rollouts {part[0].first} to {part[-1].first}", "the loss is not finite", found=loss, remedy="lower update.learning_rate"
            )
        (result.loss if scale == 1.0 else result.loss * scale).backward()
        detached = logprobs.detach()
        losses["loss"].append(loss)
        for name, value in result.parts.items():
            losses[name].append(float(value))
        seen["ratio"].append(result.ratios.cpu().numpy())
        seen["clipped"].append(result.is_clipped.cpu().numpy())
        seen["penalty"].append(result.penalties.cpu().numpy())
        seen["behavior_kl"].append(k3(behavior, detached).cpu().numpy())
        seen["entropy"].append(entropies.detach().cpu().numpy() if entropies is not None else np.zeros(0))
        seen["advantage"].append(rows.advantages[places])
        seen["mismatch"].append(np.abs(detached.cpu().numpy() - rows.behavior_logprobs[places]))
    measures: dict[str, float] = {
        "loss": float(sum(losses["loss"])),
        **{f"{name}_loss": float(sum(losses[name])) for name in ("policy", "kl", "entropy")},
        "groups": len(groups),
        "groups_used": len(taken),
        "tokens_with_prompts": tokens_in_all,
        "filling": filling,
    }
    if "loss" in preference:  # the surrogate's value says nothing
        measures |= preference | {"policy_loss": preference["loss"]}
    return measures | _measures(seen, is_first)


MEASURES = (
    *("clipped_fraction", "clipped_fraction_positive", "clipped_fraction_negative", "behavior_kl", "reference_kl", "entropy"),
    *("logprob_mismatch", "logprob_mismatch_mean"),
)


def _measures(seen: dict[str, list[Any]], is_first: bool) -> dict[str, float]:
    if not seen["ratio"]:
        return dict.fromkeys(MEASURES, 0.0) | {"tokens": 0, "effective_share": 1.0}
    ratio, clipped, advantage, mismatch = (np.concatenate(seen[name]) for name in ("ratio", "clipped", "advantage", "mismatch"))
    measures = {
        "tokens": len(ratio),
        "clipped_fraction": float(clipped.mean()),
        "clipped_fraction_positive": _mean(clipped[advantage > 0]),
        "clipped_fraction_negative": _mean(clipped[advantage < 0]),
        "behavior_kl": _mean(np.concatenate(seen["behavior_kl"])),
        "reference_kl": _mean(np.concatenate(seen["penalty"])),
        "entropy": _mean(np.concatenate(seen["entropy"])),
        # Dropout, or steps already done, make later differences a matter of training.
        "logprob_mismatch": float(mismatch.max()) if is_first else 0.0,
        "logprob_mismatch_mean": _mean(mismatch) if is_first else 0.0,
        "effective_share": effective_share(ratio),
        "ratio_max": float(ratio.max()),
    }
    for name, quantile in (("ratio_01", 0.01), ("ratio_50", 0.5), ("ratio_99", 0.99)):
        measures[name] = float(np.quantile(ratio, quantile))
    return measures


def effective_share(weights: NDArray[Any]) -> float:
    """Return (Σ w)² / (n Σ w²), the effective sample size of importance weights as a share of their number: 1 where all are equal.

    >>> round(effective_share(np.array([1.0, 1.0, 4.0])), 3)
    0.667
    """
    exact = np.asarray(weights, dtype=np.float64)
    square = float((exact**2).sum())
    return float(exact.sum()) ** 2 / (len(exact) * square) if square > 0 else 0.0


def learning_rate_at(finished_steps: int, progress: float, settings: Update) -> float:
    """Return the learning rate of an optimiser step.

    Args:
        finished_steps: steps since the moments began, those of earlier iterations included: it rises over `warmup_steps` of them.
        progress: share of all iterations that is done, which the schedule goes by; cosine and linear fall to 0.
        settings: section update.
    """
    rate = settings.learning_rate
    if finished_steps < settings.warmup_steps:
        return rate * (finished_steps + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "cosine":
        return rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return rate * (1.0 - progress) if settings.schedule == "linear" else rate


def step_plan(groups: int, settings: Update, seed: int, iteration: int) -> list[NDArray[np.int64]]:
    """Return the groups of each optimiser step: every epoch a permutation of its own, cut into steps of like size."""
    plan: list[NDArray[np.int64]] = []
    for epoch in range(settings.epochs):
        order = seeding.generator(seed, f"update/{iteration}/epoch {epoch}").permutation(groups)
        plan.extend(np.array_split(order, max(1, math.ceil(groups / settings.groups_per_step))))
    return plan


def arranged(groups: Sequence[Group]) -> list[Group]:
    """Return the groups as the forward passes take them: packed behind one prompt where that pays, else one row per completion."""
    filled = [group for group in groups if group.tokens]
    if not filled or token_batches.packing_pays(filled):
        return list(filled)
    return [single for group in filled for single in group.apart() if single.tokens]


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else 0.0


def _note(measures: dict[str, float]) -> str:
    return f"loss {measures['loss']:+.4f}, entropy {measures['entropy']:.2f}"

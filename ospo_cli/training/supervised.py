"""Supervised training on (prompt, completion) pairs: batches of like length, loss on the completion alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from ospo_cli.training.training_state import Checkpoint, Training

BATCHES_PER_BUCKET = 16


def batches(widths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the pairs of each step: epochs of a permutation, cut into buckets, sorted by width within a bucket, batches then mixed.

    Like widths share a batch (little filling), and which pairs meet still changes from epoch to epoch.
    """
    count = len(widths)
    size = min(batch_size, count)
    found: list[NDArray[np.int64]] = []
    epoch = 0
    while len(found) < steps:
        generator = seeding.generator(seed, f"supervised/epoch {epoch}")
        order = generator.permutation(count)
        order = order[: count // size * size]  # a short last batch would weigh its pairs more
        cut: list[NDArray[np.int64]] = []
        for start in range(0, len(order), size * BATCHES_PER_BUCKET):
            bucket = order[start : start + size * BATCHES_PER_BUCKET]
            bucket = bucket[np.lexsort((bucket, np.asarray(widths)[bucket]))]
            cut.extend(bucket[at : at + size] for at in range(0, len(bucket), size))
        found.extend(cut[index] for index in generator.permutation(len(cut)))
        epoch += 1
    return found[:steps]


def learning_rate_at(step: int, steps: int, peak: float, schedule: str, warmup_steps: int) -> float:
    """Return the learning rate of a step (from 0): linear rise over `warmup_steps`, then cosine or linear fall to 0, or constant."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (1.0 - done) if schedule == "linear" else peak


def train(
    policy: LoadedPolicy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    training: Training,
    checkpoint: Checkpoint,
    *,
    steps: int,
    batch_size: int,
    peak: float,
    schedule: str,
    warmup_steps: int,
    dropout: bool,
    seed: int,
    progress: Callable[[str, bool], None] | None = None,
) -> dict[str, list[float]]:
    """Train in place; return the curves: loss per completion token in nats, share of tokens predicted, gradient norm.

    Args:
        policy: loaded trainable.
        pairs: token ids of prompt and completion (end token included).
        training: the policy's weights and optimiser.
        checkpoint: where a cut-off run resumes.
        dropout: whether the adapter's dropout is on.
        progress: called for each step with a short note, and whether the step was done before a cut.
    """
    finished, notes = checkpoint.restore(training)
    curves: dict[str, list[float]] = notes.get("curves", {"loss": [], "gradient_norm": [], "learning_rate": []})
    plan = batches([len(prompt) + len(completion) for prompt, completion in pairs], batch_size, steps, seed)
    policy.model.train(dropout)
    for step in range(finished):
        if progress:
            progress(f"loss {curves['loss'][step]:.3f}", True)
    for step in range(finished, steps):
        groups = [Group(pairs[index][0], [pairs[index][1]]) for index in plan[step]]
        batch = token_batches.build(groups, policy.pad_token_id, policy.device)
        with seeded_dropout(seed, f"supervised dropout/{step}", dropout):
            logprobs, _ = token_logprobs(policy.model, batch, 1.0)
        loss = -logprobs.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PolicyError(
                f"step {step + 1} of the warm start", "the loss is not finite", found=value, remedy="lower warm_start.learning_rate"
            )
        loss.backward()
        rate = learning_rate_at(step, steps, peak, schedule, warmup_steps)
        norm = training.step(rate)
        for name, number in (("loss", value), ("gradient_norm", norm), ("learning_rate", rate)):
            curves[name].append(number)
        checkpoint.offer(training, step + 1, {"curves": curves})
        if progress:
            progress(f"loss {value:.3f}", False)
    policy.model.eval()
    return curves


class seeded_dropout:
    """Context manager: torch's global generator seeded for this step alone and put back; nothing at all where dropout is off."""

    def __init__(self, seed: int, row_id: str, is_on: bool) -> None:
        self.seed, self.row_id, self.is_on = seed, row_id, is_on

    def __enter__(self) -> None:
        if self.is_on:
            self.fork: Any = torch.random.fork_rng()
            self.fork.__enter__()
            torch.manual_seed(int(seeding.generator(self.seed, self.row_id).integers(1 << 62)))

    def __exit__(self, *trace: object) -> None:
        if self.is_on:
            self.fork.__exit__(*trace)

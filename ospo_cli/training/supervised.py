"""Supervised training on (prompt, completion) pairs: batches of like length, loss on the completion alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.executors import peers
from ospo_cli.maths import seeding
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from ospo_cli.training.training_state import Checkpoint, Run, Training

if TYPE_CHECKING:
    from ospo_cli.params.warm_start import WarmStart

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


def fallen(peak: float, done: float, schedule: str) -> float:
    """Return the learning rate at a share of the way: cosine and linear fall to 0, constant does not."""
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (1.0 - done) if schedule == "linear" else peak


def learning_rate_at(step: int, settings: WarmStart) -> float:
    """Return the learning rate of a step (from 0): linear rise over `warmup_steps`, then the fall of the schedule."""
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    return fallen(settings.learning_rate, (step - warmup) / max(settings.steps - warmup, 1), settings.schedule)


def train(
    policy: LoadedPolicy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    training: Training,
    checkpoint: Checkpoint,
    settings: WarmStart,
    run: Run,
    progress: Callable[[str, bool], None] = lambda note, was_done: None,
    look: Callable[[LoadedPolicy], dict[str, float]] | None = None,
) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Train in place; return the curves (loss per completion token in nats, gradient norm, learning rate) and the looks.

    Args:
        policy: loaded trainable.
        pairs: token ids of prompt and completion (end token included).
        training: the policy's weights and optimiser.
        checkpoint: where a cut-off run resumes.
        settings: section warm_start; all of its steps are taken, unless `patience` looks in a row raise no best of 8.
        run: seed and dropout.
        progress: called for each step with a short note, and whether the step was done before a cut.
        look: measures the policy every `look_every` steps and after the last.

    Raises:
        PolicyError: the loss is not finite.
    """
    finished, notes = checkpoint.restore(training)
    looks: list[dict[str, float]] = notes.get("looks", [])
    curves: dict[str, list[float]] = notes.get("curves", {"loss": [], "gradient_norm": [], "learning_rate": []})
    plan = batches([len(prompt) + len(completion) for prompt, completion in pairs], settings.batch_size, settings.steps, run.seed)
    policy.model.train(run.dropout)
    for step in range(finished):
        progress(f"loss {curves['loss'][step]:.3f}", True)
    for step in range(finished, settings.steps):
        if settings.patience and waited(looks) >= settings.patience:
            break
        groups = [Group(pairs[index][0], [pairs[index][1]]) for index in plan[step]]
        with seeded_dropout(run.seed, f"supervised dropout/{step}", run.dropout):
            value = _accumulate(policy, groups)
        training.add_up_gradients()
        if not math.isfinite(value):
            raise PolicyError(
                f"step {step + 1} of the warm start", "the loss is not finite", found=value, remedy="lower warm_start.learning_rate"
            )
        rate = learning_rate_at(step, settings)
        norm = training.step(rate)
        for name, number in (("loss", value), ("gradient_norm", norm), ("learning_rate", rate)):
            curves[name].append(number)
        if look and ((step + 1) % settings.look_every == 0 or step + 1 == settings.steps):
            looks.append({"step": step + 1} | look(policy))
            shown = (f"{name.replace('_', ' ')} {found:{',' if name == 'step' else '.3f'}}" for name, found in looks[-1].items())
            sys.stderr.write("warm-start: " + ", ".join(shown) + "\n")
        checkpoint.offer(training, step + 1, {"curves": curves, "looks": looks})
        progress(f"loss {value:.3f}", False)
    policy.model.eval()
    return curves, looks


def waited(looks: Sequence[dict[str, float]]) -> int:
    """Return how many looks there were since the first with the highest best of 8.

    >>> waited([{"best_of_8": value} for value in (0.2, 0.7, 0.6, 0.7)])
    2
    """
    values = [look["best_of_8"] for look in looks]
    return len(values) - 1 - values.index(max(values)) if values else 0


def _accumulate(policy: LoadedPolicy, groups: Sequence[Group]) -> float:
    """Add this process's part of the gradient of a step over some pairs; return the loss over all of them."""
    own = token_batches.dealt(groups, sum(group.width for group in groups), peers.count())[peers.rank()]
    value = torch.zeros(())
    if own or peers.cuts_weights():
        batch = token_batches.build(own, policy.pad_token_id, policy.device)
        logprobs, _ = token_logprobs(policy.model, batch, 1.0, unspelled=policy.unspelled)
        loss = -logprobs.sum() / sum(group.tokens for group in groups)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.detach().cpu()
    peers.add_up(value)
    return float(value)


class seeded_dropout:
    """Context manager: torch's global generator seeded for this step alone and put back; nothing at all where dropout is off.

    Each process draws masks of its own.
    """

    def __init__(self, seed: int, row_id: str, is_on: bool) -> None:
        self.seed, self.row_id, self.is_on = seed, row_id, is_on

    def __enter__(self) -> None:
        if self.is_on:
            self.fork: Any = torch.random.fork_rng()
            self.fork.__enter__()
            row_id = self.row_id if peers.is_first() else f"{self.row_id}/process {peers.rank()}"
            torch.manual_seed(int(seeding.generator(self.seed, row_id).integers(1 << 62)))

    def __exit__(self, *trace: object) -> None:
        if self.is_on:
            self.fork.__exit__(*trace)

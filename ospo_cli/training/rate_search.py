"""What learning rates gain on rollout groups that were not trained on: the update itself on one half of a batch, judged by the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ospo_cli.maths import seeding
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import forward, optimiser_steps, update_sizes
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.objectives.base import Objective
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.training_state import Checkpoint, Run, Training

MOST_JUDGED = 64  # rollout groups by which one training is judged


@dataclass(frozen=True)
class Search:
    """Learning rates, ascending, and the rollout groups of the iteration that they are for."""

    rates: Sequence[float]
    groups: int


def held_out_gains(
    policy: LoadedPolicy,
    rows: Rows,
    settings: Update,
    run: Run,
    moments: Path,
    search: Search,
    progress: Callable[[str], None] = lambda note: None,
) -> NDArray[np.float64]:
    """Return [rates, N] the gain of N rollout groups, each under a policy that was trained on others, at every rate.

    A group's gain is Σ w·(π/π_old − 1)·A over its tokens, without a clip: to first order the rise of what its advantages stand for. Two
    halves of an iteration are trained on by themselves, and each is judged by the other and by half of what is left of the batch.

    Args:
        policy: that sampled, with the weights that train; it is left as it was.
        rows: the batch, of two groups at least.
        settings: section update; its learning rate is not read.
        run: seed, iteration and dropout.
        moments: file of the optimiser's moments that training goes on from, if it is there.
        search: learning rates, and rollout groups of an iteration.
        progress: called with a note after each training.
    """
    objective = objective_of(settings)
    order = [rows.groups[at] for at in seeding.generator(run.seed, f"advise/{run.iteration}").permutation(len(rows.groups))]
    half = max(1, min(search.groups, len(order)) // 2)
    left = order[2 * half :]
    parts = ((order[:half], order[half : 2 * half] + left[::2]), (order[half : 2 * half], order[:half] + left[1::2]))
    start = update_sizes.copied(_weights(policy))
    found = []
    for trained, others in parts:
        judges = others[:MOST_JUDGED]
        gains = np.zeros((len(search.rates), len(judges)))
        for number, rate in enumerate(search.rates):
            training = Training(policy.model, settings.weight_decay, settings.max_gradient_norm)
            training.load_moments(moments)
            own = replace(rows, groups=sorted(trained, key=lambda group: group.first))
            optimiser_steps.train(
                policy, own, training, Checkpoint(moments.parent / "none", math.inf), replace(settings, learning_rate=rate), run
            )
            logprobs = forward.logprobs_without_dropout(policy, rows, judges, settings)
            gains[number] = [_gain(objective, rows, group, logprobs) for group in judges]
            with torch.no_grad():
                for name, weight in training.weights.items():
                    weight.copy_(start[name])
            progress(f"learning rate {rate:.2g}: {gains[number].mean():+.4f} on others")
        found.append(gains)
    return np.concatenate(found, axis=1)


def _weights(policy: LoadedPolicy) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}


def _gain(objective: Objective, rows: Rows, group: Group, logprobs: NDArray[np.float32]) -> float:
    places = rows.tokens_of([group])
    weights, _ = objective.weights(rows, [group], lambda some: logprobs)
    old = rows.behavior_logprobs if rows.old_logprobs is None else rows.old_logprobs
    ratios = np.expm1(logprobs[places].astype(np.float64) - old[places])
    return float((weights[places] * ratios * rows.advantages[places]).sum())

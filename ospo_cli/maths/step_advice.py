"""What a noise scale says about steps and batches: how much averaging pays, and how the learning rate goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Part of the rollouts that the advised step gives up for having fewer, less noisy steps: b/(b + B).
GIVEN_UP = 0.125
# Sizes are known to a standard error of a fifth at best: a change of less is none.
WORTH_CHANGING = 1.5


@dataclass(frozen=True)
class Noise:
    """Of one iteration's gradients, in rollout groups.

    Attributes:
        scale: B.
        error: its standard error.
        floor: B where every prompt's own gradient is exact; None: not measured.
    """

    scale: float
    error: float
    floor: float | None


@dataclass(frozen=True)
class Training:
    """How rollouts are spent: rollout groups per step and per iteration, iterations, epochs, learning rate."""

    groups_per_step: int
    groups: int
    iterations: int
    epochs: int
    learning_rate: float


def steps_over_exact(groups: float, scale: float) -> float:
    """Return 1 + B/b: steps of b groups for the progress of one exact step.

    Source: McCandlish et al., "An empirical model of large-batch training", 2018, equation 2.11.

    >>> steps_over_exact(100, 100)
    2.0
    """
    return 1.0 + scale / groups


def rollouts_over_least(groups: float, scale: float) -> float:
    """Return 1 + b/B: rollouts that steps of b groups take for the same progress, over those of the smallest steps.

    >>> rollouts_over_least(100, 100)
    2.0
    """
    return 1.0 + groups / scale


def learning_rate_for(groups: int, known_groups: int, known_rate: float) -> float:
    """Return AdamW's learning rate for steps of `groups`, where one is known for steps of `known_groups`: by the square root of the ratio.

    Where noise rules a step, Adam divides by its deviation, which falls with the root of the batch; then equal rollouts move the weights
    equally far, and as noisily.

    Source: Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms", 2022.

    >>> learning_rate_for(4, 16, 5e-4)
    0.00025
    """
    return known_rate * math.sqrt(groups / known_groups)


def advised(noise: Noise, now: Training) -> Training:
    """Return the settings to try, at the same number of rollouts in all; those that are within `WORTH_CHANGING` of it stay.

    A step has as many groups as give up `GIVEN_UP` of the rollouts, a power of two. An iteration has about B of them: its mean gradient
    then has as much signal as noise, and more rollouts of the same policy say less than those of a better one. More epochs repeat the same
    noise, which pays only where an iteration has clearly more than B groups.
    """
    wanted_step = noise.scale * GIVEN_UP / (1.0 - GIVEN_UP)
    groups_per_step = 2 ** max(0, round(math.log2(max(wanted_step, 1.0))))
    if _is_near(now.groups_per_step, wanted_step):
        groups_per_step = now.groups_per_step
    groups = max(groups_per_step, groups_per_step * round(noise.scale / groups_per_step))
    if _is_near(now.groups, noise.scale) or now.groups < groups:
        groups = now.groups
    iterations = max(1, round(now.groups * now.iterations / groups))
    epochs = now.epochs if groups > 2 * noise.scale else 1
    rate = learning_rate_for(groups_per_step, now.groups_per_step, now.learning_rate)
    return Training(min(groups_per_step, groups), groups, iterations, epochs, rate)


def _is_near(value: float, wanted: float) -> bool:
    return wanted / WORTH_CHANGING <= value <= wanted * WORTH_CHANGING

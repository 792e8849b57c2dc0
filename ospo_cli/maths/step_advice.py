"""What a noise scale says about steps and batches: how much averaging pays, and how the learning rate goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ospo_cli.maths.gradient_noise import SIGNAL_AT, estimate, means

# Part of the rollouts that the advised step gives up for having fewer, less noisy steps: b/(b + B).
GIVEN_UP = 0.125
# Sizes are known to a standard error of a fifth at best: a change of less is none.
WORTH_CHANGING = 1.5
# Of an iteration: a rate that is found on half of it is that of a training, not of one step. (On a dial of the demo one step of 16 of 24
# groups was advised with 2e-3, and sixteen such iterations ended .13 below the grid's rates.)
FEWEST_STEPS = 4
# Part of the proportional gain that a move of the advised length still has: half of a parabola's best length.
KEPT = 0.75


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
    noise, which pays only where an iteration has clearly more than B groups. An iteration has at least `FEWEST_STEPS` steps.
    """
    wanted_step = noise.scale * GIVEN_UP / (1.0 - GIVEN_UP)
    groups_per_step = 2 ** max(0, round(math.log2(max(wanted_step, 1.0))))
    if _is_near(now.groups_per_step, wanted_step):
        groups_per_step = now.groups_per_step
    groups = max(groups_per_step, groups_per_step * round(noise.scale / groups_per_step))
    if _is_near(now.groups, noise.scale) or now.groups < groups:
        groups = now.groups
    most = max(1, groups // FEWEST_STEPS)
    if groups_per_step > most:
        groups_per_step = 2 ** int(math.log2(most))
    iterations = max(1, round(now.groups * now.iterations / groups))
    epochs = now.epochs if groups > 2 * noise.scale else 1
    rate = learning_rate_for(groups_per_step, now.groups_per_step, now.learning_rate)
    return Training(min(groups_per_step, groups), groups, iterations, epochs, rate)


@dataclass(frozen=True)
class Rate:
    """A learning rate found on held-out rollout groups.

    Attributes:
        value: it; the end of the range where it lies beyond.
        factor: value times and divided by this is one standard error, of the held-out groups alone.
        is_inside: whether it lies within the range that was measured.
        kept: [rates] gain at each rate over what it would be if gains grew with the rate.
    """

    value: float
    factor: float
    is_inside: bool
    kept: NDArray[np.float64]


def proportional_rate(rates: Sequence[float], gains: NDArray[np.float64]) -> Rate | None:
    """Return the rate at which a move gains KEPT of what its length promises; None where no gain is shown.

    A move of length η gains a·η − c·η²/2 on other prompts, the square being curvature and fitted noise: best is η* = a/c, which has half of
    a·η. It is measured on half of a batch; a whole one takes twice the steps. If they all go the same way, η*/2 is best for it and η* gains
    nothing; if they are noise, η* is best and η*/2 gains three quarters of that. So η*/2 is advised: there a move has KEPT of a·η.

    Source: McCandlish et al., "An empirical model of large-batch training", 2018, equations 2.5 to 2.8 (the parabola and its noise).

    Args:
        rates: ascending, at least three; gains at the first two tell a.
        gains: [rates, N] of N ≥ 3 held-out rollout groups.

    >>> rates = [1.0, 2.0, 4.0, 8.0]
    >>> found = proportional_rate(rates, np.outer([10 * rate - rate**2 / 2 for rate in rates], [1.0, 1.1, 0.9]))
    >>> round(found.value, 1), found.is_inside  # η* = 10
    (4.8, True)
    """
    steps = np.asarray(rates, dtype=np.float64)[:, None]
    slopes = np.stack([means(of_rate) for of_rate in gains]) / steps
    first = slopes[0] + (slopes[0] - slopes[1]) * rates[0] / (rates[1] - rates[0])
    value, error = estimate(first)
    if not value > SIGNAL_AT * error:
        return None
    kept = slopes / first
    crossings = np.array([_crossing(np.log(steps[:, 0]), column) for column in kept.T])
    log_rate, log_error = estimate(crossings)
    is_inside = bool(kept[0, 0] >= KEPT > kept[:, 0].min())
    return Rate(math.exp(log_rate), math.exp(log_error), is_inside, kept[:, 0])


def _crossing(logs: NDArray[np.float64], kept: NDArray[np.float64]) -> float:
    """Return where `kept` first falls below KEPT, between neighbours by straight lines; the ends where it lies beyond them."""
    below = np.flatnonzero(kept < KEPT)
    if not len(below) or below[0] == 0:
        return float(logs[0] if len(below) else logs[-1])
    at = below[0]
    return float(logs[at - 1] + (logs[at] - logs[at - 1]) * (kept[at - 1] - KEPT) / (kept[at - 1] - kept[at]))


def _is_near(value: float, wanted: float) -> bool:
    return wanted / WORTH_CHANGING <= value <= wanted * WORTH_CHANGING

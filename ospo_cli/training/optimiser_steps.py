"""The optimiser steps of an iteration: which groups each takes, its learning rate, and how a cut-off run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import PolicyError
from ospo_cli.maths import seeding
from ospo_cli.params.update import Update
from ospo_cli.policies.folder import LoadedPolicy
from ospo_cli.training import forward, gradient_step
from ospo_cli.training.rows import Rows
from ospo_cli.training.supervised import fallen, seeded_dropout
from ospo_cli.training.training_state import Checkpoint, Run, Training

# The loss's factor in float16, and what it is divided by where a gradient overflows: powers of two, which change no bit of a sum.
FIRST_SCALE, SCALE_STEP = 65536.0, 4.0


def train(
    policy: LoadedPolicy,
    rows: Rows,
    training: Training,
    checkpoint: Checkpoint,
    settings: Update,
    run: Run,
    progress: Callable[[str, bool], None] = lambda note, was_done: None,
) -> list[dict[str, float]]:
    """Train in place; return one dict of measures per step.

    Args:
        policy: loaded trainable.
        rows: the rollouts.
        training: the policy's weights and optimiser.
        checkpoint: where a cut-off run resumes.
        settings: section update.
        run: seed, iteration and dropout.
        progress: called for each step with a short note, and whether the step was done before a cut.

    Raises:
        PolicyError: the sampler's log-probabilities are not those of this policy, or the loss is not finite.
    """
    plan = step_plan(len(rows.groups), settings, run.seed, run.iteration)
    finished, notes = checkpoint.restore(training)
    steps: list[dict[str, float]] = notes.get("steps", [])
    policy.model.train(run.dropout)
    if settings.gradient_checkpointing:
        forward.checkpoint_layers(policy)
    for measures in steps:
        progress(_note(measures), True)
    for step in range(finished, len(plan)):
        measures = _with_gradient(policy, rows, training, settings, run, plan[step], steps)
        done = (run.iteration - 1 + step / len(plan)) / max(run.iterations, run.iteration)
        rate = learning_rate_at(training.finished_steps, done, settings)
        measures["learning_rate"] = rate
        measures["gradient_norm"] = training.step(rate) if measures["tokens"] else 0.0
        steps.append(measures)
        checkpoint.offer(training, step + 1, {"steps": steps})
        progress(_note(measures), False)
    policy.model.eval()
    return steps


def _with_gradient(
    policy: LoadedPolicy,
    rows: Rows,
    training: Training,
    settings: Update,
    run: Run,
    chosen: NDArray[np.int64],
    steps: list[dict[str, float]],
) -> dict[str, float]:
    """Leave the gradient of the chosen groups in the weights, after `steps`; return its measures.

    In float16 gradients would vanish below 6e-8: the loss is scaled by a power of two, which falls where a gradient is too large for it.
    The step is then taken anew, so that none is lost, and a resumed run takes the same ones.
    """
    groups = [rows.groups[index] for index in chosen]
    is_first = not any(measures["tokens"] for measures in steps)  # steps without advantages leave the weights as they were
    apart = gradient_step.mismatches(policy, rows, groups, settings) if is_first and run.dropout else {}
    scale = FIRST_SCALE if settings.precision == "float16" else 1.0
    scale = steps[-1].get("loss_scale", scale) if steps else scale
    while True:
        with seeded_dropout(run.seed, f"update dropout/{run.iteration}/{len(steps)}", run.dropout):
            measures = gradient_step.accumulate(policy, rows, groups, settings, is_first=is_first and not run.dropout, scale=scale)
        training.add_up_gradients()
        if scale == 1.0 or training.unscale(scale):
            break
        scale /= SCALE_STEP
    if settings.precision == "float16":
        measures["loss_scale"] = scale
    measures |= apart
    if is_first and measures["logprob_mismatch"] > settings.max_logprob_mismatch:
        raise PolicyError(
            f"iteration {run.iteration}",
            "the sampler's log-probabilities are not those of the policy that is trained",
            found=f"largest difference {measures['logprob_mismatch']:.3g}",
            expected=f"at most update.max_logprob_mismatch = {settings.max_logprob_mismatch:g}",
            remedy=f"run `ospo rollout --iter {run.iteration}` again with the same policy and rollout.temperature",
        )
    return measures


def learning_rate_at(finished_steps: int, progress: float, settings: Update) -> float:
    """Return the learning rate of an optimiser step.

    Args:
        finished_steps: steps since the moments began, those of earlier iterations included: it rises over `warmup_steps` of them.
        progress: share of all iterations that is done, which the schedule goes by; cosine and linear fall to 0.
        settings: section update.
    """
    if finished_steps < settings.warmup_steps:
        return settings.learning_rate * (finished_steps + 1) / (settings.warmup_steps + 1)
    return fallen(settings.learning_rate, progress, settings.schedule)


def step_plan(groups: int, settings: Update, seed: int, iteration: int) -> list[NDArray[np.int64]]:
    """Return the groups of each optimiser step: every epoch a permutation of its own, cut into steps of like size."""
    plan: list[NDArray[np.int64]] = []
    for epoch in range(settings.epochs):
        order = seeding.generator(seed, f"update/{iteration}/epoch {epoch}").permutation(groups)
        plan.extend(np.array_split(order, max(1, math.ceil(groups / settings.groups_per_step))))
    return plan


def _note(measures: dict[str, float]) -> str:
    return f"loss {measures['loss']:+.4f}, entropy {measures['entropy']:.2f}"

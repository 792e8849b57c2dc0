"""Outcomes whose truth is known, and a file of two methods on a miniature."""

import numpy as np
import polars as pl

from ospo_cli import presets
from ospo_cli.instruments.experiment.outcomes import Outcome
from ospo_cli.instruments.experiment.plan import Doors, Training
from tests.pipeline.miniature import SMALL

DOORS = Doors(presets.load, presets.algorithm_row)


def outcome(training: Training, curve, final, own_prompts=True, prompts=40, tokens=1000) -> Outcome:
    """Return an outcome: mean reward per iteration, and the last policy's value on every prompt (raw query .1, oracle 1)."""
    names = [f"p{training.seed if own_prompts else 0}-{index:03d}" for index in range(prompts)]
    cells = {
        ("raw query", "none"): np.full(prompts, 0.1) + (training.seed if own_prompts else 0) * 1e-3,
        ("oracle", "none"): np.ones(prompts),
        ("warm start", "greedy"): np.full(prompts, 0.4),
        ("warm start", "sampled"): np.full(prompts, 0.3),
        ("final", "greedy"): np.broadcast_to(final, prompts),
        ("final", "sampled"): np.broadcast_to(final, prompts) - 0.1,
    }
    own = {"task": training.task, "method": training.method, "learning_rate": training.rate, "seed": training.seed}
    rows = [
        own | {"system": system, "decoding": decoding, "prompt_id": name, "value": float(value)}
        for (system, decoding), values in cells.items()
        for name, value in zip(names, values, strict=True)
    ]
    steps = [
        own | {"iteration": place, "tokens": tokens, "reward_calls": 100, "cpu_seconds": 2.0, "mean_reward": float(reward), "entropy": 0.5}
        for place, reward in enumerate(curve, 1)
    ]
    return Outcome(pl.DataFrame(rows), pl.DataFrame(steps, schema_overrides={"iteration": pl.Int32}))


def small_params(**more):
    """Return the miniature's parameters by dotted name."""
    return {f"{section}.{name}": value for section, values in SMALL.items() for name, value in values.items()} | more

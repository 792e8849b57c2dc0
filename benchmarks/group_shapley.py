"""Exact Shapley values of the group game in the lab's games, beside splice and swap: noise scale, direction, progress of 16 groups.

    python benchmarks/group_shapley.py [--segments 4 8] [--seeds 300]

The game of an answer g: w(S) is the mean over the other answers h of v(g at the places in S, h at the others); its Shapley values sum to
the leave-one-out advantage. All answers of the lab have as many places, so that places go by index. Rollout groups of 8.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ospo_cli.instruments.lab.gradient_noise import of_games
from ospo_cli.instruments.lab.gradient_quality import INTERACTIONS, Condition, Draw, draw
from ospo_cli.maths import gradient_noise as noise
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.coalitions import powerset
from ospo_cli.maths.shapley import exact_shapley

GROUP_SIZE, GROUPS = 8, 16


def shares(drawn: Draw) -> NDArray[np.float64]:
    """Return [seeds, G, n] exact Shapley values of every answer's game, from all 2^n coalitions."""
    seeds, group_size, n = drawn.words.shape
    value, others = INTERACTIONS[drawn.condition.interaction].value, (1.0 - np.eye(group_size)) / (group_size - 1)
    shape, masks = (seeds, group_size, group_size, n), powerset(n)
    own, other = np.broadcast_to(drawn.words[:, :, None], shape), np.broadcast_to(drawn.words[:, None], shape)
    worth = [(value(np.where(mask, own, other), drawn.weights[:, None, None]) * others).sum(axis=-1) for mask in masks]
    values = np.stack(worth, axis=-1).reshape(seeds * group_size, len(masks))
    return np.asarray(exact_shapley(masks, values).reshape(seeds, group_size, n))


def gradients(drawn: Draw) -> NDArray[np.float64]:
    """Return [seeds, n] gradients of the rollout groups, divided by their deviation as those of the other games."""
    seeds, group_size, _ = drawn.words.shape
    rewards = INTERACTIONS[drawn.condition.interaction].value(drawn.words, drawn.weights[:, None])
    own = group_advantages(rewards.ravel(), np.repeat(np.arange(seeds), group_size), "std")
    scale = np.where(own.is_degenerate, np.inf, own.scale).reshape(seeds, group_size, 1)
    return np.asarray((shares(drawn) / scale * (drawn.words - drawn.chance[:, None])).mean(axis=1))


def measured(condition: Condition, seeds: int) -> dict[str, tuple[float, float, float]]:
    """Return method -> noise scale, direction prompt by prompt, progress."""
    both, sets = draw(replace(condition, group_size=2 * condition.group_size), seeds, 0), []
    for number in range(2):
        part = slice(number * condition.group_size, (number + 1) * condition.group_size)
        drawn = replace(both, condition=condition, words=both.words[:, part], reward_noise=both.reward_noise[:, part], seed=number)
        sets.append({name: found for (name, _), found in of_games(drawn).items()} | {"group Shapley": gradients(drawn)})
    exact = INTERACTIONS[condition.interaction].gradient(both.chance, both.weights)
    true, found = noise.of_groups(exact[None]), {}
    for method in sets[0]:
        halves = np.stack([each[method] for each in sets])
        own = noise.of_groups(halves)
        measures = (noise.noise_scale(own), noise.direction_by_prompt(halves, exact), noise.progress(own, true, GROUPS))
        found[method] = tuple(float(measure[0]) for measure in measures)
    return found  # type: ignore[return-value]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--seeds", type=int, default=300)
    arguments = parser.parse_args()
    for interaction in INTERACTIONS:
        for n in arguments.segments:
            for name, row in measured(Condition(interaction, n, GROUP_SIZE), arguments.seeds).items():
                print(f"{interaction:<12} n = {n:<3} {name:<14} B {row[0]:.2f}  direction {row[1]:.3f}  progress@{GROUPS} {row[2]:.3f}")

"""Noise scale, direction and floor of rules and group games where the true gradient is known: prompts that share a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.instruments.lab.gradient_quality import INTERACTIONS, Condition, Draw, draw, gradients, shares
from ospo_cli.maths import gradient_noise
from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.estimators import ESTIMATORS
from ospo_cli.maths.gradient_noise import Gradients
from ospo_cli.maths.group_credit import group_credit
from ospo_cli.maths.group_game import SPLICE, SWAP
from ospo_cli.maths.redistribution import NO_RULE, Rule, Settings

Values = NDArray[np.float64]

TRACES = (1.0, 0.5, 0.0)
GROUPS = 16  # of the step whose progress is shown
_CELLS = 4_000_000  # words of spliced answers held at once; bounds memory, changes no result


def measured(
    condition: Condition, seeds: int, seed: int, rules: Mapping[str, Rule], settings: Settings, estimator: str
) -> Iterator[dict[str, Any]]:
    """Yield a row of table lab_noise for every rule and group game.

    The prompts (one per seed) have chances and weights of their own, and one policy: a logit for each word, the same for all prompts, is
    what is trained. So the true gradient is the mean over prompts of the exact ones, and the noise between prompts is theirs.
    Every prompt gives two independent rollout groups.

    Args:
        condition: without noise of the values.
        seeds: prompts.
        seed: root of the draws.
        rules: by name.
        settings: of the rules.
        estimator: of the shares that the rules read.
    """
    both = draw(replace(condition, group_size=2 * condition.group_size), seeds, seed)
    sets: list[dict[tuple[str, str], Values]] = []
    for number in range(2):
        part = slice(number * condition.group_size, (number + 1) * condition.group_size)
        drawn = replace(both, condition=condition, words=both.words[:, part], reward_noise=both.reward_noise[:, part], seed=seed + number)
        of_rules = gradients(drawn, shares(drawn, ESTIMATORS[estimator]), rules, settings)
        sets.append({(estimator, name): found for name, found in of_rules.items()} | of_games(drawn))
    exact = INTERACTIONS[condition.interaction].gradient(both.chance, both.weights)
    true = gradient_noise.of_groups(exact[None])
    known = gradient_noise.floor(np.stack([exact, exact]))
    for method in sets[0]:
        halves = np.stack([found[method] for found in sets])
        own = gradient_noise.of_groups(halves)
        row = {
            "interaction": condition.interaction,
            "segments": condition.n,
            "group_size": condition.group_size,
            "estimator": method[0],
            "rule": method[1],
            "seeds": seeds,
            "true_floor": float(known[0]),
        }
        yield row | _told(own, true, halves, exact)


def of_games(drawn: Draw, normalize: str = "std") -> dict[tuple[str, str], Values]:
    """Return [seeds, n] gradients of splice under each λ and of swap; all places are of one length, so that places go by index."""
    seeds, group_size, n = drawn.words.shape
    spliced, swapped = baselines(drawn)
    rewards = INTERACTIONS[drawn.condition.interaction].value(drawn.words, drawn.weights[:, None])
    own = group_advantages(rewards.ravel(), np.repeat(np.arange(seeds), group_size), normalize)
    score = drawn.words - drawn.chance[:, None]
    games = [(f"{SPLICE}({trace:g})", SPLICE, spliced, trace) for trace in TRACES] + [(SWAP, SWAP, swapped, 0.0)]
    found = {}
    for name, game, values, trace in games:
        credit = group_credit(game, values.reshape(-1), np.full(seeds * group_size, n), rewards.ravel(), trace)
        advantage = credit.advantage.reshape(seeds * group_size, n) / own.scale[:, None]
        advantage[own.is_degenerate] = 0.0
        found[name, NO_RULE] = (advantage.reshape(seeds, group_size, n) * score).mean(axis=1)
    return found


def baselines(drawn: Draw) -> tuple[Values, Values]:
    """Return [seeds, G, n + 1] V_0 to V_n of splice, and S_1 to S_n and V_n of swap: means over the other answers."""
    seeds, group_size, n = drawn.words.shape
    value = INTERACTIONS[drawn.condition.interaction].value
    spliced, swapped = np.empty((seeds, group_size, n + 1)), np.empty((seeds, group_size, n + 1))
    others = (1.0 - np.eye(group_size)) / (group_size - 1)
    step = max(1, _CELLS // (group_size * group_size * n))
    for first in range(0, seeds, step):
        words, weights = drawn.words[first : first + step], drawn.weights[first : first + step, None, None]
        shape = (len(words), group_size, group_size, n)
        own, other = np.broadcast_to(words[:, :, None], shape), np.broadcast_to(words[:, None], shape)
        for place in range(n + 1):
            is_own = np.arange(n) < place
            spliced[first : first + step, :, place] = (value(np.where(is_own, own, other), weights) * others).sum(axis=-1)
            if place < n:
                is_other = np.arange(n) == place
                swapped[first : first + step, :, place] = (value(np.where(is_other, other, own), weights) * others).sum(axis=-1)
    swapped[:, :, n] = spliced[:, :, n]
    return spliced, swapped


def _told(own: Gradients, true: Gradients, halves: Values, exact: Values) -> dict[str, float | None]:
    measures = {
        "noise_scale": gradient_noise.noise_scale(own),
        "direction": gradient_noise.direction_by_prompt(halves, exact),
        "floor": gradient_noise.floor(halves),
        "progress": gradient_noise.progress(own, true, GROUPS),
    }
    found: dict[str, float | None] = {}
    for name, measure in measures.items():
        value, error = gradient_noise.estimate(measure) if own.has_signal and true.has_signal else (None, None)
        found |= {name: value, f"{name}_standard_error": error}
    return found

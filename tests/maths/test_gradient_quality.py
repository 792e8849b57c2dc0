"""How well the gradient estimated from one rollout group points along the exact one: the table in docs/maths.md."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ospo_cli.maths.advantages import group_advantages
from ospo_cli.maths.redistribution import RULES, Credit, Settings, TokenMap, redistribute
from ospo_cli.maths.shaping import prefix_advantages
from tests.games import generator

GROUP_SIZE, SEEDS = 8, 300


@cache
def cosines(n: int) -> dict[str, float]:
    """n independent binary tokens, success .1 to .8, weights .3 to 1.7 drawn per seed, additive reward, exact shares; mean of 300 seeds."""
    draws = [generator(seed) for seed in range(SEEDS)]
    chance = np.array([draw.uniform(0.1, 0.8, n) for draw in draws])[:, None, :]
    weight = np.array([draw.uniform(0.3, 1.7, n) for draw in draws])[:, None, :]
    action = np.array([draw.random((GROUP_SIZE, n)) for draw in draws]) < chance
    share = (weight * action).reshape(-1, n)
    rows = len(share)
    everything = np.arange(rows * n)
    tokens = TokenMap(np.repeat(np.arange(rows), n), np.repeat(np.arange(rows), n), everything, everything, np.ones(rows * n), rows)
    group = np.repeat(np.arange(SEEDS), GROUP_SIZE)
    advantage = group_advantages(share.sum(axis=1), group)
    prefix = np.concatenate([np.zeros((rows, 1)), np.cumsum(share, axis=1)], axis=1)
    credit = Credit(
        advantage.advantage, advantage.scale, group, advantage.is_degenerate, share.ravel(), prefix_advantages(prefix, np.zeros(rows), 1.0).ravel(), np.zeros(rows),
        generator(n).random(rows * n), share.sum(axis=1),
    )  # fmt: skip
    exact = (weight * chance * (1 - chance))[:, 0]
    found = {}
    for rule in RULES:
        advantages = redistribute(rule, tokens, credit, Settings()).advantages.reshape(SEEDS, GROUP_SIZE, n)
        estimate = (advantages * (action - chance)).sum(axis=1)
        length = np.maximum(np.linalg.norm(estimate, axis=1), 1e-12)
        found[rule] = float(((estimate * exact).sum(axis=1) / length / np.linalg.norm(exact, axis=1)).mean())
    return found


@pytest.mark.parametrize(
    ("rule", "at_2", "at_8", "at_32"),
    [
        ("uniform", 0.92, 0.70, 0.43),
        ("proportional", 0.85, 0.22, 0.09),
        ("signed", 0.96, 0.93, 0.89),
        ("group-additive", 0.95, 0.91, 0.87),
        ("potential", 0.93, 0.80, 0.58),
        ("share-only", 0.94, 0.94, 0.94),
    ],
)
def test_gradient_quality_is_that_of_the_table(rule: str, at_2: float, at_8: float, at_32: float) -> None:
    assert [cosines(n)[rule] for n in (2, 8, 32)] == pytest.approx([at_2, at_8, at_32], abs=0.035)


def test_credit_pays_more_the_longer_the_answer() -> None:
    gain = [cosines(n)["signed"] - cosines(n)["uniform"] for n in (2, 8, 32)]
    assert gain == sorted(gain)

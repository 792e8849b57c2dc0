"""One run through the policy gives the gradients that update takes, for any advantages."""

import dataclasses

import numpy as np
import pytest
import torch

from ospo_cli.policies.opening import load_policy
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training import gradient_step
from ospo_cli.training.group_gradient import GroupGradient
from ospo_cli.training.row_building import to_rows
from tests.policies.tiny import tiny_params


@pytest.fixture(scope="module")
def rows(project):
    rollouts = parquet.read(project.iteration(1, "rollouts.parquet"), ROLLOUTS)
    advantages = parquet.read(project.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    return to_rows(rollouts, advantages, tiny_params().rollout, 1)


@pytest.fixture(scope="module")
def policy(project):
    return load_policy(project.policy(0), threads=1, trainable=True)


def by_update(policy, rows, group, settings):
    policy.model.zero_grad(set_to_none=True)
    gradient_step.accumulate(policy, rows, [group], settings)
    found = [weight.grad for weight in policy.model.parameters()]
    policy.model.zero_grad(set_to_none=True)
    return found


def flat(gradient):
    return torch.cat([weight.flatten() for weight in gradient])


@pytest.mark.parametrize(
    "changed",
    [{}, {"aggregation": "token_mean"}, {"aggregation": "constant"}, {"trace": 0.5}, {"tokens_per_micro_batch": 1}],
    ids=["seq_mean", "token_mean", "constant", "trace", "micro-batches"],
)
def test_the_gradient_is_the_one_that_update_takes(policy, rows, changed):
    settings = tiny_params(update=changed).update
    group = next(group for group in reversed(rows.groups) if rows.is_alive(group))
    own = GroupGradient(policy, rows, group, settings)
    advantages = rows.advantages[rows.tokens_of([group])]
    for factor in (1.0, -0.3):
        scaled = dataclasses.replace(rows, advantages=rows.advantages * np.float32(factor))
        expected = flat(by_update(policy, scaled, group, settings))
        found = flat(own.of(advantages * np.float32(factor)))
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
    assert own.mismatch < 1e-4


def test_a_token_without_advantage_has_no_part_in_it(policy, rows):
    group = rows.groups[0]
    own = GroupGradient(policy, rows, group, tiny_params().update)
    tokens = len(rows.tokens_of([group]))
    parts = []
    for half in (slice(0, tokens // 2), slice(tokens // 2, tokens)):
        advantages = np.zeros(tokens, dtype=np.float32)
        advantages[half] = 1
        parts.append(flat(own.of(advantages)))
    whole = flat(own.of(np.ones(tokens, dtype=np.float32)))
    assert float((parts[0] + parts[1] - whole).norm()) <= 1e-5 * float(whole.norm())


def test_no_advantage_is_no_gradient(policy, rows):
    own = GroupGradient(policy, rows, rows.groups[0], tiny_params().update)
    nothing = own.of(np.zeros(len(rows.tokens_of([rows.groups[0]])), dtype=np.float32))
    assert set(nothing) == {None}


def test_credit_is_compared_under_ratios_of_tokens_and_one_clip_whatever_the_project_trains_with(policy, rows):
    group = next(group for group in rows.groups if rows.is_alive(group))
    advantages = rows.advantages[rows.tokens_of([group])]
    plain, other = (
        GroupGradient(policy, rows, group, tiny_params(update=changed).update).of(advantages)
        for changed in ({}, {"ratio": "sequence", "dual_clip": 3.0})
    )
    assert torch.equal(flat(plain), flat(other))

"""Rows as the steps take them: whose log-probabilities they hold, which way the sampler is weighted, and which tokens are run."""

import dataclasses

import numpy as np
import pytest

from ospo_cli.params.update import Update
from ospo_cli.training import forward, row_building
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from ospo_cli.training.update_metrics import over_steps

PROMPTS, COMPLETIONS = ([7, 9, 11], [20, 30]), ([[40, 41, 42], [50, 51]], [[70, 71], [80, 81, 82, 83]])
LENGTHS = np.array([3, 2, 2, 4])


@pytest.fixture
def rows(tiny_policy):
    groups = [Group(PROMPTS[0], COMPLETIONS[0], 0), Group(PROMPTS[1], COMPLETIONS[1], 2)]
    empty = Rows(groups, LENGTHS, np.cumsum(LENGTHS) - LENGTHS, np.zeros(11, np.float32), np.ones(11, np.float32), None, 1.0, 8)
    return dataclasses.replace(empty, behavior_logprobs=forward.logprobs_of(tiny_policy, empty, 10_000))


@pytest.mark.parametrize(("shift", "expected"), [(0.3, np.exp(-0.3)), (-0.3, np.exp(0.3)), (-3.0, 2.0)])
def test_a_token_that_the_sampler_found_likelier_than_the_policy_weighs_less(tiny_policy, rows, shift, expected):
    sampled = dataclasses.replace(rows, behavior_logprobs=rows.behavior_logprobs + np.float32(shift))
    found = row_building.prepared(sampled, rows.groups, tiny_policy, None, Update(sampler_correction="token-truncate", sampler_bound=2.0))
    assert found.corrections == pytest.approx(np.full(11, expected), rel=1e-3)
    assert found.old_logprobs.tolist() == rows.behavior_logprobs.tolist()
    assert found.behavior_logprobs.tolist() == sampled.behavior_logprobs.tolist()


def test_log_probabilities_that_nobody_sampled_are_the_policys(tiny_policy, rows):
    unknown = dataclasses.replace(rows, behavior_logprobs=np.zeros(11, np.float32))
    found = row_building.prepared(unknown, rows.groups, tiny_policy, None, Update(), is_sampler=False)
    assert found.behavior_logprobs.tolist() == rows.behavior_logprobs.tolist()


def test_the_divergence_is_measured_on_so_many_groups(tiny_policy, rows):
    moved = rows.behavior_logprobs.copy()
    moved[5:] += 0.5
    apart = dataclasses.replace(rows, behavior_logprobs=moved)
    first, both = (row_building.divergence(apart, tiny_policy, Update(reference_groups=count))["reference_kl"] for count in (1, 2))
    assert first == pytest.approx(0.0, abs=1e-6)
    assert both == pytest.approx(6 / 11 * (np.exp(-0.5) + 0.5 - 1), rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [1, 4]),
        ({"trace": 0.5}, [0, 1, 3, 4]),
        ({"ratio": "sequence"}, [0, 1, 2, 3, 4]),
        ({"entropy_bonus": 0.1}, list(range(11))),
        ({"kl_weight": 0.1}, list(range(11))),
        ({"kl_weight": 0.1, "kl_in": "reward"}, [1, 4]),
    ],
)
def test_the_tokens_that_are_run_are_those_that_the_loss_depends_on(rows, changed, expected):
    advantages = np.zeros(11, np.float32)
    advantages[[1, 4]] = 1.0
    some = dataclasses.replace(rows, advantages=advantages)
    assert np.flatnonzero(objective_of(Update(**changed)).is_wanted(some)).tolist() == expected


def test_a_token_that_the_correction_masks_is_not_run(rows):
    corrections = np.ones(11, np.float32)
    corrections[[0, 7]] = 0.0
    found = objective_of(Update()).is_wanted(dataclasses.replace(rows, corrections=corrections))
    assert np.flatnonzero(~found).tolist() == [0, 7]


def test_metrics_of_an_update_weigh_steps_by_their_tokens_and_tell_how_many_the_correction_leaves(rows):
    step = dict.fromkeys(
        (
            *("clipped_fraction", "clipped_fraction_positive", "clipped_fraction_negative", "behavior_kl", "reference_kl"),
            *(
                "loss",
                "policy_loss",
                "kl_loss",
                "entropy_loss",
                "imitation_loss",
                "gradient_norm",
                "logprob_mismatch",
                "logprob_mismatch_mean",
            ),
            *("effective_share", "filling"),
        ),
        0.0,
    )
    steps = [step | {"tokens": 1, "entropy": 1.0, "tokens_with_prompts": 4}, step | {"tokens": 3, "entropy": 2.0, "tokens_with_prompts": 6}]
    corrections = np.array([1.0, 1.0, 4.0], np.float32)
    found = over_steps(steps, dataclasses.replace(rows, corrections=corrections))
    assert found["entropy"] == pytest.approx(7 / 4)
    assert found["correction_effective_share"] == pytest.approx(2 / 3)
    assert found["completion_token_share"] == pytest.approx(0.4)
    assert found["reference_kl"] is None

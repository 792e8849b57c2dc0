"""attribute.baseline: batch compares every reward with all of the iteration's, and needs no coalitions."""

import dataclasses

import numpy as np
import pytest

from ospo_cli import presets
from ospo_cli.errors import ParameterError
from ospo_cli.params import whole
from tests.stages.test_attribute import tables

REWARDS = {"navy": 0.9, "red": 0.2, "coat": 0.5, "dress": 0.5}
GROUPS = [[f"<answer>{word}</answer>" for word in words] for words in (("navy", "red"), ("coat", "dress"))]


def by_rollout(result):
    return {row: set(values) for row, values in result.token_advantages.iter_rows()}


@pytest.mark.parametrize(("normalize", "scale"), [("none", 1.0), ("std", np.std([0.9, 0.2, 0.5, 0.5], ddof=1) + 1e-4)])
def test_an_advantage_is_the_rewards_distance_from_the_batchs_mean_on_every_token(normalize, scale):
    made = tables(GROUPS, lambda completion, mask: next(value for word, value in REWARDS.items() if word in completion))
    found = by_rollout(made.run(estimator="uniform", rule="uniform", baseline="batch", normalize=normalize))
    expected = [(value - 0.525) / scale for value in REWARDS.values()]
    assert [len(values) for values in found.values()] == [1] * 4
    assert [next(iter(values)) for values in found.values()] == pytest.approx(expected, abs=1e-6)


def test_a_rollout_group_of_equal_rewards_learns_from_the_batch_and_not_from_itself():
    made = tables(GROUPS, lambda completion, mask: next(value for word, value in REWARDS.items() if word in completion))
    own = by_rollout(made.run(estimator="uniform", rule="uniform"))
    of_batch = by_rollout(made.run(estimator="uniform", rule="uniform", baseline="batch"))
    assert own["001:p1:00"] == {0.0}
    assert of_batch["001:p1:00"] != {0.0}


def test_a_batch_of_equal_rewards_has_no_advantage():
    made = tables(GROUPS, lambda completion, mask: 0.4)
    found = by_rollout(made.run(estimator="uniform", rule="uniform", baseline="batch"))
    assert set().union(*found.values()) == {0.0}


def test_rules_that_need_shares_are_refused_with_the_batchs_baseline():
    values = whole.to_mapping(presets.load("demo"))
    values["attribute"]["baseline"] = "batch"
    with pytest.raises(ParameterError, match=r"attribute\.baseline: batch gives groups of equal rewards an advantage"):
        whole.from_mapping(values)


def test_a_dual_clip_within_the_clip_and_a_trace_of_sequences_are_refused():
    for changes, message in (({"dual_clip": 1.1}, "lies within the clip"), ({"trace": 0.5, "ratio": "sequence"}, "is of token ratios")):
        values = whole.to_mapping(presets.load("demo"))
        values["update"] |= changes
        with pytest.raises(ParameterError, match=message):
            whole.from_mapping(values)
    assert dataclasses.replace(presets.load("demo").update, dual_clip=3.0).dual_clip == 3.0

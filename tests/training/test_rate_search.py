"""Gains of rollout groups under updates on others: against the update stage itself, run on a half of the tables."""

import dataclasses

import numpy as np
import pytest

from ospo_cli.instruments import advise
from ospo_cli.maths import seeding
from ospo_cli.maths.step_advice import Training
from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import rollout, update
from ospo_cli.tables import placed
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training import forward
from ospo_cli.training.row_building import to_rows
from tests.policies.tiny import copy_project, folder_bytes, tiny_params, write_advantages, write_project

RATES = [1e-3, 4e-3]
WANTED = Training(groups_per_step=2, groups=6, iterations=1, epochs=1, learning_rate=1e-3)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    layout = write_project(tmp_path_factory.mktemp("search") / "project")
    rollout.execute(layout, tiny_params(rollout={"prompts_per_iteration": 7}), 1)
    write_advantages(layout, 1)
    return layout


def slow(layout, trained, judges, rate, root):
    """Return the judges' gains under the policy that `ospo update` makes of the trained prompts alone, token by token."""
    rollouts, advantages = placed.read(ROLLOUTS, layout, 1), placed.read(TOKEN_ADVANTAGES, layout, 1)
    copy = copy_project(layout, root)
    own = rollouts.filter(rollouts["prompt_id"].is_in(trained))
    placed.write(own, ROLLOUTS, copy, 1)
    placed.write(advantages.join(own.select("rollout_id"), on="rollout_id", how="semi"), TOKEN_ADVANTAGES, copy, 1)
    update.execute(copy, tiny_params(update={"groups_per_step": 2, "learning_rate": rate}), 1)
    rows = to_rows(rollouts, advantages, tiny_params().rollout, 1)
    logprobs = forward.logprobs_of(load_policy(copy.policy(1), 1), rows, 10_000)
    prompts = rollouts["prompt_id"].unique().sort().to_list()
    found = []
    for name in judges:
        group, gain = rows.groups[prompts.index(name)], 0.0
        for row in range(group.first, group.first + len(group.completions)):
            for at in range(rows.starts[row], rows.starts[row] + rows.lengths[row]):
                ratio = np.exp(float(logprobs[at]) - float(rows.behavior_logprobs[at]))
                gain += (ratio - 1) * rows.advantages[at] / rows.lengths[row] / len(group.completions)
        found.append(gain)
    return found


def test_gains_are_those_of_updates_on_one_half_judged_by_the_other(project, tmp_path):
    layout = copy_project(project, tmp_path / "copy")
    before = folder_bytes(layout.root)
    gains = advise.held_out(layout, tiny_params(), 1, WANTED, RATES)
    assert folder_bytes(layout.root) == before
    prompts = np.array(placed.read(ROLLOUTS, layout, 1)["prompt_id"].unique().sort().to_list())
    order = prompts[seeding.generator(tiny_params().train.seed, "advise/1").permutation(len(prompts))]
    halves = [(order[:3], [*order[3:6], order[6]]), (order[3:6], order[:3])]
    for number, rate in enumerate(RATES):
        expected = [
            gain for at, (trained, judges) in enumerate(halves) for gain in slow(layout, trained, judges, rate, tmp_path / f"{rate}-{at}")
        ]
        np.testing.assert_allclose(gains[number], expected, rtol=2e-3, atol=1e-6)


def test_smaller_iterations_train_on_fewer_groups_and_two_are_too_few_to_judge(project, tmp_path):
    small = advise.held_out(project, tiny_params(), 1, dataclasses.replace(WANTED, groups=2), RATES)
    assert small.shape == (2, 7)  # one and one trained on, each judged by the other and half of the rest
    few = advise.held_out(project, tiny_params(update={"max_groups": 2}), 1, WANTED, RATES)
    assert few.shape == (2, 0)

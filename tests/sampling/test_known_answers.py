"""Small games whose gradient flow is known in closed form: the learner follows it, and every unbiased algorithm finds a planted optimum."""

import dataclasses
import itertools

import numpy as np
import pytest

from ospo_cli import presets
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.update import Update
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from tests.policies.tabular import PROMPT, Game, descend, learn

PLAIN = dataclasses.replace(Attribute(), rule="uniform", normalize="none")
GROUP_SIZE = 8
# The mean of a group holds the completion itself: its expected gradient is that much smaller.
SHRINKING = 1 - 1 / GROUP_SIZE


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("good", "bad"), [(1.0, 0.0), (0.7, 0.2)])
def test_a_bandit_of_two_arms_follows_its_gradient_flow(good, bad):
    # J = p·good + (1 − p)·bad with p = σ(z), z the difference of the logits: dz/dt = 2(good − bad)·p(1 − p), which integrates to
    # 2z + e^z − e^−z = 2(good − bad)·t.
    game = Game(2, 1, lambda answer: good if answer[0] == 1 else bad)
    rate, steps = 0.05, 150
    tables = learn(game, Update(), PLAIN, steps, rate, groups=48, group_size=GROUP_SIZE)
    z = tables[:, PROMPT, 1] - tables[:, PROMPT, 2]
    time = SHRINKING * rate * np.arange(steps + 1)
    flow = 2 * z + np.exp(z) - np.exp(-z)
    assert z[-1] > 1.0
    assert np.abs(flow - 2 * (good - bad) * time).max() < 0.05 * 2 * (good - bad) * time[-1]


def exact_flow(game, start, rate, steps):
    """Follow the exact expected gradient, summed over all answers."""
    answers = list(itertools.product(range(1, game.choices + 1), repeat=game.length))
    rewards = np.array([game.reward(list(answer)) for answer in answers])
    table = start.copy()
    for _ in range(steps):
        policy = softmax(table)
        chance = np.array([np.prod([policy[a, b] for a, b in itertools.pairwise((PROMPT, *answer))]) for answer in answers])
        value, slope = float(chance @ rewards), np.zeros_like(table)
        for answer, weight, reward in zip(answers, chance, rewards, strict=True):
            for before, token in itertools.pairwise((PROMPT, *answer)):
                slope[before] += weight * (reward - value) * (np.eye(len(table))[token] - policy[before]) / game.length
        table = table + rate * slope
    return table


def test_a_game_of_two_tokens_in_which_they_earn_only_together_follows_its_gradient_flow():
    game = Game(2, 2, lambda answer: 1.0 if answer == [1, 2] else 0.3 if answer == [2, 1] else 0.0)
    rate, steps = 0.2, 120
    tables = learn(game, Update(), PLAIN, steps, rate, groups=64, group_size=GROUP_SIZE)
    expected = exact_flow(game, tables[0], SHRINKING * rate, steps)
    moved = np.abs(expected - tables[0]).max()
    assert moved > 1.0
    assert np.abs(softmax(tables[-1]) - softmax(expected)).max() < 0.06


def test_noise_falls_with_the_number_of_groups_and_not_with_the_number_of_steps_alone():
    game = Game(2, 2, lambda answer: 1.0 if answer == [1, 2] else 0.0)
    apart = []
    for groups in (2, 128):
        tables = learn(game, Update(), PLAIN, 30, 0.2, groups=groups, group_size=GROUP_SIZE)
        apart.append(np.abs(tables[-1] - exact_flow(game, tables[0], SHRINKING * 0.2, 30)).max())
    assert apart[1] < 0.5 * apart[0]


# Rule uniform with a baseline that the tokens do not change: what is expected is the exact gradient up to a weight per prompt or place.
UNBIASED = ("grpo", "dr-grpo", "dapo", "gspo", "grpo-lambda", "ppo")


@pytest.mark.parametrize("name", UNBIASED)
def test_a_planted_optimum_is_found(name):
    planted = [2, 1, 3]
    game = Game(3, 3, lambda answer: sum(a == b for a, b in zip(answer, planted, strict=True)) / 3)
    row = presets.load(name)
    update = dataclasses.replace(row.update, kl_weight=0.0)  # a pull to the start would hold it off
    rate = 1.0 if row.attribute.normalize == "std" else 4.0
    tables = learn(game, update, row.attribute, 100, rate, groups=16, group_size=GROUP_SIZE)
    policy = softmax(tables[-1])
    chance = np.prod([policy[a, b] for a, b in itertools.pairwise((PROMPT, *planted))])
    assert chance > 0.9


@pytest.mark.parametrize(("kl", "kl_in"), [("k1", "reward"), ("k2", "loss"), ("k3", "weighted-loss")])
def test_a_pull_to_the_reference_leaves_the_policy_where_reward_and_divergence_balance(kl, kl_in):
    # The policy that maximises E[R] − β·KL(π ‖ uniform) is softmax(R / β).
    rewards = np.array([0.0, 0.5, 0.8])
    game = Game(3, 1, lambda answer: rewards[answer[0] - 1])
    # A penalty in the reward is compared within the group and shrinks as the reward does; one in the loss does not.
    beta = 0.4 if kl_in == "reward" else 0.4 * SHRINKING
    update = dataclasses.replace(Update(), kl_weight=beta, kl=kl, kl_in=kl_in)
    tables = learn(game, update, PLAIN, 60, 1.5, groups=64, group_size=GROUP_SIZE)
    policy = softmax(tables[-20:])[:, PROMPT, 1:].mean(axis=0)
    assert policy == pytest.approx(np.exp(rewards / 0.4) / np.exp(rewards / 0.4).sum(), abs=0.02)


def bandit_rows(arms, pairs=None):
    """Return one prompt's rows, a token each, all of them learned from; the policy that sampled was uniform."""
    count = len(arms)
    logs = np.full(count, -np.log(3.0), np.float32)
    found = None if pairs is None else np.array(pairs)
    lengths, starts = np.ones(count, np.int64), np.arange(count)
    return Rows([Group([PROMPT], [[arm] for arm in arms])], lengths, starts, logs, np.ones(count, np.float32), None, 1.0, 1, pairs=found)


def test_imitation_ends_at_the_frequencies_of_the_targets():
    logits = descend(bandit_rows([1, 1, 1, 2, 3, 3]), dataclasses.replace(Update(), objective="sft"), 300, 1.0)
    assert softmax(logits[PROMPT])[1:] == pytest.approx([3 / 6, 1 / 6, 2 / 6], abs=1e-3)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_preference_ends_where_the_margin_is_the_log_odds_of_being_preferred(beta):
    # Arm 1 is preferred to arm 2 in 3 of 4 pairs: −3/4·log σ(m) − 1/4·log σ(−m) is least at m = log 3, m = β(l₁ − l₂).
    update = dataclasses.replace(Update(), objective="dpo", dpo_beta=beta)
    logits = descend(bandit_rows([1, 2] * 4, [(0, 1), (2, 3), (4, 5), (7, 6)]), update, 400, 2.0 / beta**2)
    assert beta * (logits[PROMPT, 1] - logits[PROMPT, 2]) == pytest.approx(np.log(3), abs=1e-3)

"""What an update says of the move that it took: closed forms of the gain, and whole updates measured behind their last step."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.params.update import Update
from ospo_cli.policies.opening import load_policy
from ospo_cli.report.iteration_measures import UPDATE_MEASURES
from ospo_cli.stages import update
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.placed import read
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training import forward, taken_move, update_metrics
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.policy_loss import Tokens
from ospo_cli.training.row_building import to_rows
from ospo_cli.training.token_batches import Group
from tests.policies.tiny import tiny_params, write_advantages

CLIPPED = dataclasses.replace(Update(), clip_low=0.1, clip_high=0.3)
MIRROR = dataclasses.replace(Update(), objective="mirror-descent", mirror_beta=0.5)


def tokens_of(log_ratios, advantages, lengths=None, **others):
    logs, values = torch.tensor(log_ratios, dtype=torch.float64), torch.tensor(advantages, dtype=torch.float64)
    return Tokens(logs, torch.zeros_like(logs), values, torch.full_like(logs, 0.5), lengths or [len(log_ratios)], **others)


def some_of(rows):
    return taken_move.spaced([group for group in rows.groups if group.tokens], taken_move.how_many(len(rows.groups)))


numbers = st.floats(-1, 1)


@given(st.lists(st.tuples(numbers, st.sampled_from([-1.5, 0.0, 0.5]), st.floats(0, 2)), min_size=1, max_size=8))
def test_the_surrogates_gain_is_that_of_a_plain_loop_and_never_above_its_most(rows):
    logs, advantages, corrections = zip(*rows, strict=True)
    tokens = tokens_of(logs, advantages, correction=torch.tensor(corrections, dtype=torch.float64))
    gained, most = objective_of(CLIPPED).gain(tokens)
    slow = [
        0.5 * c * (min(np.exp(x) * a, min(max(np.exp(x), 0.9), 1.3) * a) - a) for x, a, c in zip(logs, advantages, corrections, strict=True)
    ]
    assert gained == pytest.approx(sum(slow), abs=1e-12)
    assert most == pytest.approx(sum(0.5 * c * abs(a) * (0.3 if a > 0 else 0.1) for a, c in zip(advantages, corrections, strict=True)))
    assert gained <= most + 1e-12


@pytest.mark.parametrize(
    ("settings", "log_ratios", "share"),
    [
        (CLIPPED, [0.0, 0.0, 0.0], 0.0),
        (CLIPPED, [np.log(1.3), np.log(1.3), np.log(0.9)], 1.0),
        (CLIPPED, [2.0, 2.0, -2.0], 1.0),  # beyond the clip nothing more is gained
        (CLIPPED, [np.log(1.15), np.log(1.15), np.log(0.95)], 0.5),
        (MIRROR, [0.0, 0.0, 0.0], 0.0),
        (MIRROR, [0.75, 0.25, -4.0], 1.0),  # units: 1.0 = A / β over two tokens, −4 = A / β
        (MIRROR, [0.5, 0.0, -2.0], 0.75),
        (MIRROR, [2.0, 0.0, -8.0], 0.0),  # twice as far as wished: nothing is left of the gain
    ],
)
def test_the_taken_share_is_0_at_the_sampler_and_1_at_the_wished_place(settings, log_ratios, share):
    gained, most = objective_of(settings).gain(tokens_of(log_ratios, [0.5, 0.5, -2.0]))
    assert gained / most == pytest.approx(share)


def updated(layout, **values):
    return update.execute(layout, tiny_params(update={"groups_per_step": 100, **values}), 1)


def test_an_update_is_measured_under_the_policy_that_it_wrote(layout):
    metrics = updated(layout, learning_rate=2e-3)
    rollouts = read(ROLLOUTS, layout, 1)
    zeros = rollouts.select("rollout_id", advantages=rollouts["behavior_logprobs"])
    rows = to_rows(rollouts, zeros, tiny_params().rollout, 1)
    difference = (forward.logprobs_of(load_policy(layout.policy(1), 1), rows, 10_000) - rows.behavior_logprobs)[
        rows.tokens_of(some_of(rows))
    ]
    assert metrics["after_kl"] == pytest.approx(float((np.expm1(difference) - difference).mean()), rel=1e-3)
    assert metrics["after_kl"] > 0 == pytest.approx(metrics["behavior_kl"], abs=1e-6)  # before the only step nothing had moved


def test_a_larger_step_takes_more_of_the_move_and_reaches_the_clip(layout, capsys):
    little = updated(layout, learning_rate=1e-4)
    much = updated(layout, learning_rate=3e-4, epochs=12)
    assert 0 < little["taken_share"] < 0.2 < much["taken_share"] <= 1
    assert little["after_clipped_fraction"] < 0.1 < 0.2 < much["after_clipped_fraction"]
    assert "at the clip at the end" in capsys.readouterr().err
    assert (little["last_epoch_kl"], little["earlier_epoch_kl"]) == (None, None)
    assert much["last_epoch_kl"] > 0
    assert {name for name in UPDATE_MEASURES if name.startswith(("after_", "taken_", "line_", "last_epoch", "earlier"))} <= much.keys()


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_an_objective_without_a_most_says_how_far_the_policy_went_alone(layout, objective):
    metrics = updated(layout, objective=objective)
    assert metrics["after_kl"] > 0
    assert (metrics["taken_share"], metrics["after_clipped_fraction"]) == (None, None)


def test_mirror_descent_has_a_share_and_no_clip(layout):
    metrics = updated(layout, objective="mirror-descent", mirror_beta=1.0, learning_rate=1e-4, epochs=12)
    assert 0.5 < metrics["taken_share"] <= 1
    assert metrics["after_clipped_fraction"] is None


def test_a_batch_without_advantages_has_nothing_to_take(layout):
    rows = to_rows(*_without_advantages(layout), tiny_params().rollout, 1)
    found = taken_move.after_the_steps(load_policy(layout.policy(0), 1), rows, Update())
    assert found.pop("after_kl") == pytest.approx(0, abs=1e-6)
    assert set(found.values()) == {None}
    empty = dataclasses.replace(rows, groups=[])
    assert set(taken_move.after_the_steps(load_policy(layout.policy(0), 1), empty, Update()).values()) == {None}


def test_the_move_is_taken_from_where_the_steps_began_and_the_divergence_from_the_sampler(layout):
    rollouts = read(ROLLOUTS, layout, 1)
    rows = to_rows(rollouts, rollouts.select("rollout_id", advantages=rollouts["behavior_logprobs"]), tiny_params().rollout, 1)
    policy = load_policy(layout.policy(0), 1)
    began = rows.behavior_logprobs - 0.1  # a sampler in 16 bits, say
    apart = taken_move.after_the_steps(policy, dataclasses.replace(rows, old_logprobs=began), CLIPPED)
    moved = taken_move.after_the_steps(policy, dataclasses.replace(rows, behavior_logprobs=began), CLIPPED)
    assert apart["taken_share"] == pytest.approx(moved["taken_share"], abs=1e-6)
    assert abs(apart["taken_share"]) > 0.1
    assert apart["after_kl"] == pytest.approx(0, abs=1e-6)
    assert moved["after_kl"] == pytest.approx(np.expm1(0.1) - 0.1, rel=1e-2)


def test_targets_are_imitated_whatever_the_ratio_so_no_clip_reaches_their_tokens(layout):
    rollouts = read(ROLLOUTS, layout, 1)
    rows = to_rows(rollouts, rollouts.select("rollout_id", advantages=rollouts["behavior_logprobs"]), tiny_params().rollout, 1)
    is_given = np.arange(len(rows.lengths)) % 2 == 1
    of_given = is_given[rows.owner]
    behind = np.where(
        of_given, rows.behavior_logprobs - 1, rows.behavior_logprobs
    )  # the targets' tokens have a ratio of e, all others of 1
    rows = dataclasses.replace(rows, behavior_logprobs=behind.astype(np.float32), advantages=np.ones_like(rows.advantages))
    settings, policy = dataclasses.replace(CLIPPED, imitation_weight=1.0), load_policy(layout.policy(0), 1)
    alike = taken_move.after_the_steps(policy, rows, settings)
    apart = taken_move.after_the_steps(policy, dataclasses.replace(rows, is_given=is_given), settings)
    assert alike["after_clipped_fraction"] > 0.2
    assert apart["after_clipped_fraction"] == 0
    every = taken_move.after_the_steps(policy, dataclasses.replace(rows, is_given=np.ones_like(is_given)), settings)
    assert every["after_clipped_fraction"] is None


@pytest.mark.parametrize(("learning_rate", "factor"), [(2e-5, 2.0), (8e-2, 0.0)])
def test_the_line_through_the_move_is_that_of_policies_moved_by_hand(layout, learning_rate, factor):
    metrics = updated(layout, objective="mirror-descent", mirror_beta=1.0, learning_rate=learning_rate)
    before, after = (load_policy(layout.policy(number), 1).model.state_dict() for number in (0, 1))
    rows = to_rows(read(ROLLOUTS, layout, 1), read(TOKEN_ADVANTAGES, layout, 1), tiny_params().rollout, 1)
    settings = tiny_params(update={"objective": "mirror-descent", "mirror_beta": 1.0}).update
    two = dataclasses.replace(rows, groups=taken_move.spaced([group for group in some_of(rows) if rows.is_alive(group)], 2))
    for name, times in (("line_half", 0.5), ("line_whole", 1.0), ("line_double", 2.0)):
        moved = load_policy(layout.policy(0), 1)
        moved.model.load_state_dict({key: begun + times * (after[key] - begun) for key, begun in before.items()})
        assert metrics[name] == pytest.approx(taken_move.after_the_steps(moved, two, settings)["taken_share"], rel=1e-3, abs=1e-5)
    assert metrics["line_factor"] == factor


def test_the_policy_that_is_written_is_the_one_before_the_line_was_searched(layout, monkeypatch):
    updated(layout, learning_rate=2e-3)
    searched = (layout.policy(1) / "model.safetensors").read_bytes()
    monkeypatch.setattr(taken_move, "_line", lambda *given: {})
    updated(layout, learning_rate=2e-3)
    assert (layout.policy(1) / "model.safetensors").read_bytes() == searched


def test_a_batch_without_signal_has_no_line_to_search(layout):
    write_advantages(layout, 1, word="☃")
    metrics = updated(layout)
    assert {metrics[name] for name in ("line_factor", "line_half", "line_whole", "line_double")} == {None}


def _without_advantages(layout):
    rollouts = read(ROLLOUTS, layout, 1)
    return rollouts, rollouts.select("rollout_id", advantages=rollouts["behavior_logprobs"].list.eval(0 * pl.element()))


def test_measured_groups_are_spread_over_all():
    groups = [Group([1], [[2]], first) for first in range(10)]
    assert [group.first for group in taken_move.spaced(groups, 4)] == [0, 2, 5, 7]
    assert taken_move.spaced(groups, 100) == groups
    assert taken_move.spaced([], 4) == []


def test_the_divergence_of_the_last_two_epochs_weighs_steps_by_their_tokens():
    steps = [{"behavior_kl": kl, "tokens": tokens} for kl, tokens in ((9.0, 1), (9.0, 1), (0.1, 1), (0.2, 3), (0.3, 2), (0.4, 2))]
    found = update_metrics._epoch_kls(steps, 3)
    assert found == {"earlier_epoch_kl": pytest.approx(0.175), "last_epoch_kl": pytest.approx(0.35)}
    assert set(update_metrics._epoch_kls(steps, 1).values()) == {None}

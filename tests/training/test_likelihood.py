"""Objectives sft and dpo: against plain autograd, against themselves in another layout, and on whether they teach what they should."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.policies.opening import load_policy
from ospo_cli.training import forward, token_batches
from ospo_cli.training.objectives.imitation import imitation_weights
from ospo_cli.training.objectives.preference import preference_weights
from tests.policies.tiny import tiny_params, write_tiny_policy
from tests.training import five_answers
from tests.training.five_answers import gradient_of, slow_logprobs, step


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(write_tiny_policy(tmp_path_factory.mktemp("policy") / "000", scale=2.0), 1, trainable=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return load_policy(write_tiny_policy(tmp_path_factory.mktemp("reference") / "000", seed=1, scale=2.0), 1)


def settings_of(**values):
    return tiny_params(update=values).update


def rows_of(marked, behavior, pairs=None, temperature=1.0):
    """Return rows of which the marked ones are learned."""
    advantages = np.repeat(np.isin(np.arange(5), marked), five_answers.LENGTHS)
    return five_answers.rows_of(advantages, behavior, pairs, temperature)


def flat(parts):
    return np.concatenate([part.detach().numpy() for part in parts])


@pytest.mark.parametrize(("aggregation", "divisors"), [("token_mean", (5, 5)), ("seq_mean", (2 * 3, 2 * 2)), ("constant", (16, 16))])
def test_imitation_is_the_mean_negative_log_likelihood_of_the_targets(policy, aggregation, divisors):
    rows = rows_of([0, 3], np.zeros(12))
    measures, gradient = step(policy, rows, settings_of(objective="sft", aggregation=aggregation))
    logprobs = slow_logprobs(policy)
    expected = -(logprobs[0].sum() / divisors[0] + logprobs[3].sum() / divisors[1])
    assert measures["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert measures["tokens"] == 5
    assert torch.allclose(gradient, gradient_of(policy, expected), atol=1e-5)


@pytest.mark.parametrize("anchor", ["behavior", "warm-start"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_preference_loss_and_gradient_are_those_of_the_textbook(policy, reference, anchor, temperature):
    pairs, beta = [(0, 2), (1, 2), (4, 3)], 0.3
    anchors = [part.detach() for part in slow_logprobs(reference, temperature)]
    rows = rows_of(range(5), flat(anchors), pairs, temperature)
    if anchor == "warm-start":
        rows = dataclasses.replace(rows, reference_logprobs=rows.behavior_logprobs, behavior_logprobs=np.zeros(12, np.float32))
    measures, gradient = step(policy, rows, settings_of(objective="dpo", dpo_beta=beta, dpo_reference=anchor))
    ratios = [(ours - theirs).sum() for ours, theirs in zip(slow_logprobs(policy, temperature), anchors, strict=True)]
    margins = torch.stack([beta * (ratios[chosen] - ratios[rejected]) for chosen, rejected in pairs])
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    assert measures["loss"] == measures["policy_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert measures["preference_margin"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert measures["preference_accuracy"] == pytest.approx(float((margins > 0).float().mean()))
    assert torch.allclose(gradient, gradient_of(policy, expected), atol=1e-5)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_layout_micro_batches_and_order_of_the_groups_change_rounding_alone(policy, reference, objective, monkeypatch):
    update = settings_of(objective=objective, tokens_per_micro_batch=10_000)
    rows = rows_of([0, 2, 3, 4], flat(slow_logprobs(reference)), [(2, 0), (4, 3)])
    whole, gradient = step(policy, rows, update)
    cut = step(policy, rows, dataclasses.replace(update, tokens_per_micro_batch=1))
    turned = step(policy, dataclasses.replace(rows, groups=rows.groups[::-1]), update)
    monkeypatch.setattr(token_batches, "packing_pays", lambda groups: False)
    for measures, other in (cut, turned, step(policy, rows, update)):
        assert measures["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_completions_that_are_no_target_and_in_no_pair_change_nothing(policy, reference, objective):
    update = settings_of(objective=objective)
    rows = rows_of([0, 2], flat(slow_logprobs(reference)), [(2, 0)])
    both, gradient = step(policy, rows, update)
    alone, expected = step(policy, dataclasses.replace(rows, groups=rows.groups[:1]), update)
    assert both["loss"] == pytest.approx(alone["loss"], abs=1e-6)
    assert both["tokens"] == 4
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_a_step_without_pairs_is_a_step_of_nothing(policy):
    rows = rows_of([3, 4], np.zeros(12), [(4, 3)])
    measures, gradient = step(policy, dataclasses.replace(rows, groups=rows.groups[:1]), settings_of(objective="dpo"))
    assert (measures["tokens"], measures["loss"]) == (0, 0.0)
    assert not gradient.any()


def test_dropout_is_off_where_likelihoods_are_compared_and_on_again_after(policy, monkeypatch):
    modes = []
    real = forward.token_logprobs
    monkeypatch.setattr(forward, "token_logprobs", lambda model, *a, **k: modes.append(model.training) or real(model, *a, **k))
    policy.model.train()
    step(policy, rows_of([0, 2], np.zeros(12), [(2, 0)]), settings_of(objective="dpo"))
    policy.model.eval()
    assert modes == [False, True]


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), beta=st.floats(0.01, 5.0))
def test_preference_weights_are_the_derivative_of_the_loss(seed, beta):
    rng = np.random.default_rng(seed)
    ratios = rng.normal(scale=3.0, size=6)
    pairs = np.array([rng.choice(6, 2, replace=False) for _ in range(rng.integers(1, 9))])
    weights, measures = preference_weights(ratios, pairs, beta)
    for row in range(6):
        nudge = np.eye(6)[row] * 1e-6
        rise = preference_weights(ratios + nudge, pairs, beta)[1]["loss"] - preference_weights(ratios - nudge, pairs, beta)[1]["loss"]
        assert -weights[row] == pytest.approx(rise / 2e-6, abs=1e-6)
    assert weights.sum() == pytest.approx(0, abs=1e-12)
    assert measures["loss"] > 0


def test_preference_weights_do_not_overflow_and_a_hopeless_pair_pulls_with_all_of_beta():
    weights, measures = preference_weights(np.array([-4000.0, 4000.0]), np.array([[0, 1]]), 0.5)
    assert weights.tolist() == [0.5, -0.5]
    assert measures["loss"] == 4000.0
    assert preference_weights(np.array([4000.0, -4000.0]), np.array([[0, 1]]), 0.5)[0] == pytest.approx([0, 0], abs=1e-300)


def test_imitation_weights_of_rows_that_are_no_target_are_zero_and_do_not_count():
    assert imitation_weights([2, 3, 1], [True, False, True], "seq_mean", 8) == pytest.approx([0.25, 0.25, 0, 0, 0, 0.5])
    assert imitation_weights([2, 3], [False, False], "token_mean", 8).tolist() == [0.0] * 5

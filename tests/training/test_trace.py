"""GRPO-λ: the trace of log-ratios, against a plain loop; and what a rule makes of the loss, to the last bit."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.maths.redistribution import Settings, redistribute
from ospo_cli.params.update import Update
from ospo_cli.training.policy_loss import Tokens, clipped_loss, token_weights, traced
from tests.games import generator
from tests.maths.flat_rows import credit, token_map

numbers = st.floats(-0.4, 0.4)
ROWS = st.lists(st.lists(st.tuples(numbers, numbers, st.floats(-2, 2)), max_size=6), min_size=1, max_size=4)


def reference_loss(rows, trace, clip_low, clip_high):
    """The mean over rows of the mean over a row's tokens, token by token."""
    total = 0.0
    for row in rows:
        state = 0.0
        for logprob, behavior, advantage in row:
            state = (logprob - behavior) + trace * state
            ratio = math.exp(state)
            clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
            total -= min(ratio * advantage, clipped * advantage) / len(row) / len(rows)
    return total


def tensors(rows):
    flat = np.array([token for row in rows for token in row]).reshape(-1, 3)
    return [torch.from_numpy(column.copy()) for column in flat.T]


def loss_of(rows, trace):
    logprobs, behavior, advantages = tensors(rows)
    logprobs.requires_grad_()
    lengths = [len(row) for row in rows]
    weights = torch.from_numpy(token_weights(lengths, "seq_mean", 10))
    result = clipped_loss(Tokens(logprobs, behavior, advantages, weights, lengths), Update(clip_low=0.2, clip_high=0.28, trace=trace))
    return result, logprobs


@settings(max_examples=40)
@given(rows=ROWS, trace=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_the_loss_with_a_trace_is_that_of_the_plain_loop(rows, trace):
    result, _ = loss_of(rows, trace)
    assert result.loss.item() == pytest.approx(reference_loss(rows, trace, 0.2, 0.28), abs=1e-9)


def test_the_trace_starts_anew_in_every_row():
    one, other = generator(1).normal(size=4), generator(2).normal(size=3)
    together = traced(torch.from_numpy(np.concatenate([one, other])), [4, 0, 3], 0.7)
    alone = [traced(torch.from_numpy(row), [len(row)], 0.7) for row in (one, other)]
    assert torch.equal(together, torch.cat(alone))


def test_on_the_policy_that_sampled_a_token_gets_what_follows_it_with_decay():
    advantages, trace = [1.0, -0.5, 2.0], 0.6
    result, logprobs = loss_of([[(-1.0, -1.0, advantage) for advantage in advantages]], trace)
    result.loss.backward()
    expected = [-sum(trace**later * advantages[place + later] for later in range(3 - place)) / 3 for place in range(3)]
    assert logprobs.grad.tolist() == pytest.approx(expected)


def test_no_trace_is_the_plain_loss_to_the_last_bit_and_a_trace_is_not():
    rows = [[tuple(token) for token in generator(3).normal(scale=0.1, size=(5, 3)).tolist()]]
    plain, (logprobs, behavior, advantages) = loss_of(rows, 0.0)[0].loss.item(), tensors(rows)
    ratios = torch.exp(logprobs - behavior)
    surrogate = -torch.minimum(ratios * advantages, ratios.clamp(1.0 - 0.2, 1.0 + 0.28) * advantages)
    assert plain == (torch.from_numpy(token_weights([5], "seq_mean", 10)) * surrogate).sum().item()
    assert loss_of(rows, 0.5)[0].loss.item() != plain


@pytest.mark.parametrize("outside", ["sequence", "zero"])
@pytest.mark.parametrize("credit_unit", ["divide", "copy"])
@pytest.mark.parametrize("share", [0.1, 1 / 3, 7.0])
def test_proportional_with_equal_shares_over_the_whole_completion_has_the_loss_and_gradient_of_grpo_to_the_last_bit(
    outside, credit_unit, share
):
    lengths = [3, 7, 48]
    tokens = token_map([range(length) for length in lengths])
    given_credit = credit([0.7, -1.3, 1 / 3], [share] * sum(lengths))
    drawn = generator(4).normal(scale=0.2, size=(2, sum(lengths)))
    found = []
    for rule in ("uniform", "proportional"):
        advantages = redistribute(rule, tokens, given_credit, Settings(outside=outside, credit_unit=credit_unit)).advantages
        logprobs = torch.from_numpy(drawn[0].copy()).requires_grad_()
        weights = torch.from_numpy(token_weights(lengths, "seq_mean", 50))
        drawn_tokens = Tokens(logprobs, torch.from_numpy(drawn[1]), torch.from_numpy(advantages), weights, lengths)
        result = clipped_loss(drawn_tokens, Update())
        result.loss.backward()
        found.append((result.loss.item(), logprobs.grad.tolist()))
    assert found[0] == found[1]


def test_the_settings_of_a_rule_are_named_as_its_parameters():
    from ospo_cli.params.attribute import Attribute

    assert {field.name for field in dataclasses.fields(Settings)} <= {field.name for field in dataclasses.fields(Attribute)}

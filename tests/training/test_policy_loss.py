import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.params.update import Update
from ospo_cli.training.policy_loss import Tokens, clipped_loss, k3, token_weights


def loss_of(logprobs, behavior, advantages, **settings):
    rows = [torch.tensor(numbers, dtype=torch.float64) for numbers in (behavior, advantages, [1.0] * len(behavior))]
    tokens = Tokens(logprobs, *rows, [len(behavior)], reference_logprobs=settings.pop("reference_logprobs", None))
    return clipped_loss(tokens, Update(clip_low=0.2, clip_high=0.3, **settings))


def test_ratio_one_gives_minus_the_advantage_and_the_policy_gradient():
    logprobs = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    result = loss_of(logprobs, [-1.0, -2.0, -0.5], [1.0, -2.0, 0.0])
    result.loss.backward()
    assert result.loss.item() == pytest.approx(1.0)
    assert logprobs.grad.tolist() == pytest.approx([-1.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "has_gradient"),
    [(1.5, 1.0, -1.3, False), (0.5, 1.0, -0.5, True), (0.5, -1.0, 0.8, False), (1.5, -1.0, 1.5, True)],
)
def test_clipping_takes_the_gradient_only_where_the_step_has_gone_far_enough(ratio, advantage, expected, has_gradient):
    logprobs = torch.tensor([np.log(ratio)], dtype=torch.float64, requires_grad=True)
    result = loss_of(logprobs, [0.0], [advantage])
    result.loss.backward()
    assert result.loss.item() == pytest.approx(expected)
    assert (logprobs.grad.abs().item() > 0, not result.is_clipped.item()) == (has_gradient, has_gradient)


def test_the_penalty_is_the_kl_divergence_in_expectation():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.log_softmax(torch.randn(50, generator=generator, dtype=torch.float64), 0) for _ in range(2))
    assert (p.exp() * k3(p, q)).sum().item() == pytest.approx((p.exp() * (p - q)).sum().item())


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_penalty_is_never_negative_and_zero_for_equal_policies(a, b):
    first, second = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert k3(first, second).item() >= 0
    assert k3(first, first).item() == 0


def test_the_penalty_enters_the_loss_with_its_weight():
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    reference = torch.tensor([-1.5, -1.0], dtype=torch.float64)
    plain = loss_of(logprobs, [-1.0, -2.0], [0.5, 0.5]).loss
    penalised = loss_of(logprobs, [-1.0, -2.0], [0.5, 0.5], reference_logprobs=reference, kl_weight=0.1).loss
    assert (penalised - plain).item() == pytest.approx(0.1 * k3(logprobs, reference).sum().item())


def test_seq_mean_weighs_rows_alike_token_mean_tokens_and_constant_neither():
    assert token_weights([2, 4], "seq_mean", 10).tolist() == [1 / 4] * 2 + [1 / 8] * 4
    assert token_weights([2, 4], "token_mean", 10).tolist() == [1 / 6] * 6
    assert token_weights([2, 4], "constant", 10).tolist() == [1 / 20] * 6


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_means_have_weights_that_sum_to_one(lengths):
    assert token_weights(lengths, "seq_mean", 30).sum() == pytest.approx(1)
    assert token_weights(lengths, "token_mean", 30).sum() == pytest.approx(1)


def test_an_empty_row_counts_as_a_row():
    assert token_weights([0, 2], "seq_mean", 10).tolist() == [1 / 4] * 2


@pytest.mark.parametrize(("advantage", "expected"), [(-1.0, 3.0), (-0.5, 1.5), (1.0, -1.3)])
def test_the_dual_clip_bounds_the_ratio_of_a_negative_advantage_and_leaves_a_positive_one_to_the_upper_clip(advantage, expected):
    logprobs = torch.tensor([np.log(5.0)], dtype=torch.float64, requires_grad=True)
    result = loss_of(logprobs, [0.0], [advantage], dual_clip=3.0)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(expected)
    assert (result.is_clipped.item(), logprobs.grad.item()) == (True, 0.0)


def test_a_ratio_within_the_dual_clip_is_as_without_it():
    found = []
    for dual_clip in (0.0, 3.0):
        logprobs = torch.tensor([np.log(2.5), np.log(0.4)], dtype=torch.float64, requires_grad=True)
        result = loss_of(logprobs, [0.0, 0.0], [-1.0, 1.0], dual_clip=dual_clip)
        result.loss.backward()
        found.append((result.loss.item(), logprobs.grad.tolist(), result.is_clipped.tolist()))
    assert found[0] == found[1]
    assert found[0][2] == [False, False]

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli.sampling.next_token import Sampling, cut, draw

COUNT = 20_000


def spread(logits, sampling):
    """Return what evenly spread uniforms draw from one row of logits."""
    uniforms = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT
    return draw(torch.tensor([logits]), torch.zeros(COUNT, dtype=torch.int64), uniforms, torch.zeros(COUNT, dtype=torch.bool), sampling)


def one(logits, uniform=0.5, greedy=False, sampling=None):
    """Return one draw from one row of logits."""
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    return draw(torch.tensor([logits]), torch.zeros(1, dtype=torch.int64), uniforms, torch.tensor([greedy]), sampling or Sampling())


def slow_kept(logits, sampling):
    """Return the probabilities of the definition, in the order of a sort, one token after another."""
    probabilities = np.exp(np.array(logits) / sampling.temperature - np.max(logits) / sampling.temperature)
    probabilities /= probabilities.sum()
    order = sorted(range(len(logits)), key=lambda token: -probabilities[token])
    kept = order[: sampling.top_k or len(order)]
    inside = sum(probabilities[token] for token in kept)
    nucleus, held = [], 0.0
    while held < sampling.top_p * inside * (1 - 1e-9):
        nucleus.append(kept[len(nucleus)])
        held += probabilities[nucleus[-1]]
    return {token: probabilities[token] / held for token in nucleus}


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(2.0, top_k=2), Sampling(1.0, top_p=0.7), Sampling(0.7, 4, 0.9), Sampling(1.0, 1)]
)
def test_draws_follow_the_distribution_that_is_declared(sampling):
    logits = [0.0, 1.0, -1.0, float("-inf"), 2.5, 0.3, -2.0]
    found, expected = spread(logits, sampling), slow_kept(logits, sampling)
    shares = torch.bincount(found.token, minlength=7) / COUNT
    assert {token for token in range(7) if shares[token]} == {token for token, share in expected.items() if share}
    assert all(abs(float(shares[token]) - share) < 1e-4 for token, share in expected.items())
    assert np.allclose(found.sampled_logprobs.exp(), [expected[int(token)] for token in found.token], atol=1e-6)


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(0, 40), st.floats(0.05, 1.0), st.integers(0, 10_000))
def test_cuts_keep_what_the_definition_keeps_at_any_size_of_vocabulary(size, top_k, top_p, seed):
    logits = np.random.default_rng(seed).permutation(size) / 50.0  # no ties
    sampling = Sampling(1.0, top_k, top_p)
    kept = cut(torch.softmax(torch.tensor(logits)[None], -1), sampling)[0]
    assert set(torch.nonzero(kept)[:, 0].tolist()) == set(slow_kept(logits, sampling))


@settings(max_examples=60)
@given(st.integers(1, 700), st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 10_000))
def test_a_draw_is_where_the_running_sum_passes_the_uniform(size, uniform, seed):
    logits = np.random.default_rng(seed).normal(size=size).astype(np.float32) * 3
    running = torch.softmax(torch.tensor(logits), -1).double().cumsum(0).numpy()
    token = int(one(logits.tolist(), uniform).token)
    target = uniform * running[-1]
    assert running[token] > target - 1e-12
    assert token == 0 or running[token - 1] <= target + 1e-12


def test_equally_likely_tokens_at_the_border_are_all_kept():
    assert set(spread([1.0, 0.0, 0.0, 0.0, -1.0], Sampling(1.0, top_k=2)).token.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_unit_interval_never_draw_what_has_no_probability(uniform):
    logits = [float("-inf")] * 300 + [2.0] + [float("-inf")] * 300
    assert int(one(logits, uniform).token) == 300


def test_greedy_takes_the_first_of_the_likeliest_with_certainty_and_the_raw_policys_log_probability():
    found = one([0.0, 2.0, 2.0], 0.9, greedy=True, sampling=Sampling(0.1))
    raw = float(torch.log_softmax(torch.tensor([0.0, 2.0, 2.0]), 0)[1])
    assert (int(found.token), float(found.sampled_logprobs)) == (1, 0.0)
    assert float(found.policy_logprobs) == float(found.logprobs) == pytest.approx(raw)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_show_in_every_log_probability(bad, greedy):
    found = one([0.0, bad, 1.0], greedy=greedy, sampling=Sampling(0.9, 2, 0.9))
    assert all(bool(values.isnan().all()) for values in (found.logprobs, found.sampled_logprobs, found.policy_logprobs))

"""Every loss against a slow reference that goes token by token; divergences and ratios against what they should be in expectation."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ospo_cli import presets
from ospo_cli.params.attribute import Attribute
from ospo_cli.params.update import Update
from ospo_cli.training.policy_loss import Tokens, clipped_loss, kl_terms, row_means, sampler_weights, token_weights

numbers = st.floats(-0.5, 0.5)
TOKEN = st.tuples(numbers, numbers, st.floats(-2, 2), numbers, st.floats(0, 3), st.sampled_from([0.0, 0.4, 1.0, 2.0]))
ROWS = st.lists(st.lists(TOKEN, min_size=1, max_size=5), min_size=1, max_size=4)
CAP = 10


def reference_loss(rows, update, is_corrected):
    """The loss as the papers write it: logprob, old, advantage, reference, entropy, correction per token."""
    total, tokens = 0.0, sum(len(row) for row in rows)
    for row in rows:
        logs = [token[0] - token[1] for token in row]
        trace = [sum(update.trace ** (t - s) * logs[s] for s in range(t + 1)) for t in range(len(row))]
        for t, (logprob, _, advantage, reference, entropy, correction) in enumerate(row):
            ratio = math.exp(trace[t] if update.ratio == "token" else sum(logs) / len(row))
            best = min(ratio * advantage, min(max(ratio, 1 - update.clip_low), 1 + update.clip_high) * advantage)
            if update.dual_clip and advantage < 0:
                best = max(best, update.dual_clip * advantage)
            d = reference - logprob
            kl = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[update.kl] * (ratio if update.kl_in == "weighted-loss" else 1)
            loss = -best * (correction if is_corrected else 1) + update.kl_weight * kl - update.entropy_bonus * entropy
            total += loss / {"seq_mean": len(row) * len(rows), "token_mean": tokens, "constant": len(rows) * CAP}[update.aggregation]
    return total


def loss_of(rows, update, is_corrected=False):
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*[token for row in rows for token in row], strict=True)]
    logprobs, old, advantages, reference, entropies, correction = columns
    logprobs.requires_grad_()
    lengths = [len(row) for row in rows]
    weights = torch.from_numpy(token_weights(lengths, update.aggregation, CAP))
    tokens = Tokens(logprobs, old, advantages, weights, lengths, reference if update.kl_weight else None, entropies)
    result = clipped_loss(dataclasses.replace(tokens, correction=correction if is_corrected else None), update)
    return result, logprobs


UPDATES = st.builds(
    lambda ratio, trace, **others: dataclasses.replace(Update(), ratio=ratio, trace=trace if ratio == "token" else 0.0, **others),
    ratio=st.sampled_from(["token", "sequence", "sequence-token"]),
    trace=st.sampled_from([0.0, 0.7]),
    aggregation=st.sampled_from(["seq_mean", "token_mean", "constant"]),
    clip_low=st.sampled_from([0.0, 0.1, 0.2]),
    clip_high=st.sampled_from([0.1, 0.28]),
    dual_clip=st.sampled_from([0.0, 1.3, 3.0]),
    kl=st.sampled_from(["k1", "k2", "k3"]),
    kl_in=st.sampled_from(["loss", "weighted-loss"]),
    kl_weight=st.sampled_from([0.0, 0.3]),
    entropy_bonus=st.sampled_from([0.0, 0.2]),
)


@settings(max_examples=150)
@given(rows=ROWS, update=UPDATES, is_corrected=st.booleans())
def test_the_loss_is_that_of_the_plain_loop(rows, update, is_corrected):
    result, _ = loss_of(rows, update, is_corrected)
    assert result.loss.item() == pytest.approx(reference_loss(rows, update, is_corrected), abs=1e-9)
    assert sum(part.item() for part in result.parts.values()) == pytest.approx(result.loss.item(), abs=1e-9)


@settings(max_examples=30)
@given(rows=ROWS, update=UPDATES.filter(lambda update: update.ratio != "sequence-token"), data=st.data())
def test_the_gradient_is_that_of_the_plain_loop_by_small_differences(rows, update, data):
    result, logprobs = loss_of(rows, update)
    result.loss.backward()
    place = data.draw(st.integers(0, len(logprobs) - 1))
    flat = [(row, t) for row in range(len(rows)) for t in range(len(rows[row]))]
    row, t = flat[place]
    slopes = []
    for step in (1e-6, -1e-6):  # one-sided: at a kink of min or clip the gradient is that of one side
        moved = [list(tokens) for tokens in rows]
        moved[row][t] = (rows[row][t][0] + step, *rows[row][t][1:])
        slopes.append((reference_loss(moved, update, False) - reference_loss(rows, update, False)) / step)
    assert min(slopes) - 1e-4 <= logprobs.grad[place].item() <= max(slopes) + 1e-4


@pytest.mark.parametrize("name", presets.ALGORITHMS)
def test_the_row_of_an_algorithm_has_the_loss_of_the_plain_loop(name):
    rng = np.random.default_rng(presets.ALGORITHMS.index(name))
    rows = [[tuple(rng.normal(scale=0.2, size=6)) for _ in range(length)] for length in (3, 1, 6)]
    update = presets.load(name).update
    assert loss_of(rows, update)[0].loss.item() == pytest.approx(reference_loss(rows, update, False), abs=1e-9)


def test_the_rows_of_algorithms_set_the_same_names_and_differ():
    rows = [presets.algorithm_row(name) for name in presets.ALGORITHMS]
    names = [{section: set(values) for section, values in row.items()} for row in rows]
    assert all(each == names[0] for each in names)
    assert len({repr(row) for row in rows}) == len(presets.ALGORITHMS)


def test_the_row_of_the_default_method_is_the_defaults():
    row = presets.algorithm_row("splice")
    for section, defaults in (("attribute", Attribute()), ("update", Update())):
        assert {name: getattr(defaults, name) for name in row[section]} == row[section]


def test_the_sequence_ratio_spreads_credit_and_sequence_token_keeps_it_on_its_token():
    rows = [[(0.0, 0.0, advantage, 0.0, 0.0, 1.0) for advantage in (3.0, 0.0, 0.0)]]
    gradients = []
    for ratio in ("sequence", "sequence-token"):
        result, logprobs = loss_of(rows, dataclasses.replace(Update(), ratio=ratio))
        result.loss.backward()
        gradients.append(logprobs.grad.tolist())
    assert gradients[0] == pytest.approx([-1 / 3] * 3)
    assert gradients[1] == pytest.approx([-1.0, 0.0, 0.0])


# The expectation over the policy's own samples of a term's gradient, exactly: Σ_v p(v) ∇k(v) + (in the reward) Σ_v p(v) k(v) ∇log p(v).
def expected_pull(kl, where):
    generator = torch.Generator().manual_seed(1)
    logits, other = (torch.randn(6, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    policy, reference = torch.log_softmax(logits, 0), torch.log_softmax(other, 0)
    p = policy.detach().exp()
    terms = kl_terms(policy, reference, kl)
    if where == "loss":
        loss = (p * terms).sum()
    elif where == "weighted-loss":
        loss = (p * torch.exp(policy - policy.detach()) * terms).sum()
    else:
        loss = (p * terms.detach() * policy).sum()
    found = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    divergence = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)[0]
    reverse = torch.autograd.grad((reference.exp() * (reference - policy)).sum(), logits)[0]
    return found, divergence, reverse


@pytest.mark.parametrize(
    ("kl", "where"), [("k2", "loss"), ("k1", "weighted-loss"), ("k3", "weighted-loss"), ("k1", "reward")], ids=lambda value: value
)
def test_these_penalties_pull_along_the_gradient_of_the_divergence(kl, where):
    found, divergence, _ = expected_pull(kl, where)
    assert torch.allclose(found, divergence, atol=1e-12)


def test_k1_in_the_plain_loss_pulls_nowhere_and_k3_along_the_divergence_the_other_way_round():
    nowhere, divergence, reverse = expected_pull("k1", "loss")
    assert float(nowhere.abs().max()) < 1e-12 < float(divergence.abs().max())
    assert torch.allclose(expected_pull("k3", "loss")[0], reverse, atol=1e-12)


@given(st.lists(st.lists(st.floats(-3, 3, width=32), max_size=5), min_size=1, max_size=4), st.floats(1, 5))
def test_truncated_weights_stop_at_the_bound_and_masked_ones_fall_to_0_beyond_it(rows, bound):
    flat = np.array([value for row in rows for value in row], dtype=np.float32)
    lengths = [len(row) for row in rows]
    sums = np.array([np.float32(sum(row)) for row in rows for _ in row])
    for level, logs in (("token", flat), ("sequence", sums)):
        ratio = np.exp(logs.astype(np.float64))
        truncated, masked = (sampler_weights(flat, lengths, f"{level}-{how}", bound) for how in ("truncate", "mask"))
        assert truncated == pytest.approx(np.minimum(ratio, bound), rel=1e-4)
        inside = np.abs(ratio - bound) > 1e-3 * bound
        assert masked[inside] == pytest.approx(np.where(ratio <= bound, ratio, 0.0)[inside], rel=1e-4)


def test_a_sampler_that_differs_wildly_gives_a_bounded_weight_and_no_overflow():
    assert sampler_weights(np.array([500.0, -500.0], np.float32), [2], "token-truncate", 2.0).tolist() == [2.0, 0.0]


@given(st.lists(st.lists(st.floats(-3, 3), max_size=5), max_size=5))
def test_the_mean_of_a_row_is_its_own(rows):
    flat = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    expected = [sum(row) / len(row) for row in rows for _ in row]
    assert row_means(flat, [len(row) for row in rows]).tolist() == pytest.approx(expected)

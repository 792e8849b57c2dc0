"""Objective mirror-descent: against ten lines of plain autograd, against itself in another layout, and where its steps end."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli import presets
from ospo_cli.errors import ParameterError
from ospo_cli.params.update import Update
from ospo_cli.params.whole import from_mapping, to_mapping
from ospo_cli.policies.opening import load_policy
from ospo_cli.training import token_batches
from ospo_cli.training.objectives import objective_of
from ospo_cli.training.objectives.mirror_descent import units_of
from ospo_cli.training.policy_loss import Tokens
from ospo_cli.training.rows import Rows
from ospo_cli.training.token_batches import Group
from tests.policies.tabular import PROMPT, descend
from tests.policies.tiny import tiny_params, write_tiny_policy
from tests.training import five_answers
from tests.training.five_answers import LENGTHS, gradient_of, rows_of, step

# By answers; and by segments: a pair and one token, two apart, one, two together, one and three (the last of 0).
ANSWERS = np.repeat([0.7, -0.2, 0.0, 1.3, -1.0], LENGTHS)
SEGMENTS = np.array([0.5, 0.5, -0.4, 0.2, 0.3, 0.9, -0.6, -0.6, 1.1, 0.0, 0.0, 0.0])
UNITS = {"answer": [[0, 1, 2], [3, 4], [5], [6, 7], [8, 9, 10, 11]], "segment": [[0, 1], [2], [3], [4], [5], [6, 7], [8], [9, 10, 11]]}
BETA = 0.3


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(write_tiny_policy(tmp_path_factory.mktemp("policy") / "000", scale=2.0), 1, trainable=True)


def settings_of(**values):
    return tiny_params(update={"objective": "mirror-descent", "mirror_beta": BETA, **values}).update


def slow_logprobs(policy, temperature=1.0):
    return torch.cat(five_answers.slow_logprobs(policy, temperature))


def old_logprobs(policy, temperature=1.0):
    noise = np.random.default_rng(0).normal(scale=0.3, size=sum(LENGTHS))
    return slow_logprobs(policy, temperature).detach().numpy() + noise


@pytest.mark.parametrize(
    ("advantages", "units", "unit"),
    [
        (ANSWERS, UNITS["answer"], "segment"),
        (SEGMENTS, UNITS["segment"], "segment"),
        (SEGMENTS, [[token] for token in range(12)], "token"),
    ],
    ids=["per answer", "per segment", "per token"],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_and_gradient_are_those_of_plain_autograd(policy, advantages, units, unit, temperature):
    old = old_logprobs(policy, temperature)
    measures, gradient = step(policy, rows_of(advantages, old, temperature=temperature), settings_of(mirror_unit=unit))
    ratios = slow_logprobs(policy, temperature) - torch.from_numpy(old.astype(np.float32))
    expected = torch.zeros(())
    for tokens in units:
        own = ratios[tokens].sum()
        expected = expected - float(advantages[tokens[0]]) * own + BETA / 2 * own**2
    expected = expected / len(LENGTHS)
    assert measures["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert measures["loss"] == pytest.approx(measures["policy_loss"] + measures["kl_loss"], abs=1e-6)
    assert measures["tokens"] == 12
    assert measures["clipped_fraction"] == 0
    assert torch.allclose(gradient, gradient_of(policy, expected), atol=1e-5)


def test_at_the_policy_that_sampled_the_gradient_is_that_of_the_unclipped_surrogate_without_division_by_length(policy):
    rows = rows_of(SEGMENTS, slow_logprobs(policy).detach().numpy())
    _, gradient = step(policy, rows, settings_of())
    plain = tiny_params(update={"aggregation": "constant"}).update
    _, surrogate = step(policy, rows, plain)
    assert torch.allclose(gradient, surrogate * rows.max_new_tokens, atol=1e-4)


def test_layout_micro_batches_and_order_of_the_groups_change_rounding_alone(policy, monkeypatch):
    update, rows = settings_of(tokens_per_micro_batch=10_000), rows_of(SEGMENTS, old_logprobs(policy))
    whole, gradient = step(policy, rows, update)
    cut = step(policy, rows, dataclasses.replace(update, tokens_per_micro_batch=1))
    turned = step(policy, dataclasses.replace(rows, groups=rows.groups[::-1]), update)
    monkeypatch.setattr(token_batches, "packing_pays", lambda groups: False)
    for measures, other in (cut, turned, step(policy, rows, update)):
        assert measures["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5)


def test_groups_without_an_advantage_are_pulled_back_to_the_sampler(policy):
    rows = rows_of(np.zeros(12), old_logprobs(policy))
    measures, gradient = step(policy, rows, settings_of())
    assert measures["policy_loss"] == 0
    assert measures["kl_loss"] > 0
    assert gradient.abs().max() > 0
    own = rows_of(np.zeros(12), slow_logprobs(policy).detach().numpy())
    assert step(policy, own, settings_of())[1].abs().max() < 1e-5


numbers = st.floats(-2, 2, width=32)


@given(rows=st.lists(st.lists(st.tuples(numbers, st.sampled_from([0.0, 0.5, -1.0])), max_size=5), max_size=4), beta=st.floats(0.01, 3))
def test_each_unit_adds_its_own_line_and_parabola(rows, beta):
    update = dataclasses.replace(Update(), objective="mirror-descent", mirror_beta=beta)
    flat = [token for row in rows for token in row]
    logs, advantages = (torch.tensor([token[column] for token in flat], dtype=torch.float64) for column in (0, 1))
    tokens = Tokens(logs, torch.zeros_like(logs), advantages, torch.ones_like(logs), [len(row) for row in rows])
    expected = 0.0
    for row in rows:
        start = 0
        for end in range(1, len(row) + 1):
            if end == len(row) or row[end][1] != row[start][1]:
                own = sum(token[0] for token in row[start:end])
                expected += -row[start][1] * own + beta / 2 * own**2
                start = end
    assert objective_of(update).loss(tokens).loss.item() == pytest.approx(expected, abs=1e-6)


def test_units_end_with_their_row_even_where_the_next_row_has_the_same_advantage():
    advantages = torch.tensor([1.0, 1.0, 1.0, 2.0])
    assert units_of(advantages, [2, 0, 2], "segment").tolist() == [0, 0, 1, 2]
    assert units_of(advantages, [2, 0, 2], "token").tolist() == [0, 1, 2, 3]
    assert units_of(advantages[:0], [0, 0], "segment").tolist() == []


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def without_mean(rewards, beta):
    """Return advantages r − β·log mean exp(r / β): what Kimi k1.5 approximates by the mean reward."""
    return rewards - beta * np.log(np.exp(rewards / beta).mean())


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_a_bandit_ends_at_the_optimum_under_the_divergence(beta):
    # max E[r] − β·KL(π ‖ π_old) is at π ∝ π_old·exp(r / β); there every answer's L is its advantage over β, and the gradient is 0.
    rewards = np.array([0.0, 0.5, 0.8])
    counts, starts = np.ones(3, np.int64), np.arange(3)
    advantages = without_mean(rewards, beta).astype(np.float32)
    rows = Rows([Group([PROMPT], [[1], [2], [3]])], counts, starts, np.full(3, -np.log(3.0), np.float32), advantages, None, 1.0, 1)
    update = dataclasses.replace(Update(), objective="mirror-descent", mirror_beta=beta)
    policy = softmax(descend(rows, update, 200, 3.0 / beta)[PROMPT][1:])
    assert policy == pytest.approx(softmax(rewards / beta), abs=1e-3)
    assert np.log(policy * 3) == pytest.approx(advantages / beta, abs=4e-3)


def test_two_segments_with_credit_of_their_own_each_end_at_their_own_optimum():
    beta, first, second = 0.5, np.array([0.0, 0.5, 0.8]), np.array([0.4, 0.1, -0.3])
    answers = [[a, b] for a in (1, 2, 3) for b in (1, 2, 3)]
    credit = [without_mean(values, beta) for values in (first, second)]
    advantages = np.array([credit[place][token - 1] for answer in answers for place, token in enumerate(answer)], np.float32)
    counts = np.full(9, 2)
    rows = Rows(
        [Group([PROMPT], answers)], counts, np.cumsum(counts) - counts, np.full(18, -np.log(3.0), np.float32), advantages, None, 1.0, 2
    )
    update = dataclasses.replace(Update(), objective="mirror-descent", mirror_beta=beta)
    logits = descend(rows, update, 300, 6.0)
    assert softmax(logits[PROMPT][1:]) == pytest.approx(softmax(first / beta), abs=1e-3)
    for before in (1, 2, 3):
        assert softmax(logits[before][1:]) == pytest.approx(softmax(second / beta), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror_beta": 0.0}, r"update\.mirror_beta: .*found 0\.0, expected .*1e-06"),
        ({"aggregation": "token_mean"}, r"update\.aggregation: is not of objective mirror-descent: found token_mean, expected .*seq_mean"),
        ({"examples_file": "x.parquet"}, r"update\.examples_file: is not of objective mirror-descent"),
        ({"kl_weight": 0.1}, r"update\.kl_weight: is not of objective mirror-descent"),
    ],
)
def test_settings_that_it_does_not_have_are_refused(values, message):
    mapping = to_mapping(presets.load("mirror-descent"))
    with pytest.raises(ParameterError, match=message):
        from_mapping(mapping | {"update": mapping["update"] | values})

import dataclasses

import numpy as np
import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.policies import token_batches
from ospo_cli.policies.causal_lm import Sampler, draw
from ospo_cli.policies.folder import load_policy, render_prompt
from ospo_cli.policies.token_batches import Group
from ospo_cli.policies.token_logprobs import token_logprobs

MESSAGES = ["coat", "a much longer wish for red leather boots", "scarf navy", "dress"]


def sample(policy, batch_size=64, messages=MESSAGES, group_size=5, **settings):
    prompts = [render_prompt(policy, message) for message in messages]
    names = [[f"{message}/{index}" for index in range(group_size)] for message in messages]
    values = {"max_new_tokens": 10, "temperature": 1.0, "seed": 3} | settings
    return prompts, Sampler(policy).sample(prompts, names, batch_size=batch_size, **values)


def test_log_probabilities_are_those_of_a_forward_pass_over_the_whole_row(tiny_policy):
    prompts, groups = sample(tiny_policy, temperature=0.7)
    flat = [row for group in groups for row in group]
    rows = [Group(prompt, [row.token_ids]) for prompt, group in zip(prompts, groups, strict=True) for row in group]
    with torch.no_grad():
        found, _ = token_logprobs(tiny_policy.model, token_batches.build(rows, tiny_policy.pad_token_id), 0.7)
    assert np.abs(found.numpy() - np.concatenate([row.logprobs for row in flat])).max() < 1e-4


@pytest.mark.parametrize("batch_size", [1, 5, 7, 1000])
def test_the_batch_size_changes_no_token(tiny_policy, batch_size):
    _, expected = sample(tiny_policy)
    _, found = sample(tiny_policy, batch_size=batch_size)
    assert [[row.token_ids for row in group] for group in found] == [[row.token_ids for row in group] for group in expected]


def test_a_row_is_the_same_alone_and_among_others(tiny_policy):
    _, among = sample(tiny_policy)
    _, alone = sample(tiny_policy, messages=MESSAGES[2:3])
    assert [row.token_ids for row in alone[0]] == [row.token_ids for row in among[2]]


def test_another_seed_gives_other_completions_and_the_same_seed_the_same(tiny_policy):
    texts = [[row.text for group in sample(tiny_policy, seed=seed)[1] for row in group] for seed in (3, 3, 4)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_greedy_takes_the_likeliest_token_each_time(tiny_policy):
    prompts, groups = sample(tiny_policy, greedy=True, group_size=1, max_new_tokens=6)
    expected = []
    for prompt in prompts:
        found = []
        while len(found) < 6 and tiny_policy.end_token_id not in found:
            with torch.no_grad():
                found.append(int(tiny_policy.model(torch.tensor([prompt + found])).logits[0, -1].argmax()))
        expected.append(found)
    assert [group[0].token_ids for group in groups] == expected


def test_a_longer_cap_prolongs_completions_and_changes_no_token_before(tiny_policy):
    _, short = sample(tiny_policy, max_new_tokens=4)
    _, long = sample(tiny_policy, max_new_tokens=9)
    assert [[row.token_ids for row in group] for group in short] == [[row.token_ids[:4] for row in group] for group in long]


def test_the_finish_reason_is_stop_exactly_where_the_end_token_was_sampled(tiny_policy):
    rows = [row for group in sample(tiny_policy, group_size=64, max_new_tokens=30)[1] for row in group]
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert all((row.finish_reason == "stop") == (row.token_ids[-1] == tiny_policy.end_token_id) for row in rows)
    assert all(tiny_policy.end_token_id not in row.token_ids[:-1] for row in rows)
    assert all(len(row.token_ids) == 30 for row in rows if row.finish_reason == "length")


def test_draws_follow_the_tempered_distribution():
    logits = torch.tensor([[0.0, 1.0, -1.0, float("-inf")]])
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    token, logprob = draw(logits.expand(20_000, -1), 0.5, uniforms)
    expected = torch.softmax(logits[0] / 0.5, 0)
    assert torch.allclose(torch.bincount(token, minlength=4) / 20_000, expected, atol=1e-4)
    assert torch.allclose(logprob.exp(), expected[token])


def test_a_uniform_of_zero_never_draws_what_has_no_probability():
    token, _ = draw(torch.tensor([[float("-inf"), 2.0, 1.0]]), 1.0, torch.zeros(1, dtype=torch.float64))
    assert token.item() == 1


def test_nan_logits_are_an_error_that_names_the_row(tiny_folder):
    policy = load_policy(tiny_folder, threads=1)
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match="NaN or infinite logits for coat/0 at position 0"):
        sample(policy)


def test_a_prompt_that_does_not_fit_the_context_is_an_error(tiny_policy):
    policy = dataclasses.replace(tiny_policy, context_length=16)
    with pytest.raises(PolicyError, match="does not fit the context"):
        sample(policy)


def test_groups_may_be_empty(tiny_policy):
    assert Sampler(tiny_policy).sample([[1, 2]], [[]], 4, 1.0, 0, 8) == [[]]

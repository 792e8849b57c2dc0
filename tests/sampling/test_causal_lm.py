import dataclasses

import numpy as np
import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.policies.folder import load_model, render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.sampling.causal_lm import HuggingFaceDecoder, Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from tests.policies.tiny import write_tiny_policy

MESSAGES = ["coat", "a much longer wish for red leather boots", "scarf navy", "dress"]


def sample(policy, batch_size=64, messages=MESSAGES, group_size=5, sampler=None, greedy_rows=0, **settings):
    prompts = [render_prompt(policy, message) for message in messages]
    names = [[f"{message}/{index}" for index in range(group_size)] for message in messages]
    values = {"max_new_tokens": 10, "sampling": Sampling(), "seed": 3} | settings
    return prompts, (sampler or Sampler(policy)).sample(Request(prompts, names, batch_size=batch_size, **values), greedy_rows)


def test_log_probabilities_are_those_of_a_forward_pass_over_the_whole_row(tiny_policy):
    prompts, groups = sample(tiny_policy, sampling=Sampling(0.7))
    flat = [row for group in groups for row in group]
    rows = [Group(prompt, [row.token_ids]) for prompt, group in zip(prompts, groups, strict=True) for row in group]
    with torch.no_grad():
        found, _ = token_logprobs(tiny_policy.model, token_batches.build(rows, tiny_policy.pad_token_id), 0.7)
    # Logits of ± 60 leave float32 this much, by the processor's own order of sums.
    assert np.abs(found.numpy() - np.concatenate([row.logprobs for row in flat])).max() < 2e-4


@pytest.mark.parametrize("batch_size", [1, 5, 7, 1000])
def test_the_batch_size_changes_no_token_and_no_bit_of_a_log_probability(tiny_policy, batch_size):
    _, expected = sample(tiny_policy)
    _, found = sample(tiny_policy, batch_size=batch_size)
    assert found == expected


def test_the_order_of_the_prompts_changes_no_bit(tiny_policy):
    _, expected = sample(tiny_policy)
    _, found = sample(tiny_policy, messages=MESSAGES[::-1])
    assert found[::-1] == expected


def test_a_row_is_the_same_alone_and_among_others(tiny_policy):
    _, among = sample(tiny_policy)
    _, alone = sample(tiny_policy, messages=MESSAGES[2:3])
    assert alone[0] == among[2]


def test_rows_that_share_their_tokens_are_the_same_as_rows_of_prompts_apart(tiny_policy):
    prompt = render_prompt(tiny_policy, "coat")
    names = [f"row {index}" for index in range(24)]
    sampler = Sampler(tiny_policy)
    together = sampler.sample(Request([prompt], [names], 12, Sampling(0.5), 3, 64))[0]
    apart = [sampler.sample(Request([prompt], [[name]], 12, Sampling(0.5), 3, 64))[0][0] for name in names]
    assert len({row.token_ids[0] for row in together}) < 24
    assert together == apart


def test_the_decoder_of_any_model_draws_the_same_tokens(tiny_policy):
    sampler = Sampler(tiny_policy)
    _, expected = sample(tiny_policy, sampler=sampler, group_size=9, max_new_tokens=20)
    sampler.decoder = HuggingFaceDecoder(load_model(tiny_policy.folder))
    _, found = sample(tiny_policy, sampler=sampler, group_size=9, max_new_tokens=20)
    assert [[row.token_ids for row in group] for group in found] == [[row.token_ids for row in group] for group in expected]


def test_greedy_rows_beside_sampled_ones_change_neither(tiny_policy):
    _, both = sample(tiny_policy, greedy_rows=1, sampling=Sampling(0.8))
    _, sampled = sample(tiny_policy, sampling=Sampling(0.8))
    _, greedy = sample(tiny_policy, greedy_rows=5)
    assert [group[1:] for group in both] == [group[1:] for group in sampled]
    assert [group[0].token_ids for group in both] == [group[0].token_ids for group in greedy]


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(1.3, top_k=7), Sampling(0.9, top_p=0.8), Sampling(1.0, 20, 0.5)])
def test_log_probabilities_of_every_distribution_are_those_of_the_training_forward(tmp_path, sampling):
    # Weights half as wide as the other tests': there, logits of ± 60 leave float32 no more than 1e-4.
    tiny_policy = load_policy(write_tiny_policy(tmp_path / "policy", scale=4.0), threads=1)
    prompts, groups = sample(tiny_policy, sampling=sampling)
    rows = [Group(prompt, [row.token_ids]) for prompt, group in zip(prompts, groups, strict=True) for row in group]
    batch = token_batches.build(rows, tiny_policy.pad_token_id)
    with torch.no_grad():
        tempered, _ = token_logprobs(tiny_policy.model, batch, sampling.temperature)
        raw, _ = token_logprobs(tiny_policy.model, batch, 1.0)
    flat = [row for group in groups for row in group]
    assert np.abs(tempered.numpy() - np.concatenate([row.logprobs for row in flat])).max() < 1e-4
    assert np.abs(raw.numpy() - np.concatenate([row.policy_logprobs for row in flat])).max() < 1e-4


def test_another_seed_gives_other_completions_and_the_same_seed_the_same(tiny_policy):
    texts = [[row.text for group in sample(tiny_policy, seed=seed)[1] for row in group] for seed in (3, 3, 4)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_greedy_takes_the_likeliest_token_each_time(tiny_policy):
    prompts, groups = sample(tiny_policy, greedy_rows=1, group_size=1, max_new_tokens=6)
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


def test_nan_logits_are_an_error_that_names_the_row(tiny_folder):
    policy = load_policy(tiny_folder, threads=1)
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(PolicyError, match="NaN or infinite logits for coat/0 at position 0: found 20 such of 20 rows"):
        sample(policy)


def test_a_prompt_that_does_not_fit_the_context_is_an_error(tiny_policy):
    policy = dataclasses.replace(tiny_policy, context_length=16)
    with pytest.raises(PolicyError, match="does not fit the context"):
        sample(policy)


def test_groups_may_be_empty(tiny_policy):
    assert Sampler(tiny_policy).sample(Request([[1, 2]], [[]], 4, Sampling(), 0, 8)) == [[]]

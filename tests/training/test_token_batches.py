import numpy as np
import pytest
import torch

from ospo_cli.policies.opening import load_policy
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs


def random_groups(seed=0, vocabulary=280, lengths=((7, (3, 5, 1)), (2, (4, 4, 4, 9)), (11, (2,)))):
    rng = np.random.default_rng(seed)
    groups, first = [], 0
    for prompt, completions in lengths:
        groups.append(
            Group(rng.integers(2, vocabulary, prompt).tolist(), [rng.integers(2, vocabulary, n).tolist() for n in completions], first)
        )
        first += len(completions)
    return groups


def logprobs_and_gradient(policy, batches):
    policy.model.zero_grad()
    found = [token_logprobs(policy.model, token_batches.build(part, policy.pad_token_id), 0.9)[0] for part in batches]
    (torch.cat(found) ** 2).sum().backward()
    return torch.cat(found).detach(), torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])


@pytest.fixture(scope="module")
def trainable(tiny_folder):
    return load_policy(tiny_folder, threads=1, trainable=True)


def test_a_packed_group_gives_the_log_probabilities_and_gradients_of_its_completions_apart(trainable):
    groups = random_groups()
    packed, packed_gradient = logprobs_and_gradient(trainable, [groups])
    apart, apart_gradient = logprobs_and_gradient(trainable, [[single] for group in groups for single in group.apart()])
    assert torch.allclose(packed, apart, atol=1e-5)
    assert torch.allclose(packed_gradient, apart_gradient, rtol=1e-4, atol=1e-5 * float(apart_gradient.abs().max()))


def test_filling_changes_no_log_probability(trainable):
    singles = [single for group in random_groups() for single in group.apart()]
    together, _ = logprobs_and_gradient(trainable, [singles])
    apart, _ = logprobs_and_gradient(trainable, [[single] for single in singles])
    assert torch.allclose(together, apart, atol=1e-5)


def test_an_empty_completion_has_no_tokens_and_disturbs_no_other(trainable):
    prompt, completion = [5, 6, 7], [8, 9]
    with_empty, _ = logprobs_and_gradient(trainable, [[Group(prompt, [[], completion, []])]])
    alone, _ = logprobs_and_gradient(trainable, [[Group(prompt, [completion])]])
    assert torch.allclose(with_empty, alone, atol=1e-6)


def test_a_change_in_one_completion_changes_no_other_completion_of_its_row(trainable):
    group = random_groups(lengths=((5, (4, 4, 4)),))[0]
    other = Group(group.prompt, [group.completions[0], [3, 3, 3, 3], group.completions[2]])
    before, _ = logprobs_and_gradient(trainable, [[group]])
    after, _ = logprobs_and_gradient(trainable, [[other]])
    assert torch.equal(before[[0, 1, 2, 3, 8, 9, 10, 11]], after[[0, 1, 2, 3, 8, 9, 10, 11]])
    assert not torch.allclose(before[4:8], after[4:8])


@pytest.mark.parametrize("budget", [1, 20, 60, 10_000])
def test_micro_batches_hold_every_completion_once_within_the_budget(budget):
    groups = random_groups()
    batches = token_batches.micro_batches(groups, budget)
    found = [(single.first, single.completions[0]) for part in batches for group in part for single in group.apart()]
    assert sorted(found) == [(single.first, single.completions[0]) for group in groups for single in group.apart()]
    alone = [len(part) == 1 and len(part[0].completions) == 1 for part in batches]
    fits = [len(part) * max(group.width for group in part) <= budget for part in batches]
    assert all(one or other for one, other in zip(alone, fits, strict=True))


def test_packing_pays_for_long_prompts_and_not_for_single_completions():
    assert token_batches.packing_pays([Group([1] * 40, [[2] * 20] * 8)])
    assert not token_batches.packing_pays([Group([1] * 40, [[2] * 20])])

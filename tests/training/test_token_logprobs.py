"""Log-probabilities and entropies of long vocabularies in parts: the same numbers, and never all logits at once."""

import pytest
import torch

from ospo_cli.policies.folder import load_model
from ospo_cli.policies.opening import load_policy
from ospo_cli.training import token_batches, token_logprobs
from ospo_cli.training.token_batches import Group

GROUPS = [Group([5, 6, 7], [[8, 9, 10], [11, 12]]), Group([9], [[20, 21, 22, 23], [30]], 2)]


def found(folder, at_once, monkeypatch, is_head_frozen=False, temperature=0.7):
    """Return log-probabilities, entropies and the gradient of a function of both; logits in parts of so many rows."""
    policy = load_policy(folder, 1, trainable=True)
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(token_logprobs, "LOGITS_AT_ONCE", at_once * vocabulary)
    if is_head_frozen:
        policy.model.get_output_embeddings().weight.requires_grad_(False)
    batch = token_batches.build(GROUPS, policy.pad_token_id)
    logprobs, entropies = token_logprobs.token_logprobs(policy.model, batch, temperature, True, True)
    coefficients = torch.linspace(-1, 1, len(logprobs))
    ((coefficients * logprobs).sum() + (coefficients**2 * entropies).sum()).backward()
    weights = {name: weight.grad for name, weight in policy.model.named_parameters() if "embed" not in name}
    return logprobs.detach(), entropies.detach(), torch.cat([gradient.flatten() for _, gradient in sorted(weights.items())])


@pytest.mark.parametrize("is_head_frozen", [False, True])
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_parts_change_no_number(tiny_folder, monkeypatch, at_once, is_head_frozen):
    whole = found(tiny_folder, 1000, monkeypatch)
    parts = found(tiny_folder, at_once, monkeypatch, is_head_frozen)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize(("at_once", "is_head_frozen", "most"), [(2, False, 0), (2, True, 0), (1000, True, 0), (1000, False, 10)])
def test_logits_are_kept_for_the_backward_pass_only_where_they_are_few(tiny_folder, monkeypatch, at_once, is_head_frozen, most):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor):
        found(tiny_folder, at_once, monkeypatch, is_head_frozen)
    vocabulary = load_policy(tiny_folder, 1).model.get_output_embeddings().weight.shape[0]
    assert max((shape[0] for shape in kept if len(shape) == 2 and shape[-1] == vocabulary and shape[0] <= 10), default=0) == most


def test_targets_left_out_change_no_other(tiny_folder):
    policy = load_policy(tiny_folder, 1)
    batch = token_batches.build(GROUPS, policy.pad_token_id)
    whole, _ = token_logprobs.token_logprobs(policy.model, batch, 1.0)
    wanted = torch.tensor([True, False] * 5).numpy()
    some, _ = token_logprobs.token_logprobs(policy.model, batch.only(wanted), 1.0)
    assert torch.allclose(some, whole[::2], atol=1e-6)


def test_a_model_under_left_padding_gives_the_same_log_probabilities(tiny_folder):
    policy, theirs = load_policy(tiny_folder, 1), load_model(tiny_folder)
    batch = token_batches.build([single for group in GROUPS for single in group.apart()], policy.pad_token_id)
    ours, _ = token_logprobs.token_logprobs(policy.model, batch, 1.0)
    expected = []
    for group in GROUPS:
        for ids in group.completions:
            row = [*group.prompt, *ids]
            filling = 9 - len(row)
            mask = torch.tensor([[0] * filling + [1] * len(row)])
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = theirs(torch.tensor([[0] * filling + row]), attention_mask=mask, position_ids=positions).logits[0]
            places = range(filling + len(group.prompt) - 1, 8)
            expected += [torch.log_softmax(logits[place], -1)[token] for place, token in zip(places, ids, strict=True)]
    assert torch.allclose(ours, torch.stack(expected), atol=1e-5)

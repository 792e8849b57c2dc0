import dataclasses
import shutil

import pytest
import torch

from ospo_cli.policies import opening
from ospo_cli.policies.lora import write_fresh_adapter
from ospo_cli.policies.opening import load_policy, save_policy
from ospo_cli.sampling.llama_decoder import LlamaDecoder
from ospo_cli.training import token_batches
from ospo_cli.training.reference import OtherAdapter, reference_for
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from tests.policies.tiny import tiny_params, write_tiny_policy

SETTINGS = tiny_params(policy={"lora_rank": 4, "lora_alpha": 8.0}).policy
BATCH = token_batches.build([Group([5, 6, 7], [[8, 9, 10], [11, 12]])], 0)


def logprobs(policy):
    with torch.no_grad():
        return token_logprobs(policy.model, BATCH, 1.0)[0]


def write_adapter(root, number, settings=SETTINGS, base="tiny"):
    """Write an adapter folder whose weights all differ from 0."""
    folder = root / "data/policies" / number
    folder.mkdir(parents=True)
    write_fresh_adapter(folder, root / "data/pretrained" / base, root, settings, seed=0)
    policy = load_policy(folder, 1, trainable=True, project=root)
    generator = torch.Generator().manual_seed(int(number))
    for weight in policy.model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    save_policy(policy, folder)
    return folder


@pytest.fixture
def project(tiny_folder, tmp_path):
    """A base with adapters 000 and 001."""
    shutil.copytree(tiny_folder, tmp_path / "data/pretrained/tiny")
    for number in ("000", "001"):
        write_adapter(tmp_path, number)
    return tmp_path


def test_the_model_that_trains_gives_the_references_log_probabilities_and_keeps_its_own_weights(project, monkeypatch):
    first = project / "data/policies/000"
    policy = load_policy(project / "data/policies/001", 1, trainable=True, project=project)
    before, own = {name: weight.clone() for name, weight in policy.model.state_dict().items()}, logprobs(policy)
    expected = logprobs(load_policy(first, 1, project=project))
    monkeypatch.setattr(opening, "load_policy", lambda *_, **__: pytest.fail("loaded a second time"))
    reference = reference_for(policy, first, 1, project, "float32")
    assert torch.allclose(logprobs(reference), expected, atol=1e-5)
    assert not torch.allclose(expected, own, atol=1e-2)
    assert torch.equal(logprobs(policy), own)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())


def test_the_trained_weights_are_back_where_a_pass_under_the_others_fails(project):
    policy = load_policy(project / "data/policies/001", 1, trainable=True, project=project)
    own = logprobs(policy)
    reference = reference_for(policy, project / "data/policies/000", 1, project, "float32")
    with pytest.raises(AttributeError):
        reference.model.token_logprobs(None, 1.0, False, False, None)
    assert torch.equal(logprobs(policy), own)


@pytest.mark.parametrize("what", ["rank", "scale", "base"])
def test_an_adapter_that_the_model_cannot_take_is_opened_beside_it(project, what):
    settings = dataclasses.replace(SETTINGS, **{"rank": {"lora_rank": 2}, "scale": {"lora_alpha": 4.0}, "base": {}}[what])
    if what == "base":
        write_tiny_policy(project / "data/pretrained/other", seed=1)
    folder = write_adapter(project, "002", settings, "other" if what == "base" else "tiny")
    policy = load_policy(project / "data/policies/001", 1, trainable=True, project=project)
    reference = reference_for(policy, folder, 1, project, "float32")
    assert not isinstance(reference.model, OtherAdapter)
    assert torch.equal(logprobs(reference), logprobs(load_policy(folder, 1, project=project)))


def test_a_decoder_reads_an_adapter_beside_its_base_to_the_bit_as_merged(project):
    folder, prompts = project / "data/policies/001", [[5, 6, 7, 8], [9, 10]]
    beside, merged = (load_policy(folder, 1, trainable=trains, project=project).model for trains in (True, False))
    with torch.inference_mode():
        found, expected = (LlamaDecoder(model).prefill(prompts, 0, torch.device("cpu"), 4, 2) for model in (beside, merged))
    assert torch.equal(found, expected)

"""An adapter over a base in 4 bits: what trains, what samples, and what is refused."""

import importlib.util
import json
import shutil

import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.instruments import merge
from ospo_cli.policies import folder as folders
from ospo_cli.policies.four_bits import check_quantization, dequantized, load_quantized
from ospo_cli.policies.lora import write_fresh_adapter
from ospo_cli.policies.opening import load_policy, save_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.stages import rollout, update
from ospo_cli.tables import files
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from ospo_cli.training.training_state import Training
from tests.policies.tiny import TEXTS, folder_bytes, tiny_params, write_advantages, write_prepared

SIZES = {"hidden_size": 64, "intermediate_size": 128}  # rows shorter than a block of 64 weights have no kernel
GROUPS = [Group([5, 6, 7], [[8, 9, 10], [11, 12]])]


def params(**sections):
    policy = {**SIZES, "base": "data/pretrained/tiny", "lora_rank": 4, "lora_alpha": 8.0, "load_in_4bit": True}
    return tiny_params(policy=policy, **sections)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "tiny"
    folder.mkdir()
    write_small_llama(TEXTS, tiny_params(policy=SIZES).policy, 0, folder)
    return folder


@pytest.fixture
def project(base, tmp_path):
    layout = write_prepared(tmp_path)
    shutil.copytree(base, tmp_path / "data/pretrained/tiny")
    layout.policy(0).mkdir(parents=True)
    write_fresh_adapter(layout.policy(0), tmp_path / "data/pretrained/tiny", tmp_path, params().policy, seed=0)
    return layout


def logprobs(policy):
    return token_logprobs(policy.model, token_batches.build(GROUPS, policy.pad_token_id), 1.0)[0]


def gradients(policy):
    policy.model.zero_grad()
    (-logprobs(policy).mean()).backward()
    return torch.cat([weight.grad.flatten() for name, weight in sorted(policy.model.named_parameters()) if weight.requires_grad])


def test_the_base_lies_in_4_bits_and_close_to_its_float32_values(base):
    plain, packed = folders.load_model(base), load_quantized(base)
    layer = packed.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() * 2 == plain.model.layers[0].mlp.up_proj.weight.numel()
    back = dequantized(packed).model.layers[0].mlp.up_proj.weight
    error = (back - plain.model.layers[0].mlp.up_proj.weight).abs().mean() / plain.model.layers[0].mlp.up_proj.weight.abs().mean()
    assert 0.01 < float(error) < 0.12


def test_training_over_4_bits_has_the_likelihoods_and_gradients_of_the_values_they_stand_for(project):
    packed = load_policy(project.policy(0), 1, trainable=True, project=project.root)
    with torch.no_grad():
        for name, weight in packed.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
    project.policy(1).mkdir()
    save_policy(packed, project.policy(1))
    card = json.loads((project.policy(1) / folders.CARD).read_text(encoding="utf-8"))
    assert card["bits"] == 4
    plain_base = dequantized(load_quantized(project.root / "data/pretrained/tiny"))
    shutil.rmtree(project.root / "data/pretrained/tiny/model.safetensors", ignore_errors=True)
    plain_base.save_pretrained(project.root / "plain", safe_serialization=True)
    folders.copy_tokenizer(project.root / "data/pretrained/tiny", project.root / "plain")
    from ospo_cli.policies.lora import weights_hash

    shutil.copytree(project.policy(1), project.policy(2))
    changed = {name: value for name, value in card.items() if name != "bits"} | {
        "base": "plain", "base_sha256": weights_hash(project.root / "plain"),
    }  # fmt: skip
    files.write_json(project.policy(2) / folders.CARD, changed)
    plain = load_policy(project.policy(2), 1, trainable=True, project=project.root)
    files.write_json(project.policy(2) / folders.CARD, changed)
    plain = load_policy(project.policy(2), 1, trainable=True, project=project.root)
    assert torch.allclose(logprobs(packed), logprobs(plain), atol=1e-5)
    assert torch.allclose(gradients(packed), gradients(plain), atol=1e-5)
    sampler = load_policy(project.policy(1), 1, project=project.root)
    assert torch.allclose(logprobs(sampler), logprobs(plain), atol=1e-5)


def test_only_the_adapter_trains_and_the_4_bits_stay(project):
    policy = load_policy(project.policy(0), 1, trainable=True, project=project.root)
    before = [bytes(weight.numpy().tobytes()) for weight in policy.model.parameters() if weight.dtype == torch.uint8]
    training = Training(policy.model, 0.0, 1.0)
    start = logprobs(policy).mean().item()
    for _ in range(4):
        (-logprobs(policy).mean()).backward()
        training.step(1e-2)
        policy.model.eval()  # as the training loop does between steps
    assert all("lora_" in name for name in training.weights)
    assert logprobs(policy).mean().item() > start + 0.1
    assert [bytes(weight.numpy().tobytes()) for weight in policy.model.parameters() if weight.dtype == torch.uint8] == before


def test_an_iteration_over_4_bits_samples_and_trains_the_same_policy(project):
    rollout.execute(project, params(), 1)
    write_advantages(project, 1)
    metrics = update.execute(project, params(), 1)
    assert metrics["logprob_mismatch"] < 1e-4
    first = folder_bytes(project.policy(1))
    update.execute(project, params(), 1)
    assert folder_bytes(project.policy(1)) == first
    merged = merge.merge(project.policy(1), project.root / "merged", project.root)
    assert (project.root / "merged/model.safetensors").is_file()
    assert merged is not None


def test_4_bits_without_an_adapter_over_a_pretrained_base_are_refused():
    for policy in ({"lora_rank": 0}, {"base": "config"}):
        wrong = tiny_params(policy={"base": "data/x", "lora_rank": 4, "load_in_4bit": True} | policy).policy
        with pytest.raises(PolicyError, match=r"policy\.load_in_4bit: is for an adapter over a pretrained base"):
            check_quantization(wrong)
    assert check_quantization(tiny_params().policy) is None


def test_4_bits_without_bitsandbytes_are_refused_before_anything_is_written(project, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else real(name, *rest))
    with pytest.raises(PolicyError, match=r"need the package bitsandbytes: found not installed; pip install '\.\[qlora\]'"):
        check_quantization(params().policy)
    with pytest.raises(PolicyError, match="adapter over a base in 4 bits needs the package bitsandbytes"):
        load_policy(project.policy(0), 1, trainable=True, project=project.root)

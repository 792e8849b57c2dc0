"""The Llama decoder without transformers: equal to transformers' to the bit, forward, backward, after steps, and on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ospo_cli.policies import plain_llama
from ospo_cli.policies.folder import load_model
from ospo_cli.policies.opening import load_policy, save_policy
from ospo_cli.sampling import llama_decoder
from ospo_cli.stages import rollout, update
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from tests.policies.tiny import copy_project, folder_bytes, tiny_params, write_advantages, write_project, write_tiny_policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("policy") / "000", scale=2.0)


def both(folder):
    return plain_llama.read(folder), load_model(folder)


def groups(seed=0, completions=(5, 1, 7)):
    rng = np.random.default_rng(seed)
    # 1 is the end token, which also fills: transformers gives its embedding no gradient.
    return [
        Group([0, *rng.integers(2, 280, width).tolist(), 1, 0], [[*rng.integers(2, 280, length).tolist(), 1] for length in completions])
        for width in (9, 4)
    ]


LAYOUTS = {
    "packed": groups(),
    "filled up": [single for group in groups() for single in group.apart()],
    "of one width": [single for group in groups(completions=(4,))[:1] for single in group.apart()],
    "a row of one token": [Group([0], [[5]])],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_logprobs_and_gradients_are_those_of_transformers_to_the_bit(folder, name):
    batch = token_batches.build(LAYOUTS[name], 1)
    found = []
    for model in both(folder):
        logprobs, entropies = token_logprobs(model, batch, 0.8, want_entropy=True, entropy_has_gradient=True)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().add(entropies.sum()).backward()
        found.append((logprobs.detach(), {key: weight.grad for key, weight in model.named_parameters()}))
    (own, own_gradients), (theirs, their_gradients) = found
    assert torch.equal(own, theirs)
    assert list(own_gradients) == list(their_gradients)
    assert [key for key in own_gradients if not torch.equal(own_gradients[key], their_gradients[key])] == []


def test_logits_without_positions_are_those_of_transformers(folder):
    ids = torch.tensor([[0, 5, 9, 1, 0, 7], [0, 200, 3, 3, 8, 1]])
    own, theirs = (model(ids).logits for model in both(folder))
    assert torch.equal(own, theirs)
    assert own.abs().max() > 1


def test_layers_that_are_computed_again_give_the_same_gradients(folder):
    batch = token_batches.build(groups(), 1)
    gradients = []
    for is_recomputed in (False, True):
        model = plain_llama.read(folder)
        model.model.is_recomputed = is_recomputed
        token_logprobs(model, batch, 1.0)[0].sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert torch.equal(*gradients)


def test_an_update_gives_the_bytes_that_it_gives_with_transformers(tmp_path, monkeypatch):
    layout = write_project(tmp_path / "project")
    rollout.execute(layout, tiny_params(), 1)
    write_advantages(layout, 1)
    plain = copy_project(layout, tmp_path / "plain")
    update.execute(plain, tiny_params(), 1)
    assert isinstance(load_policy(plain.policy(1), 1).model, plain_llama.PlainLlama)
    monkeypatch.setattr(plain_llama, "read", lambda folder: None)
    update.execute(layout, tiny_params(), 1)
    assert type(load_policy(layout.policy(1), 1).model).__module__.startswith("transformers.")
    assert folder_bytes(plain.policy(1)) == folder_bytes(layout.policy(1))
    assert folder_bytes(plain.policy(1)) != folder_bytes(plain.policy(0))


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_folder_is_written_as_transformers_writes_it(tmp_path, is_tied):
    folder = write_tiny_policy(tmp_path / "policy")
    weights = load_file(folder / "model.safetensors")
    head = {} if is_tied else {"lm_head.weight": weights["model.embed_tokens.weight"] * 2}
    save_file(weights | head, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": is_tied}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    policy = load_policy(folder, 1)
    written = tmp_path / "own", tmp_path / "theirs"
    for place in written:
        place.mkdir()
    save_policy(policy, written[0])
    load_model(folder).save_pretrained(written[1])
    found = folder_bytes(written[0])
    assert {name: found[name] for name in folder_bytes(written[1])} == folder_bytes(written[1])
    assert (policy.model.lm_head.weight is policy.model.model.embed_tokens.weight) == is_tied


def test_the_sampler_decodes_it_as_it_decodes_transformers_model(folder):
    prompts = [[0, 5, 9, 1, 0], [0, 7, 1, 0]]
    found = []
    with torch.inference_mode():
        for model in both(folder):
            decoder = llama_decoder.LlamaDecoder(model)
            first = decoder.prefill(prompts, 1, torch.device("cpu"), 4, 2)
            found.append(torch.cat([first, decoder.step(torch.tensor([11, 12]))]))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"hidden_act": "gelu"},
        {"dtype": "bfloat16"},
        {"attention_dropout": 0.1},
        {"sliding_window": 4},
        {"architectures": ["MistralForCausalLM"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_that_is_not_plain_is_left_to_transformers(folder, tmp_path, change):
    copy = write_tiny_policy(tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    assert plain_llama.fits(config)
    (copy / "config.json").write_text(json.dumps(config | change))
    assert plain_llama.read(copy) is None


def cut_off(path, weights):
    path.write_bytes(path.read_bytes()[:1000])


def in_two_files(path, weights):
    save_file(weights, path.with_name("model-2.safetensors"))


def with_norm(norm):
    def damage(path, weights):
        others = {name: weight for name, weight in weights.items() if name != "model.norm.weight"}
        save_file(others | norm, path, metadata={"format": "pt"})

    return damage


DAMAGES = {
    "cut off": cut_off,
    "in two files": in_two_files,
    "a weight is missing": with_norm({}),
    "a weight of another shape": with_norm({"model.norm.weight": torch.ones(3)}),
    "16 bits": with_norm({"model.norm.weight": torch.ones(32, dtype=torch.float16)}),
    "a weight more": with_norm({"model.norm.weight": torch.ones(32), "model.norm.bias": torch.ones(32)}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_weights_that_do_not_fit_are_left_to_transformers_to_name(tmp_path, name):
    copy = write_tiny_policy(tmp_path / "copy")
    with_norm({"model.norm.weight": torch.ones(32)})(copy / "model.safetensors", load_file(copy / "model.safetensors"))
    assert plain_llama.read(copy) is not None
    DAMAGES[name](copy / "model.safetensors", load_file(copy / "model.safetensors"))
    assert plain_llama.read(copy) is None

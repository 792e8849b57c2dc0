import json
import shutil

import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.instruments import merge
from ospo_cli.layout import Layout
from ospo_cli.policies import folder as folders
from ospo_cli.policies.lora import write_fresh_adapter
from ospo_cli.policies.opening import load_policy, save_policy
from ospo_cli.rewriting.setup import Setup, of_card
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from ospo_cli.training.training_state import Training
from tests.policies.tiny import folder_bytes, tiny_params, write_tiny_policy

GROUPS = [Group([5, 6, 7], [[8, 9, 10], [11, 12]])]
SETTINGS = tiny_params(policy={"lora_rank": 4, "lora_alpha": 8.0}).policy


@pytest.fixture
def project(tiny_folder, tmp_path):
    """A project with a base and a trained adapter."""
    base = tmp_path / "data" / "pretrained" / "tiny"
    shutil.copytree(tiny_folder, base)
    adapter = tmp_path / "data" / "policies" / "000"
    adapter.mkdir(parents=True)
    write_fresh_adapter(adapter, base, tmp_path, SETTINGS, seed=0)
    return tmp_path


def logprobs(policy):
    return token_logprobs(policy.model, token_batches.build(GROUPS, policy.pad_token_id), 1.0)[0]


def trained(project):
    policy = load_policy(project / "data/policies/000", threads=1, trainable=True)
    training = Training(policy.model, 0.0, 1.0)
    for _ in range(3):
        (-logprobs(policy).mean()).backward()
        training.step(1e-2)
    target = project / "data/policies/001"
    target.mkdir()
    save_policy(policy, target)
    return policy, training, target


def test_a_fresh_adapter_changes_nothing(project, tiny_policy):
    policy = load_policy(project / "data/policies/000", threads=1)
    assert torch.allclose(logprobs(policy), logprobs(tiny_policy), atol=1e-6)


def test_fresh_adapters_of_one_seed_are_equal_in_bytes(project):
    again = project / "again"
    again.mkdir()
    write_fresh_adapter(again, project / "data/pretrained/tiny", project, SETTINGS, seed=0)
    assert folder_bytes(again) == folder_bytes(project / "data/policies/000")


def test_a_trained_adapter_saved_loaded_and_merged_gives_the_log_probabilities_it_was_trained_to(project, tiny_policy):
    policy, _, target = trained(project)
    merged = load_policy(target, threads=1)
    assert torch.allclose(logprobs(merged), logprobs(policy), atol=1e-5)
    assert not torch.allclose(logprobs(merged), logprobs(tiny_policy), atol=1e-2)


def test_only_the_adapter_trains_and_only_the_adapter_is_saved(project):
    _, training, target = trained(project)
    assert all("lora_" in name for name in training.weights)
    assert sorted(path.name for path in target.glob("*.safetensors")) == ["adapter_model.safetensors"]
    assert (target / "adapter_model.safetensors").stat().st_size < (project / "data/pretrained/tiny/model.safetensors").stat().st_size


def test_the_card_names_the_base_by_its_path_within_the_project_and_its_hash(project):
    card = json.loads((project / "data/policies/000/ospo_policy.json").read_text())
    assert card["base"] == "data/pretrained/tiny"
    assert card["base_sha256"] == folders.file_hash(project / "data/pretrained/tiny/model.safetensors")
    assert str(project) not in (project / "data/policies/000/adapter_config.json").read_text()


def test_peft_loads_a_trained_adapter_from_the_projects_folder(project, monkeypatch):
    from peft import AutoPeftModelForCausalLM

    policy, _, _ = trained(project)
    monkeypatch.chdir(project)
    model = AutoPeftModelForCausalLM.from_pretrained("data/policies/001", local_files_only=True)
    assert torch.allclose(token_logprobs(model, token_batches.build(GROUPS, policy.pad_token_id), 1.0)[0], logprobs(policy), atol=1e-5)


def test_transformers_loads_a_trained_adapter_from_the_projects_folder(project, monkeypatch):
    from transformers import AutoModelForCausalLM

    policy, _, _ = trained(project)
    monkeypatch.chdir(project)
    model = AutoModelForCausalLM.from_pretrained("data/policies/001", local_files_only=True, dtype=torch.float32)
    assert torch.allclose(token_logprobs(model, token_batches.build(GROUPS, policy.pad_token_id), 1.0)[0], logprobs(policy), atol=1e-5)


def test_a_merged_policy_needs_neither_base_nor_adapter_and_says_what_it_was_made_from(project):
    policy, _, target = trained(project)
    made = merge.execute(Layout(project), 1)
    card = json.loads((project / "data/merged/001/ospo_policy.json").read_text())
    expected = (
        folders.file_hash(project / "data/pretrained/tiny/model.safetensors"),
        folders.file_hash(target / "adapter_model.safetensors"),
    )
    shutil.rmtree(project / "data/pretrained/tiny")
    shutil.rmtree(target)
    merged = load_policy(project / "data/merged/001", threads=1)
    assert torch.allclose(logprobs(merged), logprobs(policy), atol=1e-5)
    assert (card["kind"], card["base_sha256"], card["adapter_sha256"]) == ("merged", *expected)
    assert card["declared"] == merged.declared == policy.declared
    assert made["folder"].endswith("data/merged/001")


def test_full_weights_are_copied_with_the_card_of_how_they_are_asked(project):
    source, asked = project / "data/pretrained/tiny", Setup("{query}", "append", 9)
    made = merge.merge(source, project / "x", project, asked=asked)
    assert made["policy_sha256"] == folders.content_hash(source)
    assert of_card(project / "x") == asked


def test_nothing_is_overwritten_by_a_merged_policy(project):
    trained(project)
    with pytest.raises(PolicyError, match="not an empty folder"):
        merge.merge(project / "data/policies/001", project / "data/policies/000", project)


def test_an_adapter_over_another_base_is_not_merged(project):
    trained(project)
    write_tiny_policy(project / "data/pretrained/other", seed=1)
    shutil.rmtree(project / "data/pretrained/tiny")
    (project / "data/pretrained/other").rename(project / "data/pretrained/tiny")
    with pytest.raises(PolicyError, match="adapter of other base weights"):
        merge.execute(Layout(project), 1)


def test_another_base_is_refused(project):
    with open(project / "data/pretrained/tiny/model.safetensors", "r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\0\0\0\x3f")
    with pytest.raises(PolicyError, match="adapter of other base weights"):
        load_policy(project / "data/policies/000", threads=1)


def test_a_missing_base_is_named(project):
    shutil.rmtree(project / "data/pretrained/tiny")
    with pytest.raises(PolicyError, match="no folder data/pretrained/tiny"):
        load_policy(project / "data/policies/000", threads=1)


def test_an_adapter_without_a_card_is_refused(project):
    (project / "data/policies/000/ospo_policy.json").unlink()
    with pytest.raises(PolicyError, match="does not name its base"):
        load_policy(project / "data/policies/000", threads=1)


def test_a_project_may_be_moved(project, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = logprobs(load_policy(project / "data/policies/000", threads=1))
    shutil.move(project, moved)
    assert torch.equal(before, logprobs(load_policy(moved / "data/policies/000", threads=1)))

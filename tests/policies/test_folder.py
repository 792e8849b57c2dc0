import json
import shutil

import pytest

from ospo_cli.errors import PolicyError
from ospo_cli.policies import folder as folders
from ospo_cli.policies.opening import load_policy, save_policy
from tests.policies.tiny import folder_bytes


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "policy")


@pytest.mark.parametrize(
    ("file", "message"),
    [("tokenizer.json", "without tokenizer"), ("config.json", "without configuration"), ("model.safetensors", "without weights")],
)
def test_a_folder_that_lacks_a_part_is_refused_by_name(copied, file, message):
    (copied / file).unlink()
    with pytest.raises(PolicyError, match=message):
        load_policy(copied, threads=1)


def test_a_missing_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(PolicyError, match="run `ospo update --iter 2`"):
        load_policy(tmp_path / "002", threads=1, made_by="ospo update --iter 2")


def test_weights_in_pickle_form_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="pickle"):
        load_policy(copied, threads=1)


def test_code_from_the_folder_is_never_run(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(PolicyError, match="auto_map"):
        load_policy(copied, threads=1)


def test_weights_that_are_cut_off_are_one_line(copied):
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(PolicyError, match="is no file of weights"):
        load_policy(copied, threads=1)


def test_weights_of_another_configuration_are_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(PolicyError, match="do not fit the configuration"):
        load_policy(copied, threads=1)


def test_a_tokenizer_without_chat_template_is_refused(copied):
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(PolicyError, match="no chat template"):
        load_policy(copied, threads=1)


def test_the_content_hash_sees_weights_and_not_metrics(copied):
    before = folders.content_hash(copied)
    (copied / "warm_start_metrics.json").write_text("{}")
    (copied / folders.OPTIMIZER).write_bytes(b"moments")
    same = folders.content_hash(copied)
    (copied / "model.safetensors").write_bytes(b"other")
    assert (before == same, before == folders.content_hash(copied)) == (True, False)


def test_a_loaded_policy_saves_the_bytes_it_was_read_from(tiny_folder, tmp_path):
    save_policy(load_policy(tiny_folder, threads=1), tmp_path)
    read, saved = folder_bytes(tiny_folder), folder_bytes(tmp_path)
    assert [name for name in read if name != "model.safetensors" and saved.get(name) != read[name]] == []
    assert load_policy(tmp_path, threads=1).model.state_dict().keys() == load_policy(tiny_folder, threads=1).model.state_dict().keys()

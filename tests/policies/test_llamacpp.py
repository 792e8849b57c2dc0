"""A policy behind llama.cpp's server: equal ids of the prompt, equal greedy ids. Skipped where packages gguf and xllamacpp are absent.

xllamacpp holds llama.cpp's server: `pip install gguf xllamacpp` beside the other packages, then `pytest -n 0 -m slow` of this file.
"""

import json
import urllib.request

import pytest

from ospo_cli.policies import chat_template
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from tests.policies.tiny import write_tiny_policy

pytest.importorskip("gguf", reason="package gguf is not installed")
llama = pytest.importorskip("xllamacpp", reason="package xllamacpp (llama.cpp's server) is not installed")
MESSAGES = ["navy wool coat", "café красные туфли 12345", "it's  a\nlamp 5\" <answer>x</answer>", "赤い 靴", "<|im_end|> as typed"]
MOST = 16


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A policy and what asks llama.cpp's server of its GGUF file: (path of the server, content) -> answer."""
    from tests.policies import small_gguf

    folder = tmp_path_factory.mktemp("llamacpp")
    policy = write_tiny_policy(folder / "small")
    params = llama.CommonParams()
    params.model.path, params.n_ctx, params.port, params.warmup, params.use_jinja = (
        str(small_gguf.write(policy, folder / "a.gguf")),
        512,
        0,
        False,
        True,
    )
    params.n_parallel, params.cpuparams.n_threads = 1, 1
    server = llama.Server(params)

    def ask(path, content):
        body = json.dumps(content).encode()
        request = urllib.request.Request(server.listening_address + path, body, {"Content-Type": "application/json"})
        return json.loads(urllib.request.urlopen(request, timeout=120).read())

    return load_policy(policy, 1), ask


@pytest.mark.slow
def test_llama_cpp_renders_and_answers_as_the_policy_does(served):
    policy, ask = served
    prompts = [render_prompt(policy, message) for message in MESSAGES]
    request = Request(prompts, [[message] for message in MESSAGES], MOST, Sampling(), 0, 8)
    ours = [group[0].token_ids for group in Sampler(policy).sample(request, greedy_rows=1)]
    theirs = [
        ask("/completion", {"prompt": ids, "temperature": 0, "n_predict": MOST, "return_tokens": True, "cache_prompt": False})["tokens"]
        for ids in prompts
    ]
    assert theirs == ours
    for message, ids in zip(MESSAGES, prompts, strict=True):
        text = chat_template.as_text(policy.tokenizer, message)
        rendered = ask("/apply-template", {"messages": [{"role": "user", "content": text}]})["prompt"]
        assert ask("/tokenize", {"content": rendered, "add_special": False, "parse_special": True})["tokens"] == ids, message
    assert text != message  # the last one spells a special token, which is broken

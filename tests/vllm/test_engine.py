"""vLLM itself, no stand-in: its calls as the worker makes them, its log-probabilities against the update's forward pass."""

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ospo_cli.errors import PolicyError
from ospo_cli.params.rollout import Vllm
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.policies.pretrained import write_packaged
from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from ospo_cli.sampling.vllm_engine import PYTHON, VllmSampler, engine_arguments
from ospo_cli.training import token_batches
from ospo_cli.training.token_batches import Group
from ospo_cli.training.token_logprobs import token_logprobs
from tests.vllm.conftest import ENGINE

CAP = 12
# Largest difference between a log-probability of the engine and that of the update's forward pass, both in float32. The policy's weights
# are four times as large as usual: the sampler transformers itself is up to 1.4e-4 away (8,000 tokens), the engine 2.6e-4.
BOUND = 1e-3
MESSAGES = ["coat", "a much longer wish for red leather boots", "scarf navy", "dress"]
KINDS = ["full", "adapter"]


def prompts_of(policy, messages=MESSAGES):
    return [render_prompt(policy, message) for message in messages]


def sampled(engine, messages=MESSAGES, sampling=Sampling(), group_size=6, seed=3, cap=CAP):  # noqa: B008  (frozen)
    names = [[f"001:{message}:{index:02d}" for index in range(group_size)] for message in messages]
    return engine.sample(Request(prompts_of(engine.policy, messages), names, cap, sampling, seed, 64))


def difference(policy, groups, column, temperature, messages=MESSAGES):
    """Return the largest difference of a column to the forward pass of the policy."""
    rows = [Group(prompt, [row.token_ids]) for prompt, group in zip(prompts_of(policy, messages), groups, strict=True) for row in group]
    with torch.no_grad():
        found, _ = token_logprobs(policy.model, token_batches.build(rows, policy.pad_token_id), temperature)
    return float(np.abs(found.numpy() - np.concatenate([getattr(row, column) for group in groups for row in group])).max())


def cut_logprobs(policy, groups, sampling):
    """Return each sampled token's log-probability after the cuts, from the forward pass, token by token (slow)."""
    found = []
    for prompt, group in zip(prompts_of(policy), groups, strict=True):
        for row in group:
            ids = torch.tensor([[*prompt, *row.token_ids]])
            with torch.no_grad():
                logits = policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            for place, token in zip(logits, row.token_ids, strict=True):
                order = place.softmax(-1).sort(descending=True)
                kept = order.values[: sampling.top_k or None] / order.values[: sampling.top_k or None].sum()
                count = int((kept.cumsum(0) < sampling.top_p).sum()) + 1
                rank = int((order.indices == token).nonzero())
                found.append(float((kept[rank] / kept[:count].sum()).log()) if rank < count else -np.inf)
    return np.array(found)


@pytest.mark.parametrize("kind", KINDS)
def test_completions_are_token_ids_of_the_policy_up_to_its_end_token(engines, kind):
    engine = engines[kind]
    rows = [row for group in sampled(engine, group_size=40) for row in group]
    end = engine.policy.end_token_id
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert all(0 <= token < engine.policy.pieces.vocabulary_size for row in rows for token in row.token_ids)
    assert all((row.token_ids[-1] == end) == (row.finish_reason == "stop") and end not in row.token_ids[:-1] for row in rows)
    assert all(row.text == engine.policy.pieces.text(row.token_ids) for row in rows)


DRAWN = [Sampling(), Sampling(0.7), Sampling(1.3), Sampling(top_k=5), Sampling(top_p=0.8), Sampling(1.0, 8, 0.9)]


@pytest.mark.parametrize(("kind", "sampling"), [("adapter", Sampling()), *(("full", sampling) for sampling in DRAWN)])
def test_log_probabilities_are_those_of_the_updates_forward_pass(engines, trained, kind, sampling):
    groups = sampled(engines[kind], sampling=sampling)
    assert difference(trained[kind], groups, "logprobs", sampling.temperature) < BOUND
    assert difference(trained[kind], groups, "policy_logprobs", 1.0) < BOUND


@pytest.mark.parametrize("sampling", [Sampling(top_k=5), Sampling(top_p=0.8), Sampling(1.0, 8, 0.9)])
def test_sampled_log_probabilities_are_those_after_the_cuts(engines, trained, sampling):
    groups = sampled(engines["full"], sampling=sampling)
    found = np.concatenate([row.sampled_logprobs for group in groups for row in group])
    assert np.abs(cut_logprobs(trained["full"], groups, sampling) - found).max() < BOUND


def test_the_adapter_is_in_what_is_sampled(engines, trained):
    groups = sampled(engines["adapter"])
    assert difference(trained["full"], groups, "logprobs", 1.0) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_repeat_every_token_and_others_do_not(engines, kind):
    first, again, other = (sampled(engines[kind], seed=seed) for seed in (3, 3, 4))
    tokens = [[[row.token_ids for row in group] for group in groups] for groups in (first, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_rollouts_tokens_do_not_hang_on_what_else_is_asked_for(engines):
    together = sampled(engines["full"])
    alone = sampled(engines["full"], messages=MESSAGES[2:3])
    assert [row.token_ids for row in alone[0]] == [row.token_ids for row in together[2]]


def test_how_often_a_token_is_drawn_is_its_probability(engines, trained):
    rows = sampled(engines["full"], messages=["coat"], group_size=4000, cap=1)[0]
    policy = trained["full"]
    with torch.no_grad():
        expected = policy.model(input_ids=torch.tensor([render_prompt(policy, "coat")])).logits[0, -1].softmax(-1).numpy()
    share = np.bincount([row.token_ids[0] for row in rows], minlength=len(expected)) / len(rows)
    # Five standard errors: 300 tokens, each outside with probability 6e-7.
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / len(rows)) + 1 / len(rows)).all()


def in_its_environment(program):
    done = subprocess.run([os.environ.get(PYTHON) or sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_installed_package_takes_the_arguments_that_are_given(layout):
    arguments = sorted(engine_arguments(layout.policy(0), ENGINE, 64, 4))
    program = (
        "import inspect, json, dataclasses\n"
        "from vllm import LLM, SamplingParams\nfrom vllm.engine.arg_utils import EngineArgs\nfrom vllm.lora.request import LoRARequest\n"
        "from vllm.outputs import CompletionOutput, RequestOutput\nfrom vllm.logprobs import Logprob\n"
        "names = lambda thing: list(inspect.signature(thing).parameters)\n"
        "print(json.dumps({'engine': names(LLM.__init__) + [field.name for field in dataclasses.fields(EngineArgs)],"
        "'generate': names(LLM.generate), 'sampling': names(SamplingParams), 'adapter': names(LoRARequest),"
        "'output': names(CompletionOutput), 'request': names(RequestOutput), 'logprob': names(Logprob)}))"
    )
    found = in_its_environment(program)
    assert set(arguments) <= set(found["engine"])
    assert {"use_tqdm", "lora_request", "sampling_params"} <= set(found["generate"])
    given = "n temperature top_k top_p max_tokens logprobs prompt_logprobs detokenize ignore_eos stop_token_ids seed"
    assert set(given.split()) <= set(found["sampling"])
    assert found["adapter"][:3] == ["lora_name", "lora_int_id", "lora_path"]
    assert {"token_ids", "logprobs", "finish_reason"} <= set(found["output"])
    assert {"outputs", "prompt_logprobs"} <= set(found["request"])
    assert "logprob" in found["logprob"]


def test_an_engine_that_cannot_start_says_why(layout):
    policy = read_policy(layout.policy(0))
    broken = VllmSampler(policy, Vllm(eager=True, dtype="float32", tensor_parallel=64), 64, 1)
    with pytest.raises(PolicyError, match=r"the engine failed at the start"):
        sampled(broken)
    broken.close()


def test_an_engine_killed_from_outside_is_an_error_and_the_next_call_starts_another(layout):
    import signal

    engine = VllmSampler(read_policy(layout.policy(0)), ENGINE, 64, 1)
    first = sampled(engine, messages=["coat"])
    os.killpg(engine._process._process.pid, signal.SIGKILL)
    with pytest.raises(PolicyError, match=r"the engine failed at 6 completions from 001:coat:00 on.*exit status -9"):
        sampled(engine, messages=["coat"])
    again = sampled(engine, messages=["coat"])
    engine.close()
    assert [row.token_ids for row in again[0]] == [row.token_ids for row in first[0]]


def test_speed_and_agreement_are_printed_for_tiny_and_smollm2(engines, trained, tmp_path, capsys):
    cases = [("tiny", engines["full"], trained["full"], 32, 8, 48), ("tiny, adapter", engines["adapter"], trained["adapter"], 32, 8, 48)]
    try:
        write_packaged("smollm2-135m", tmp_path)
        cases.append(("SmolLM2-135M", VllmSampler(read_policy(tmp_path), ENGINE, LONG, 2), load_policy(tmp_path, 2), 16, 8, 40))
    except PolicyError as error:
        print(f"SmolLM2-135M left out: {error}")
    worst = 0.0
    for name, engine, policy, count, group_size, cap in cases:
        messages = [f"Rewrite this search: {MESSAGES[index % 4]} {index}" for index in range(count)]
        found = {}
        for who, sampler in (("vllm", engine), ("transformers", Sampler(policy))):
            best = 0.0
            for _ in range(3):
                began = time.perf_counter()
                groups = sampled(sampler, messages, group_size=group_size, cap=cap)
                tokens = sum(len(row.token_ids) for group in groups for row in group)
                best = max(best, tokens / (time.perf_counter() - began))
            found[who] = best, difference(policy, groups, "logprobs", 1.0, messages)
        with capsys.disabled():
            shown = [f"{who} {rate:.0f} tokens/s, largest log-probability difference {apart:.1e}" for who, (rate, apart) in found.items()]
            print(f"\n{name}, {count} prompts × {group_size}, at most {cap} tokens: {'; '.join(shown)}")
        worst = max(worst, found["vllm"][1])
        if name.startswith("SmolLM2"):
            engine.close()
    assert worst < BOUND


LONG = 128


def test_the_version_is_the_tested_one_or_is_noted(engines, capsys, layout):
    version = in_its_environment("import json, vllm; print(json.dumps(vllm.__version__))")
    engine = VllmSampler(read_policy(layout.policy(0)), ENGINE, 64, 1)
    sampled(engine, messages=["coat"])
    engine.close()
    assert ("was not tested" in capsys.readouterr().err) == (re.match(r"0\.32\.", version) is None)

"""Entropy and divergence of policies on their own samples, against transformers' own forward pass."""

import numpy as np
import polars as pl
import pytest
import torch

from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.policies.small_llama import write_small_llama
from ospo_cli.sampling import held_out
from ospo_cli.tables import parquet
from ospo_cli.training import sharpness
from tests.report import small_project

PROMPTS = pl.DataFrame({"prompt_id": [f"p{place}" for place in range(5)], "prompt": [f"navy wool coat {place}" for place in range(5)]})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, values = tmp_path_factory.mktemp("policies"), small_project.make_params()
    found = {}
    for place in range(2):
        folder = root / str(place)
        folder.mkdir()
        write_small_llama(["navy wool coat", "<answer>olive linen tote bag</answer>"], values.policy, place, folder)
        found[f"policy-00{place}"] = (folder, f"content {place}")
    return found


def test_entropy_and_divergence_are_those_of_a_plain_forward_pass(folders, tmp_path):
    values = small_project.make_params()
    found = sharpness.sharpness(PROMPTS, folders, values, tmp_path)
    assert found["policy-000"]["divergence"] == 0
    samples = [parquet.read(path, sharpness._SAMPLES) for path in tmp_path.rglob("samples.parquet")]
    policies = [load_policy(folder, 1) for folder, _ in folders.values()]

    def distributions(policy, ids):
        prompts = [render_prompt(policy, prompt) for prompt in PROMPTS["prompt"]]
        with torch.no_grad():
            logits = [
                policy.model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1] for prompt, own in zip(prompts, ids, strict=True)
            ]
        return torch.log_softmax(torch.cat(logits).double(), -1)

    for index, system in enumerate(folders):
        entropy = {}
        for frame in samples:
            logs = distributions(policies[index], frame["token_ids"].to_list())
            entropy[float(-(logs.exp() * logs).sum(-1).mean())] = frame
        closest = min(entropy, key=lambda value: abs(value - found[system]["entropy"]))
        assert closest == pytest.approx(found[system]["entropy"], abs=1e-5)
    ids = entropy[closest]["token_ids"].to_list()
    flat = torch.tensor([token for own in ids for token in own])[:, None]
    own, start = (distributions(policies[index], ids).gather(1, flat)[:, 0].numpy() for index in (1, 0))
    apart = start - own
    assert found["policy-001"]["divergence"] == pytest.approx(np.mean(np.exp(apart) - 1 - apart), rel=1e-4)
    assert found["policy-001"]["tokens"] == len(flat)


def test_finished_samples_are_found_again_and_other_weights_are_not(folders, tmp_path, monkeypatch):
    values = small_project.make_params()
    first = sharpness.sharpness(PROMPTS, folders, values, tmp_path)
    monkeypatch.setattr(sharpness, "_sample", None)
    assert sharpness.sharpness(PROMPTS, folders, values, tmp_path) == first
    other = folders | {"policy-001": (folders["policy-001"][0], "other content")}
    with pytest.raises(TypeError):
        sharpness.sharpness(PROMPTS, other, values, tmp_path)


def passes(samples, temperatures, temperature=1.0):
    values = small_project.make_params(rollout={"temperature": temperature}, evaluate={"samples": samples, "temperatures": temperatures})
    return [tuple(each) for each in held_out.passes(values.rollout, values.evaluate)]


def test_every_further_temperature_is_a_pass_of_a_quarter_of_the_samples():
    assert passes(5, [0.5, 0.25]) == [("sampled", 1.0, 5, 1), ("sampled-0.5", 0.5, 2, 0), ("sampled-0.25", 0.25, 2, 0)]


def test_the_rollouts_own_temperature_is_not_sampled_twice_and_no_samples_are_no_pass():
    assert passes(2, [0.7, 1.0], temperature=0.7) == [("sampled", 0.7, 2, 1), ("sampled-1", 1.0, 1, 0)]
    assert passes(0, [0.5]) == [("sampled", 1.0, 0, 1)]


def test_a_lower_temperature_draws_likelier_answers(folders, tmp_path):
    values = small_project.make_params(evaluate={"samples": 8, "temperatures": [0.05]})
    found = pl.concat(held_out.answers(PROMPTS, folders, values, tmp_path))
    kinds = found.group_by("system", "decoding", "prompt_id").agg(pl.col("completion").n_unique().alias("kinds"), pl.len())
    assert set(kinds.filter(pl.col("decoding") == "sampled-0.05")["len"]) == {2}
    assert set(found["decoding"]) == {"greedy", "sampled", "sampled-0.05"}
    warm = {decoding: rows["kinds"].to_numpy().mean() for (decoding,), rows in kinds.group_by("decoding")}
    assert warm["greedy"] == 1
    assert warm["sampled-0.05"] < warm["sampled"] / 1.5

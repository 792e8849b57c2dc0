"""`ospo rollout` and `ospo update` with rollouts of vLLM: the update finds no policy but its own, and corrects what is left."""

import dataclasses
import json

import pytest

from ospo_cli.stages import rollout, update
from ospo_cli.tables import parquet
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import copy_project, tiny_params, write_advantages
from tests.vllm.conftest import ENGINE, LORA, SIZES
from tests.vllm.test_engine import BOUND


def project(correction="none", sampler="vllm", **policy):
    params = tiny_params(policy={**SIZES, **policy}, rollout={"sampler": sampler}, update={"sampler_correction": correction})
    return dataclasses.replace(params, rollout=dataclasses.replace(params.rollout, vllm=ENGINE))


@pytest.mark.parametrize("correction", ["none", "token-truncate", "sequence-mask"])
def test_an_update_takes_rollouts_of_the_engine(layout, tmp_path, correction):
    layout, params = copy_project(layout, tmp_path / "p"), project(correction)
    metrics = rollout.execute(layout, params, 1)
    write_advantages(layout, 1)
    found = update.execute(layout, params, 1)
    stored = json.loads(layout.iteration(1, "update_metrics.json").read_text())
    print(f"correction {correction}: mismatch {found['logprob_mismatch']:.1e}, {metrics['tokens_per_second']:.0f} tokens/s")
    assert metrics["rollouts"] == 24
    assert stored["logprob_mismatch"] == found["logprob_mismatch"] < BOUND


def test_finished_shards_need_no_engine(layout, tmp_path):
    layout, params = copy_project(layout, tmp_path / "p"), project()
    rollout.execute(layout, params, 1)
    before = layout.iteration(1, "rollouts.parquet").read_bytes()
    broken = dataclasses.replace(params, rollout=dataclasses.replace(params.rollout, vllm=dataclasses.replace(ENGINE, start_seconds=0.01)))
    rollout.execute(layout, broken, 1)
    assert layout.iteration(1, "rollouts.parquet").read_bytes() == before


def test_two_iterations_of_an_adapter_sample_the_adapter_of_the_iteration_before(layout, tmp_path):
    layout, params = copy_project(layout, tmp_path / "p"), project(**LORA)
    base = layout.root / "base"
    layout.policy(0).rename(base)
    params = dataclasses.replace(params, policy=dataclasses.replace(params.policy, base="base"))
    from ospo_cli.policies.lora import write_fresh_adapter
    from ospo_cli.tables.files import replacing_folder

    with replacing_folder(layout.policy(0)) as folder:
        write_fresh_adapter(folder, base, layout.root, params.policy, 0)
    mismatches = []
    for iteration in (1, 2):
        rollout.execute(layout, params, iteration)
        write_advantages(layout, iteration)
        mismatches.append(update.execute(layout, params, iteration)["logprob_mismatch"])
    tokens = [parquet.read(layout.iteration(k, "rollouts.parquet"), ROLLOUTS)["token_ids"].to_list() for k in (1, 2)]
    assert max(mismatches) < BOUND
    assert tokens[0] != tokens[1]

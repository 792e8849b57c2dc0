"""K iterations as K commands write the bytes of K iterations in one process; packed rows have the gradient of padded ones under an adapter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ospo_cli import presets
from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import rollout, update
from ospo_cli.training import gradient_step, optimiser_steps, token_batches
from ospo_cli.training.row_building import to_rows
from ospo_cli.training.training_state import Checkpoint, Run, Training
from tests.policies.tiny import copy_project, folder_bytes, tiny_params, write_advantages, write_project

ITERATIONS = 3
# Moments, trace of staleness and learning rate all have to travel.
PARAMS = {"update": {"epochs": 2, "schedule": "cosine", "warmup_steps": 2, "clip_high": 0.28}, "train": {"iterations": ITERATIONS}}
HERE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}


def in_one_process(layout, params):
    for iteration in range(1, ITERATIONS + 1):
        rollout.execute(layout, params, iteration)
        write_advantages(layout, iteration)
        update.execute(layout, params, iteration)


def as_commands(layout, params):
    layout.params.write_text(presets.render(params), encoding="utf-8")
    for iteration in range(1, ITERATIONS + 1):
        for command in ("rollout", "update"):
            if command == "update":
                write_advantages(layout, iteration)
            line = [sys.executable, "-m", "ospo_cli", command, "--iter", str(iteration), "--project", str(layout.root)]
            subprocess.run(line, env=os.environ | HERE, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_iterations_as_commands_write_the_bytes_of_iterations_in_one_process(tmp_path, rank):
    params = tiny_params(**PARAMS, policy={"lora_rank": rank, "lora_dropout": 0.1 if rank else 0.0})
    first = write_project(tmp_path / "one")
    second = copy_project(first, tmp_path / "many")
    in_one_process(first, params)
    as_commands(second, params)
    for iteration in range(1, ITERATIONS + 1):
        assert folder_bytes(first.policy(iteration)) == folder_bytes(second.policy(iteration))


def test_iterations_that_start_from_files_write_the_bytes_of_iterations_that_keep_everything_in_memory(tmp_path):
    params = tiny_params(**PARAMS)
    layout = write_project(tmp_path / "p")
    in_one_process(layout, params)
    policy = load_policy(layout.policy(0), 1, trainable=True)
    settings = params.update
    training = Training(policy.model, settings.weight_decay, settings.max_gradient_norm)
    for iteration in range(1, ITERATIONS + 1):
        rows = to_rows(*_tables(layout, iteration), params.rollout, iteration)
        checkpoint = Checkpoint(tmp_path / "none", 1e9)
        optimiser_steps.train(policy, rows, training, checkpoint, settings, Run(0, iteration, ITERATIONS))
    expected = load_policy(layout.policy(ITERATIONS), 1).model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in policy.model.state_dict().items())


def _tables(layout, iteration):
    from ospo_cli.tables import parquet
    from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
    from ospo_cli.tables.rollout import ROLLOUTS

    return (
        parquet.read(layout.iteration(iteration, "rollouts.parquet"), ROLLOUTS),
        parquet.read(layout.iteration(iteration, "token_advantages.parquet"), TOKEN_ADVANTAGES),
    )


def test_packed_rows_have_the_loss_and_the_gradient_of_padded_ones_under_an_adapter(tmp_path, monkeypatch):
    layout = write_project(tmp_path / "p")
    params = tiny_params(policy={"lora_rank": 4}, update={"learning_rate": 1e-3})
    rollout.execute(layout, params, 1)
    write_advantages(layout, 1)
    update.execute(layout, params, 1)
    policy = load_policy(layout.policy(1), 1, trainable=True, project=layout.root)
    rows = to_rows(*_tables(layout, 1), params.rollout, 1)
    found = []
    for pays in (True, False):
        monkeypatch.setattr(token_batches, "packing_pays", lambda groups, pays=pays: pays)
        policy.model.zero_grad()
        measures = gradient_step.accumulate(policy, rows, rows.groups, params.update)
        found.append((measures, torch.cat([w.grad.flatten() for w in policy.model.parameters() if w.requires_grad])))
    assert found[0][0]["tokens_with_prompts"] < found[1][0]["tokens_with_prompts"]
    assert found[0][0]["loss"] == pytest.approx(found[1][0]["loss"], abs=1e-5)
    assert float((found[0][1] - found[1][1]).abs().max()) < 1e-5 * max(1.0, float(found[0][1].abs().max()))

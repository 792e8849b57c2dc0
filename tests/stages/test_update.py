import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from ospo_cli.errors import MissingInputError, PolicyError, TableError
from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import rollout, update
from ospo_cli.tables import parquet
from ospo_cli.tables.attribute import TOKEN_ADVANTAGES
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.training import forward, gradient_step, token_batches
from ospo_cli.training.row_building import to_rows
from ospo_cli.training.rows import Rows
from ospo_cli.training.training_state import Checkpoint, Training
from tests.policies.tiny import folder_bytes, tiny_params, write_advantages


@pytest.fixture
def rows(project):
    rollouts = parquet.read(project.iteration(1, "rollouts.parquet"), ROLLOUTS)
    advantages = parquet.read(project.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    return to_rows(rollouts, advantages, tiny_params().rollout, 1)


def change(layout, function):
    path = layout.iteration(1, "token_advantages.parquet")
    parquet.write(function(parquet.read(path, TOKEN_ADVANTAGES)), path, TOKEN_ADVANTAGES)


def gradient(policy, rows, **settings):
    policy.model.zero_grad()
    measures = gradient_step.accumulate(policy, rows, rows.groups, tiny_params(update=settings).update, is_first=True)
    return measures, torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])


def test_the_reward_rises_over_iterations(layout):
    params = tiny_params(rollout={"prompts_per_iteration": 14, "group_size": 8, "batch_size": 200}, update={"groups_per_step": 7})
    rewards = []
    for iteration in range(1, 6):
        rollout.execute(layout, params, iteration)
        rollouts = parquet.read(layout.iteration(iteration, "rollouts.parquet"), ROLLOUTS)
        rewards.append(rollouts["completion"].str.count_matches("a", literal=True).mean())
        write_advantages(layout, iteration)
        update.execute(layout, params, iteration)
    assert rewards[-1] > 1.5 * rewards[0]


def test_two_runs_give_equal_bytes(layout):
    update.execute(layout, tiny_params(), 1)
    first = folder_bytes(layout.policy(1))
    update.execute(layout, tiny_params(), 1)
    assert folder_bytes(layout.policy(1)) == first


def test_the_first_steps_ratios_are_one_and_the_mismatch_is_reported(layout):
    metrics = update.execute(layout, tiny_params(), 1)
    assert metrics["logprob_mismatch"] < 1e-4
    steps = json.loads(layout.iteration(1, "update_steps.json").read_text(encoding="utf-8"))
    assert steps["ratio_99"][0] == pytest.approx(1, abs=1e-4)
    assert steps["ratio_99"][-1] == metrics["last_ratio_99"]
    assert json.loads(layout.iteration(1, "update_metrics.json").read_text())["optimizer_steps"] == 2


@pytest.mark.parametrize("aggregation", ["seq_mean", "token_mean", "constant"])
def test_micro_batches_change_the_loss_and_the_gradient_by_rounding_alone(project, rows, aggregation):
    policy = load_policy(project.policy(0), 1, trainable=True)
    whole, whole_gradient = gradient(policy, rows, aggregation=aggregation, tokens_per_micro_batch=100_000)
    cut, cut_gradient = gradient(policy, rows, aggregation=aggregation, tokens_per_micro_batch=1)
    assert cut["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert torch.allclose(cut_gradient, whole_gradient, rtol=1e-3, atol=1e-5 * float(whole_gradient.abs().max()))


def test_packed_and_separate_rows_give_the_same_step(project, rows, monkeypatch):
    policy = load_policy(project.policy(0), 1, trainable=True)
    found = []
    for pays in (True, False):
        monkeypatch.setattr(token_batches, "packing_pays", lambda groups, pays=pays: pays)
        found.append(gradient(policy, rows))
    assert found[0][0]["tokens_with_prompts"] < found[1][0]["tokens_with_prompts"]
    assert found[0][0]["loss"] == pytest.approx(found[1][0]["loss"], abs=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-5 * float(found[0][1].abs().max()))


def test_the_gradient_is_that_of_the_plain_formula_over_single_rows(project, rows):
    policy = load_policy(project.policy(0), 1, trainable=True)
    measures, found = gradient(policy, rows)
    policy.model.zero_grad()
    loss = torch.zeros(())
    for group in rows.groups:
        for single in group.apart():
            ids = torch.tensor([[*single.prompt, *single.completions[0]]])
            logprobs = torch.log_softmax(policy.model(ids).logits[0, len(single.prompt) - 1 : -1], -1)
            chosen = logprobs[torch.arange(len(single.completions[0])), ids[0, len(single.prompt) :]]
            places = rows.tokens_of([single])
            ratio = torch.exp(chosen - torch.from_numpy(rows.behavior_logprobs[places]))
            advantage = torch.from_numpy(rows.advantages[places])
            loss = loss - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean() / len(rows.lengths)
    loss.backward()
    expected = torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])
    assert measures["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_groups_without_advantage_are_not_run_and_change_nothing_but_the_denominator(project, rows):
    policy = load_policy(project.policy(0), 1, trainable=True)
    dead = dataclasses.replace(rows, advantages=np.linspace(-1, 1, len(rows.advantages), dtype=np.float32))
    dead.advantages[dead.tokens_of(dead.groups[:3])] = 0
    measures, found = gradient(policy, dead)
    policy.model.zero_grad()
    alive = gradient_step.accumulate(policy, dead, dead.groups[3:], tiny_params().update)
    half = torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])
    assert (measures["groups_used"], measures["groups"], alive["groups_used"]) == (3, 6, 3)
    assert torch.allclose(found, half / 2, atol=1e-6)


def test_no_advantage_at_all_leaves_the_weights_as_they_were_and_is_said(layout, capsys):
    change(layout, lambda table: table.with_columns(pl.col("advantages").list.eval(pl.element() * 0)))
    metrics = update.execute(layout, tiny_params(), 1)
    assert metrics["groups_alive"] == metrics["tokens"] == 0
    assert "update 1: no token is learned from (0 of 6 rollout groups have an advantage)" in capsys.readouterr().err
    assert (layout.policy(1) / "model.safetensors").read_bytes() == (layout.policy(0) / "model.safetensors").read_bytes()


def test_steps_whose_groups_have_equal_rewards_are_counted_and_move_nothing(layout, capsys):
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    first = pl.col("rollout_id").is_in(rollouts.filter(prompt_id=rollouts["prompt_id"][0])["rollout_id"].to_list())
    change(
        layout,
        lambda table: table.with_columns(pl.when(first).then(pl.col("advantages").list.eval(pl.element() * 0)).otherwise("advantages")),
    )
    table = parquet.read(layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES).join(rollouts, on="rollout_id")
    alive = table.filter(pl.col("advantages").list.eval(pl.element() != 0).list.any())["prompt_id"].n_unique()
    metrics = update.execute(layout, tiny_params(update={"groups_per_step": 1}), 1)
    assert (metrics["optimizer_steps"], metrics["silent_steps"]) == (6, 6 - alive)
    assert f", {6 - alive} of 6 steps without an advantage," in capsys.readouterr().err
    steps = json.loads(layout.iteration(1, "update_steps.json").read_text())
    assert sum(norm > 0 for norm in steps["gradient_norm"]) == alive < 6


def test_moments_are_carried_from_iteration_to_iteration_and_their_absence_is_said(layout, capsys):
    first = update.execute(layout, tiny_params(), 1)
    rollout.execute(layout, tiny_params(), 2)
    write_advantages(layout, 2)
    second = update.execute(layout, tiny_params(), 2)
    (layout.policy(1) / "optimizer.safetensors").unlink()
    carried = folder_bytes(layout.policy(2))
    assert "AdamW starts anew" not in capsys.readouterr().err
    update.execute(layout, tiny_params(), 2)
    assert "no optimiser moments beside 001: AdamW starts anew" in capsys.readouterr().err
    assert (first["moments_carried"], second["moments_carried"]) == (False, True)
    assert carried["model.safetensors"] != folder_bytes(layout.policy(2))["model.safetensors"]


def test_a_penalty_keeps_the_policy_near_policy_000(layout):
    distances = []
    for weight in (0.0, 5.0):
        params = tiny_params(update={"kl_weight": weight, "epochs": 6, "learning_rate": 3e-3})
        update.execute(layout, params, 1)
        rows = to_rows(
            parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS),
            parquet.read(layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES),
            params.rollout,
            1,
        )
        new = forward.logprobs_of(load_policy(layout.policy(1), 1), rows, 10_000)
        distances.append(float(np.square(new - rows.behavior_logprobs).mean()))
    assert distances[1] < 0.5 * distances[0]


def test_an_adapter_over_a_small_model_made_here_trains_alone(layout):
    params = tiny_params(policy={"lora_rank": 4}, update={"learning_rate": 2e-3})  # a collapsed policy has logits of any size
    metrics = update.execute(layout, params, 1)
    names = [path.name for path in layout.policy(1).iterdir()]
    rollout.execute(layout, params, 2)
    write_advantages(layout, 2)
    second = update.execute(layout, params, 2)
    assert {"adapter_model.safetensors", "ospo_policy.json", "tokenizer.json", "optimizer.safetensors"} <= set(names)
    assert "model.safetensors" not in names
    assert metrics["trained_weights"] == second["trained_weights"] < 20_000
    assert second["logprob_mismatch"] < 1e-4


def test_dropout_of_the_adapter_is_repeatable(layout):
    params = tiny_params(policy={"lora_rank": 4, "lora_dropout": 0.3})
    update.execute(layout, params, 1)
    first = folder_bytes(layout.policy(1))
    torch.manual_seed(99)
    update.execute(layout, params, 1)
    assert folder_bytes(layout.policy(1)) == first


def test_a_run_cut_off_between_steps_resumes_to_equal_bytes(project, layout, monkeypatch):
    params = tiny_params(update={"epochs": 3})
    update.execute(layout, params, 1)
    expected = folder_bytes(layout.policy(1))
    shutil.rmtree(layout.policy(1))
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    real, calls = Training.step, []

    def cut_off(self, rate):
        calls.append(rate)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, rate)

    monkeypatch.setattr(Training, "step", cut_off)
    with pytest.raises(KeyboardInterrupt):
        update.execute(layout, params, 1)
    left = list(layout.policy(1).parent.iterdir())
    update.execute(layout, params, 1)
    assert left == [layout.policy(0)]
    assert len(calls) == 5 + 2
    assert folder_bytes(layout.policy(1)) == expected
    assert list((layout.cache / "update").iterdir()) == []


def test_missing_input_names_its_command(layout):
    layout.iteration(1, "token_advantages.parquet").unlink()
    with pytest.raises(MissingInputError, match="ospo attribute --iter 1"):
        update.execute(layout, tiny_params(), 1)
    with pytest.raises(MissingInputError, match="ospo rollout --iter 2"):
        update.execute(layout, tiny_params(), 2)


def test_a_missing_predecessor_names_its_command(layout):
    shutil.rmtree(layout.policy(0))
    with pytest.raises(PolicyError, match="run `ospo warm-start`"):
        update.execute(layout, tiny_params(), 1)


def test_advantages_of_other_rollouts_are_refused(layout):
    change(layout, lambda table: table.head(table.height - 1))
    with pytest.raises(TableError, match="rows are not those of the rollouts"):
        update.execute(layout, tiny_params(), 1)


def test_advantages_of_another_length_are_refused(layout):
    change(layout, lambda table: table.with_columns(pl.col("advantages").list.head(1)))
    with pytest.raises(TableError, match="differ in number"):
        update.execute(layout, tiny_params(), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_advantages_that_are_not_finite_are_refused(layout, value):
    change(layout, lambda table: table.with_columns(pl.col("advantages").list.eval(pl.element() * value)))
    with pytest.raises(TableError, match="advantages that are not finite"):
        update.execute(layout, tiny_params(), 1)


def test_rollouts_of_another_policy_are_noticed_and_nothing_is_written(layout, tmp_path):
    params = tiny_params(update={"learning_rate": 0.1})
    update.execute(layout, params, 1)
    shutil.rmtree(layout.policy(0))
    layout.policy(1).rename(layout.policy(0))
    with pytest.raises(PolicyError, match="sampler's log-probabilities are not those of the policy"):
        update.execute(layout, params, 1)
    assert not layout.policy(1).exists()


def test_an_empty_completion_is_allowed(rows, project):
    policy = load_policy(project.policy(0), 1, trainable=True)
    ids = [7, 8]
    group = token_batches.Group([5, 6], [[], ids])
    few = Rows([group], np.array([0, 2]), np.array([0, 0]), np.zeros(2, np.float32), np.ones(2, np.float32), None, 1.0, 4)
    measures, found = gradient(policy, few)
    assert measures["tokens"] == 2
    assert bool(torch.isfinite(found).all())


def test_an_interrupted_training_state_of_other_content_is_not_used(layout, monkeypatch):
    checkpoint = Checkpoint(layout.cache / "update" / "other")
    policy = load_policy(layout.policy(0), 1, trainable=True)
    checkpoint.save(Training(policy.model, 0.0, 1.0), 1, {"steps": []})
    metrics = update.execute(layout, tiny_params(), 1)
    assert metrics["optimizer_steps"] == 2


def test_the_trace_of_a_micro_batch_is_that_of_each_row_alone(project, rows):
    policy = load_policy(project.policy(0), 1, trainable=True)
    shifted = dataclasses.replace(rows, behavior_logprobs=rows.behavior_logprobs - np.float32(0.02))
    whole, whole_gradient = gradient(policy, shifted, trace=0.8, tokens_per_micro_batch=100_000)
    cut, cut_gradient = gradient(policy, shifted, trace=0.8, tokens_per_micro_batch=1)
    plain, plain_gradient = gradient(policy, shifted, tokens_per_micro_batch=1)
    assert cut["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert torch.allclose(cut_gradient, whole_gradient, rtol=1e-3, atol=1e-5 * float(whole_gradient.abs().max()))
    assert (cut_gradient - plain_gradient).norm() > 0.1 * plain_gradient.norm()
    assert cut["ratio_99"] > plain["ratio_99"]

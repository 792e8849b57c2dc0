"""Updates that imitate targets or prefer one completion to another: from the iteration's tables, and from a user's file."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from ospo_cli import presets
from ospo_cli.errors import ParameterError, PolicyError, TableError
from ospo_cli.params.whole import from_mapping, to_mapping
from ospo_cli.policies.folder import render_prompt
from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import rollout, update
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.attribute import PREFERENCE_PAIRS, TARGETS, TOKEN_ADVANTAGES
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import RECOMBINED
from ospo_cli.training import given_rows, gradient_step
from tests.policies.tiny import folder_bytes, tiny_params, write_advantages


def asked(**values):
    return tiny_params(update={"learning_rate": 2e-3, **values})


def log_likelihoods(layout, iteration, rollouts):
    """Return rollout id -> summed log-probability under a policy."""
    policy = load_policy(layout.policy(iteration), 1)
    found = {}
    for name, prompt, ids in rollouts.select("rollout_id", "prompt_token_ids", "token_ids").iter_rows():
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        found[name] = float(torch.log_softmax(logits, -1)[torch.arange(len(ids)), torch.tensor(ids)].sum())
    return found


def table(layout, name):
    return parquet.read(layout.iteration(1, f"{name}.parquet"), reference.TABLES[name])


def test_imitation_makes_the_targets_likelier(layout):
    metrics = update.execute(layout, asked(objective="sft", epochs=8, groups_per_step=100, learning_rate=2e-4), 1)
    rollouts = table(layout, "rollouts")
    before, after = log_likelihoods(layout, 0, rollouts), log_likelihoods(layout, 1, rollouts)
    targets = table(layout, "targets")["rollout_id"]
    assert min(after[name] - before[name] for name in targets) > 1
    steps = json.loads(layout.iteration(1, "update_steps.json").read_text(encoding="utf-8"))
    assert steps["loss"][-1] < 0.8 * steps["loss"][0]
    assert metrics["tokens"] == 8 * rollouts.filter(pl.col("rollout_id").is_in(targets.to_list()))["token_ids"].list.len().sum()


@pytest.mark.parametrize("is_made", [False, True], ids=["a rollout", "a made answer"])
def test_a_target_is_imitated_beside_the_policy_gradient(layout, is_made):
    rollouts, advantages = table(layout, "rollouts"), table(layout, "token_advantages")
    start, all_rows = rollouts.row(0, named=True), rollouts
    name = start["rollout_id"]
    if is_made:
        name += "/recombined"
        values = [(name, start["prompt_id"], start["rollout_id"], "navy coat", 1.0, 0.5, 1)]
        made = pl.DataFrame(values, schema=RECOMBINED.schema, orient="row")
        parquet.write(made, layout.iteration(1, "recombined.parquet"), RECOMBINED)
        all_rows = given_rows.with_made(rollouts, made, [name], lambda: load_policy(layout.policy(0), 1))
    target = pl.DataFrame([(name, start["prompt_id"], 1.0)], schema=TARGETS.schema, orient="row")
    parquet.write(target, layout.iteration(1, "targets.parquet"), TARGETS)
    silent = advantages.with_columns(pl.col("advantages").list.eval(pl.element() * 0))
    parquet.write(silent, layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    row = all_rows.filter(pl.col("rollout_id") == name)
    before = log_likelihoods(layout, 0, row)[name]
    metrics = update.execute(layout, asked(imitation_weight=0.5, epochs=1, groups_per_step=100, learning_rate=2e-3), 1)
    assert metrics["imitation_loss"] == pytest.approx(-0.5 * before / len(row["token_ids"][0]), rel=1e-4)
    assert metrics["policy_loss"] == pytest.approx(0.0, abs=1e-9)
    assert log_likelihoods(layout, 1, row)[name] > before + 0.1


def test_preferences_put_the_pairs_in_order(layout, capsys):
    metrics = update.execute(layout, asked(objective="dpo", dpo_beta=0.5, epochs=4), 1)
    rollouts = table(layout, "rollouts")
    before, after = log_likelihoods(layout, 0, rollouts), log_likelihoods(layout, 1, rollouts)
    gains = [
        (after[chosen] - before[chosen]) - (after[rejected] - before[rejected])
        for chosen, rejected in table(layout, "preference_pairs").select("chosen_rollout_id", "rejected_rollout_id").iter_rows()
    ]
    steps = json.loads(layout.iteration(1, "update_steps.json").read_text(encoding="utf-8"))
    assert np.mean(np.array(gains) > 0) > 0.9
    assert steps["loss"][0] == pytest.approx(np.log(2), abs=1e-3)  # the reference is the policy itself
    assert steps["loss"][-1] < 0.6
    assert steps["preference_accuracy"][-1] == 1.0
    assert metrics["logprob_mismatch"] < 1e-3
    assert "of pairs in order" in capsys.readouterr().err


def test_mirror_descent_moves_each_answer_towards_its_advantage_over_beta(layout):
    params = asked(objective="mirror-descent", mirror_beta=2.0, epochs=25, groups_per_step=100, learning_rate=3e-4)
    rollouts = table(layout, "rollouts").sort("rollout_id")
    flat = np.random.default_rng(0).normal(size=rollouts.height).round(2)
    lists = [[value] * len(ids) for value, ids in zip(flat, rollouts["token_ids"], strict=True)]
    written = pl.DataFrame({"rollout_id": rollouts["rollout_id"], "advantages": lists}, schema=TOKEN_ADVANTAGES.schema)
    parquet.write(written, layout.iteration(1, "token_advantages.parquet"), TOKEN_ADVANTAGES)
    update.execute(layout, params, 1)
    before, after = log_likelihoods(layout, 0, rollouts), log_likelihoods(layout, 1, rollouts)
    moved = np.array([after[name] - before[name] for name in rollouts["rollout_id"]])
    assert np.abs(moved - flat / 2.0).mean() < 0.5 * np.abs(flat / 2.0).mean()
    assert np.corrcoef(moved, flat)[0, 1] > 0.9


def test_the_reference_of_later_iterations_is_the_sampling_policy_or_the_warm_start(layout):
    update.execute(layout, asked(objective="dpo"), 1)
    rollout.execute(layout, tiny_params(), 2)
    write_advantages(layout, 2)
    first = {}
    for name in ("behavior", "warm-start"):
        metrics = update.execute(layout, asked(objective="dpo", dpo_reference=name), 2)
        steps = json.loads(layout.iteration(2, "update_steps.json").read_text(encoding="utf-8"))
        first[name] = steps["loss"][0]
        assert metrics["reference_kl"] > 0
    assert first["behavior"] == pytest.approx(np.log(2), abs=1e-3)
    assert abs(first["warm-start"] - np.log(2)) > 1e-2


@pytest.mark.parametrize("objective", ["sft", "dpo", "mirror-descent"])
def test_equal_input_gives_equal_bytes(layout, objective):
    update.execute(layout, asked(objective=objective), 1)
    first = folder_bytes(layout.policy(1))
    update.execute(layout, asked(objective=objective), 1)
    assert folder_bytes(layout.policy(1)) == first


def cut_off(layout, params, monkeypatch):
    """Run an update that is interrupted before its fourth step; every step is kept."""
    monkeypatch.setenv("OSPO_CHECKPOINT_SECONDS", "0")
    real, calls = gradient_step.accumulate, []

    def cut(*arguments, **options):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(gradient_step, "accumulate", cut)
        with pytest.raises(KeyboardInterrupt):
            update.execute(layout, params, 1)


@pytest.mark.parametrize("objective", ["sft", "dpo", "mirror-descent"])
def test_an_update_that_was_cut_off_goes_on_to_the_same_bytes(layout, objective, monkeypatch):
    params = asked(objective=objective, epochs=3)
    update.execute(layout, params, 1)
    whole = folder_bytes(layout.policy(1))
    cut_off(layout, params, monkeypatch)
    update.execute(layout, params, 1)
    assert folder_bytes(layout.policy(1)) == whole


def test_an_update_that_was_cut_off_does_not_go_on_with_other_pairs(layout, monkeypatch):
    params = asked(objective="dpo", epochs=3)
    cut_off(layout, params, monkeypatch)
    chosen, rejected = "chosen_rollout_id", "rejected_rollout_id"
    turned = table(layout, "preference_pairs").rename({chosen: rejected, rejected: chosen}).select(*PREFERENCE_PAIRS.schema)
    parquet.write(turned.sort(chosen), layout.iteration(1, "preference_pairs.parquet"), PREFERENCE_PAIRS)
    update.execute(layout, params, 1)
    found = folder_bytes(layout.policy(1))
    shutil.rmtree(layout.cache)
    update.execute(layout, params, 1)
    assert folder_bytes(layout.policy(1)) == found


def test_rollouts_of_another_temperature_are_imitated_by_the_raw_policy(layout):
    params = tiny_params(update={"objective": "sft", "aggregation": "token_mean", "groups_per_step": 100}, rollout={"temperature": 0.5})
    rollout.execute(layout, params, 1)
    write_advantages(layout, 1)
    rollouts = table(layout, "rollouts").join(table(layout, "targets"), on="rollout_id", how="semi")
    metrics = update.execute(layout, params, 1)
    raw = sum(log_likelihoods(layout, 0, rollouts).values()) / rollouts["token_ids"].list.len().sum()
    tempered = rollouts["behavior_logprobs"].list.sum().sum() / rollouts["token_ids"].list.len().sum()
    assert metrics["loss"] == pytest.approx(-raw, abs=1e-4)
    assert abs(tempered - raw) > 1e-2
    assert metrics["logprob_mismatch"] < 1e-3


def write_file(layout, **columns):
    pl.DataFrame(columns).write_parquet(layout.root / "own.parquet")


def test_a_users_own_targets_and_preferences_take_the_place_of_the_tables(layout):
    good, bad = "<answer>navy coat</answer>", "<answer>red red red</answer>"
    write_file(layout, prompt_id=["p00", "p01", "p00"], completion=[good, good, good])
    metrics = update.execute(layout, asked(objective="sft", examples_file="own.parquet", epochs=3), 1)
    policy = load_policy(layout.policy(0), 1)
    ids = [*policy.tokenizer.encode(good, add_special_tokens=False), policy.end_token_id]
    assert metrics["rollouts"] == 2  # the same line twice is one target
    assert metrics["tokens"] == 3 * 2 * len(ids)
    write_file(layout, prompt_id=["p00", "p01"], chosen=[good, good], rejected=[bad, bad])
    metrics = update.execute(layout, asked(objective="dpo", examples_file="own.parquet", epochs=6, dpo_beta=0.5), 1)
    prompts = dict(parquet.read(layout.prepared("prompts.parquet"), PROMPTS).select("prompt_id", "prompt").iter_rows())
    rows = [
        (
            f"{prompt}:{text}",
            render_prompt(policy, prompts[prompt]),
            [*policy.tokenizer.encode(text, add_special_tokens=False), policy.end_token_id],
        )
        for prompt in ("p00", "p01")
        for text in (good, bad)
    ]
    frame = pl.DataFrame(rows, schema=["rollout_id", "prompt_token_ids", "token_ids"], orient="row")
    before, after = log_likelihoods(layout, 0, frame), log_likelihoods(layout, 1, frame)
    gain = {name: after[name] - before[name] for name in before}
    assert gain[f"p00:{good}"] - gain[f"p00:{bad}"] > 0.5
    assert metrics["preference_accuracy"] > 0.7


@pytest.mark.parametrize(
    ("columns", "objective", "message"),
    [
        ({"prompt_id": ["p00"], "text": ["x"]}, "sft", r"own\.parquet: needs a column completion .*found columns prompt_id, text"),
        ({"prompt_id": ["p00"], "completion": [1]}, "sft", r"needs a column completion .*found completion: Int64"),
        ({"prompt_id": ["p00"], "completion": ["x"]}, "dpo", r"needs a column chosen"),
        ({"prompt_id": ["p99"], "completion": ["x"]}, "sft", r"not train prompts: found p99 \(no such prompt\)"),
        ({"prompt_id": ["p15"], "completion": ["x"]}, "sft", r"not train prompts: found p15 \(test\)"),
        ({"prompt_id": ["p00"], "chosen": ["x"], "rejected": ["x"]}, "dpo", r"prefers a completion to itself"),
        ({"prompt_id": ["p00"], "chosen": ["x"], "rejected": [None]}, "dpo", r"column rejected|needs a column rejected"),
    ],
)
def test_a_users_file_that_cannot_be_learned_from_is_refused(layout, columns, objective, message):
    write_file(layout, **columns)
    with pytest.raises(TableError, match=message):
        update.execute(layout, asked(objective=objective, examples_file="own.parquet"), 1)
    assert not layout.policy(1).exists()


def test_a_completion_beyond_the_context_is_refused(layout):
    write_file(layout, prompt_id=["p00"], completion=["navy coat " * 2000])
    with pytest.raises(PolicyError, match="does not fit the policy's context"):
        update.execute(layout, asked(objective="sft", examples_file="own.parquet"), 1)


@pytest.mark.parametrize(("objective", "name"), [("sft", "targets"), ("dpo", "preference_pairs")])
def test_tables_without_rows_or_of_other_rollouts_are_refused(layout, objective, name):
    found, path = table(layout, name), layout.iteration(1, f"{name}.parquet")
    parquet.write(found.clear(), path, reference.TABLES[name])
    with pytest.raises(TableError, match=f"{name}: holds no rows: there is nothing to learn from"):
        update.execute(layout, asked(objective=objective), 1)
    column = found.columns[0]
    parquet.write(found.with_columns(pl.lit("9:p00:0").alias(column))[:1], path, reference.TABLES[name])
    with pytest.raises(TableError, match=f"{name}: names rollouts that are not there: found 9:p00:0"):
        update.execute(layout, asked(objective=objective), 1)


def test_a_pair_of_two_prompts_is_refused(layout):
    found = table(layout, "preference_pairs")
    other = found.filter(pl.col("prompt_id") != found["prompt_id"][0])["rejected_rollout_id"][0]
    crossed = found[:1].with_columns(rejected_rollout_id=pl.lit(other))
    parquet.write(crossed, layout.iteration(1, "preference_pairs.parquet"), PREFERENCE_PAIRS)
    with pytest.raises(TableError, match="compares two prompts"):
        update.execute(layout, asked(objective="dpo"), 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "sft", "kl_weight": 0.1}, r"update\.kl_weight: is not of objective sft: found 0\.1, expected kl_weight: 0\.0"),
        ({"objective": "dpo", "ratio": "sequence"}, r"update\.ratio: is not of objective dpo"),
        ({"examples_file": "x.parquet"}, r"update\.examples_file: is not of objective policy-gradient"),
    ],
)
def test_options_of_another_objective_are_refused(values, message):
    mapping = to_mapping(presets.load("demo"))
    with pytest.raises(ParameterError, match=message):
        from_mapping(mapping | {"update": mapping["update"] | values})


def test_a_policy_that_did_not_sample_the_pairs_is_refused(layout):
    moved = table(layout, "rollouts").with_columns(pl.col("behavior_logprobs").list.eval(pl.element() - 0.5))
    parquet.write(moved, layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    with pytest.raises(PolicyError, match="log-probabilities are not those of the policy"):
        update.execute(layout, asked(objective="dpo"), 1)

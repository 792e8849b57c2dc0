"""Sampling goes on until as many rollout groups as asked for have unequal rewards."""

import dataclasses

import polars as pl
import pytest
import yaml

from ospo_cli.errors import OspoError
from ospo_cli.graph import code, dvc
from ospo_cli.graph.nodes import node
from ospo_cli.rewards import alive_groups
from ospo_cli.rewards.answers import score_answers
from ospo_cli.rewards.opening import open_reward
from ospo_cli.sampling import chosen_sampler
from ospo_cli.stages import rollout
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import tiny_params, write_project

WANTED = 5


def settings(further_rounds=10, **sections):
    sampled = {"prompts_per_iteration": WANTED, "group_size": 2, "further_rounds": further_rounds, **sections.pop("rollout", {})}
    return tiny_params(rollout=sampled, **sections)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("dynamic"))


def alive_prompts(layout, values):
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    rewards = score_answers(rollouts, open_reward(layout, values), values.score_coalitions)
    return set(rewards.filter(~pl.col("is_degenerate_group"))["prompt_id"])


def half_alive(monkeypatch, chosen):
    """Let the rewards of prompts differ where `chosen` says so, whatever the tiny policy writes."""

    def rewards(rollouts, reward, values):
        return rollouts.select("rollout_id", "prompt_id", is_degenerate_group=~pl.col("prompt_id").is_in(list(chosen)))

    monkeypatch.setattr(alive_groups, "score_answers", rewards)


def drawn_prompts(layout):
    return parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)["prompt_id"].unique(maintain_order=True).to_list()


def test_the_batch_is_full_of_groups_with_unequal_rewards_and_no_prompt_is_drawn_twice(layout, monkeypatch, capsys):
    train = [f"p{index:02d}" for index in range(14)]
    half_alive(monkeypatch, train[::2])
    metrics = rollout.execute(layout, settings(), 1)
    drawn = drawn_prompts(layout)
    rollouts = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    assert metrics["alive_groups"] == len(set(drawn) & set(train[::2])) == WANTED
    assert set(drawn) <= set(train)  # none held out
    assert rollouts.height == 2 * len(drawn) == rollouts["rollout_id"].n_unique()
    assert metrics["rounds"] > 1
    assert metrics["prompts"] == len(drawn) > WANTED
    assert "further prompt" in capsys.readouterr().err


def test_the_first_round_is_what_is_drawn_without_it_and_no_prompt_more_is_sampled_than_is_lacking(layout, monkeypatch):
    rollout.execute(layout, settings(0), 1)
    before = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    first = drawn_prompts(layout)
    half_alive(monkeypatch, {f"p{index:02d}" for index in range(14)} - set(first[:2]))
    metrics = rollout.execute(layout, settings(), 1)
    after = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    assert after.filter(pl.col("prompt_id").is_in(first)).equals(before)
    assert (metrics["rounds"], metrics["prompts"]) == (2, WANTED + 2)


def test_a_full_first_round_ends_it(layout, monkeypatch, capsys):
    half_alive(monkeypatch, {f"p{index:02d}" for index in range(14)})
    metrics = rollout.execute(layout, settings(), 1)
    assert (metrics["rounds"], metrics["prompts"], metrics["alive_groups"]) == (1, WANTED, WANTED)
    assert "further" not in capsys.readouterr().err


def test_rounds_and_prompts_have_an_end_that_is_said(layout, monkeypatch, capsys):
    half_alive(monkeypatch, ())
    metrics = rollout.execute(layout, settings(1), 1)
    assert (metrics["rounds"], metrics["prompts"], metrics["alive_groups"]) == (2, 2 * WANTED, 0)
    assert "rollout.further_rounds is 1" in capsys.readouterr().err
    metrics = rollout.execute(layout, settings(), 1)
    assert (metrics["prompts"], metrics["alive_groups"]) == (14, 0)
    assert "no further prompt" in capsys.readouterr().err


def test_the_rewards_that_decide_are_those_of_score_coalitions(layout):
    values = settings(rollout={"group_size": 4, "max_new_tokens": 16})
    metrics = rollout.execute(layout, values, 1)
    assert metrics["alive_groups"] == len(alive_prompts(layout, values))
    other = dataclasses.replace(values, score_coalitions=dataclasses.replace(values.score_coalitions, format_weight=0.0))
    rollout.execute(layout, other, 1)
    assert len(alive_prompts(layout, other)) <= WANTED


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(layout, monkeypatch):
    half_alive(monkeypatch, [f"p{index:02d}" for index in range(0, 14, 2)])
    rollout.execute(layout, settings(), 1)
    path = layout.iteration(1, "rollouts.parquet")
    whole = path.read_bytes()
    path.unlink()
    for shard in sorted(layout.cache.glob("rollouts/*/*/rollouts.parquet"))[::2]:
        shard.unlink()
    rollout.execute(layout, settings(), 1)
    assert path.read_bytes() == whole


def test_a_further_prompt_that_is_too_long_is_named_and_the_next_is_drawn(layout, monkeypatch, capsys):
    rollout.execute(layout, settings(0), 1)
    first = set(drawn_prompts(layout))
    prompts = parquet.read(layout.prepared("prompts.parquet"), PROMPTS)
    further = rollout.further_prompts(prompts, None, settings().rollout, 0, 1)["prompt_id"].to_list()
    long = prompts.with_columns(prompt=pl.when(pl.col("prompt_id") == further[0]).then(pl.lit("coat " * 5000)).otherwise("prompt"))
    parquet.write(long, layout.prepared("prompts.parquet"), PROMPTS)
    half_alive(monkeypatch, {f"p{index:02d}" for index in range(14)} - {sorted(first)[0]})
    asked, real = [], chosen_sampler.opened
    monkeypatch.setattr(chosen_sampler, "opened", lambda *given: asked.append(given) or real(*given))
    metrics = rollout.execute(layout, settings(), 1)
    assert set(drawn_prompts(layout)) - first == {further[1]}
    assert (metrics["prompts_too_long"], metrics["alive_groups"]) == (1, WANTED)
    assert further[0] in capsys.readouterr().err
    policy, values, _, longest = asked[0]
    assert longest + values.max_new_tokens == policy.context_length  # an engine opened for more would not start


def reached(wanted):
    return set(code.Code().reached(wanted))


def test_rollouts_depend_on_the_reward_only_where_it_decides():
    without, with_rewards = node("rollout", 1, settings(0)), node("rollout", 1, settings(3))
    assert not any("retrieval" in name or "score_coalitions" in name for name in without.sections)
    assert not any("qrels" in path for path in without.inputs)
    assert {"retrieval", "score_coalitions.metric", "score_coalitions.format_weight"} <= set(with_rewards.sections)
    assert not {"score_coalitions.estimators", "score_coalitions.orders"} & set(with_rewards.sections)
    assert any(path.endswith("qrels.parquet") for path in with_rewards.inputs)
    assert not [name for name in reached(without) if "retrievers" in name or "rewards" in name]
    assert {"ospo_cli.retrievers.lexical.bm25", "ospo_cli.rewards.answers"} <= reached(with_rewards)
    assert "ospo_cli.retrievers.http.engine" not in reached(with_rewards)


def test_rollouts_then_depend_on_the_files_of_the_reward_too(tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text("def parts(answers): return []\n")
    (tmp_path / "engine.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    values = settings(3, score_coalitions={"retriever": "http", "own_reward": "parts.py:parts"})
    http = dataclasses.replace(values.retrieval.http, template="engine.json")
    values = dataclasses.replace(values, retrieval=dataclasses.replace(values.retrieval, http=http))
    assert {"engine.json", "parts.py"} <= set(node("rollout", 1, values).inputs)


def test_under_dvc_it_is_refused_where_the_graph_does_not_know(tmp_path):
    dvc.write(tmp_path, settings(0))
    wanted = node("rollout", 1, settings(3))
    with pytest.raises(OspoError, match=r"does not say that rollout reads data/prepared/documents\.parquet.*run `ospo graph`"):
        dvc.check_reads(tmp_path, wanted, settings(3))
    dvc.write(tmp_path, settings(3))
    dvc.check_reads(tmp_path, wanted, settings(3))
    content = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
    content["stages"]["rollout"]["do"]["params"].remove("score_coalitions.metric")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(OspoError, match=r"rollout reads score_coalitions\.metric"):
        dvc.check_reads(tmp_path, wanted, settings(3))

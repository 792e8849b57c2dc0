"""v(S) and the reward: what is composed, what is shared, what is refused, and what a kill leaves behind."""

import dataclasses
import json
import signal
import subprocess
import sys

import polars as pl
import pytest

from ospo_cli.errors import CreditError, MissingInputError, RetrievalError
from ospo_cli.layout import Layout
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.store import Store
from ospo_cli.params.train import Train
from ospo_cli.params.whole import Params
from ospo_cli.rewards.judged_reward import JudgedReward
from ospo_cli.stages import score_coalitions as stage
from ospo_cli.stages import score_queries
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import DOCUMENTS, POOLS, PROMPTS, QRELS
from ospo_cli.tables.rollout import ROLLOUTS
from ospo_cli.tables.score_coalitions import COALITION_VALUES, REWARDS, SPLICED_VALUES
from ospo_cli.tables.score_queries import RAW_QUERY_VALUES
from ospo_cli.tables.segment import SEGMENTS
from tests.stages.small_catalogue import GROUPS, WORDS, frames, prepared, rollout, sampled_rows


def changed(**settings):
    section = dataclasses.replace(ScoreCoalitions(), **settings)
    return dataclasses.replace(Params(), score_coalitions=section)


def score(rows, values=None, tables=None):
    values = values or Params()
    reward = JudgedReward(tables or prepared(), values)
    rewards, coalition_values, _ = stage.score_coalitions(*frames(*rows), reward, values)
    return rewards, coalition_values, reward


def project(tmp_path, rows=None, pooled=False):
    layout = Layout(tmp_path)
    for table, frame in zip((DOCUMENTS, PROMPTS, QRELS, POOLS), prepared(pooled), strict=True):
        parquet.write(frame, layout.prepared(f"{table.name}.parquet"), table)
    rollouts, segments = frames(*(rows or sampled_rows()))
    parquet.write(rollouts, layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    parquet.write(segments, layout.iteration(1, "segments.parquet"), SEGMENTS)
    return layout


def outputs(layout):
    return [layout.iteration(1, name).read_bytes() for name in ("rewards.parquet", "coalition_values.parquet")]


@pytest.mark.parametrize("calls", ["batched", "one-by-one"])
def test_length_and_repetition_are_those_of_each_coalitions_own_words(calls):
    answers = (["wool coat", "red", "warm belt"], ["wool coat", "wool", "coat"], ["red", "crème"], ["red", "belt", "red belt"])
    rows = [rollout("p0", index, list(answer)) for index, answer in enumerate(answers)]
    _, found, _ = score(rows, changed(length_limit=3, length_weight=0.5, repetition_weight=0.1, calls=calls))
    assert set(found["rollout_id"]) == {row.rollout_id for row, _ in rows}
    for query, length, repetition in found.select("query", "length", "repetition").iter_rows():
        own = query.replace(",", "").split()
        assert length == -max(0, len(own) - 3) / 3
        assert repetition == len(set(own)) - len(own)
    assert min(found["length"]) < 0
    assert min(found["repetition"]) == -2


@pytest.mark.parametrize("composition", ["replace", "append"])
@pytest.mark.parametrize("empty_value", ["zero", "query"])
def test_each_coalition_is_worth_what_its_text_is_worth_alone(composition, empty_value):
    values = changed(composition=composition, empty_value=empty_value, length_weight=0.3, length_limit=4, repetition_weight=0.05)
    _, found, reward = score(sampled_rows(), values)
    prompt_of = found["rollout_id"].str.split(":").list.get(1).to_list()
    alone = [reward.values([prompt_id], [query])[0] for prompt_id, query in zip(prompt_of, found["query"], strict=True)]
    assert found["retrieval"].to_list() == alone
    weighted = found["retrieval"] + 0.3 * found["length"] + 0.05 * found["repetition"]
    assert found["coalition_value"].to_numpy() == pytest.approx(weighted.to_numpy(), abs=1e-15)


@pytest.mark.parametrize("composition", ["replace", "append"])
def test_the_grand_coalition_is_worth_the_reward_without_its_format_part(composition):
    values = changed(composition=composition, format_weight=0.25, length_weight=0.3, length_limit=3)
    rewards, found, _ = score(sampled_rows(), values)
    grand = found.filter(~pl.col("coalition").str.contains("0")).join(rewards, on="rollout_id")
    assert grand.height == (~rewards["is_degenerate_group"]).sum()
    assert (grand["reward"] - 0.25 * grand["format"]).to_numpy() == pytest.approx(grand["coalition_value"].to_numpy(), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "query"),
    [
        ({}, ""),
        ({"empty_value": "query"}, "red thing"),
        ({"composition": "append"}, "red thing"),
        ({"composition": "append", "empty_value": "query"}, "red thing"),
    ],
)
def test_the_empty_coalition_is_worth_nothing_or_what_the_raw_query_is_worth(settings, query):
    _, found, reward = score([rollout("p0", 0, ["wool coat", "red"]), rollout("p0", 1, ["boots", "belt"])], changed(**settings))
    empty = found.filter(~pl.col("coalition").str.contains("1"))
    assert empty["query"].to_list() == [query] * 2
    assert empty["coalition_value"].to_list() == reward.values(["p0"] * 2, [query] * 2).tolist()


def test_append_gives_the_retriever_the_raw_query_and_then_the_text():
    _, found, _ = score([rollout("p0", 0, ["wool coat", "red"]), rollout("p0", 1, ["boots", "belt"])], changed(composition="append"))
    assert found.filter(rollout_id="001:p0:00", coalition="10")["query"].to_list() == ["red thing wool coat"]


def test_all_families_that_are_asked_for_are_evaluated_and_the_empty_and_grand_coalition_always():
    rows = [rollout("p0", 0, ["red", "wool", "coat", "warm"]), rollout("p0", 1, ["boots", "belt"])]
    found = {
        name: sorted(score(rows, changed(estimators=[], families=[name]))[1].filter(rollout_id="001:p0:00")["coalition"])
        for name in ("contiguous", "prefix", "leave-one-out")
    }
    assert found == {
        "contiguous": ["0000", "0001", "0010", "0011", "0100", "0110", "0111", "1000", "1100", "1110", "1111"],
        "prefix": ["0000", "1000", "1100", "1110", "1111"],
        "leave-one-out": ["0000", "0111", "1011", "1101", "1110", "1111"],
    }


def test_a_capped_family_depends_on_the_seed_and_the_rollout_alone():
    rows = [rollout("p0", sample, WORDS[: 9 + sample % 2]) for sample in range(4)]
    values = changed(estimators=["myerson"], families=[], contiguous_cap=12)
    together = score(rows, values)[1]
    alone = score(rows[:2], values)[1]
    assert together.filter(pl.col("rollout_id").is_in(["001:p0:00", "001:p0:01"])).equals(alone)
    other_seed = dataclasses.replace(values, train=Train(seed=1))
    assert not score(rows, other_seed)[1].select("rollout_id", "coalition").equals(together.select("rollout_id", "coalition"))


def test_the_parts_of_a_reward_are_what_their_definitions_say():
    rows = [
        rollout("p0", 0, ["red red coat", "red"]),
        rollout("p0", 1, ["wool"], tags=False),
        rollout("p0", 2, ["belt"], tags=False, finish="length"),
    ]
    rewards, _, _ = score(rows, changed(length_limit=2, length_weight=0.5, repetition_weight=0.02, format_weight=0.1))
    assert rewards["format"].to_list() == [0.0, -0.5, -1.0]
    assert rewards["length"].to_list() == [-1.0, 0.0, 0.0]
    assert rewards["repetition"].to_list() == [-2.0, 0.0, 0.0]
    expected = rewards["retrieval"] + 0.5 * rewards["length"] + 0.02 * rewards["repetition"] + 0.1 * rewards["format"]
    assert rewards["reward"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-15)


def test_groups_without_a_difference_are_flagged_and_their_coalitions_never_evaluated():
    same = [rollout("p0", sample, ["wool coat", "red"]) for sample in range(3)]
    single = [rollout("p1", 0, ["blue", "shirt"])]
    differing = [rollout("p2", 0, ["wool coat", "red"]), rollout("p2", 1, ["wool coat", "red"], finish="length")]
    rewards, found, _ = score([*same, *single, *differing])
    assert dict(rewards.select("prompt_id", "is_degenerate_group").unique().iter_rows()) == {"p0": True, "p1": True, "p2": False}
    assert set(found["rollout_id"]) == {"001:p2:00", "001:p2:01"}


def test_an_answer_without_segments_has_a_reward_and_no_coalitions():
    rewards, found, _ = score([rollout("p0", 0, []), rollout("p0", 1, ["wool coat"], finish="length")])
    assert rewards.filter(rollout_id="001:p0:00")["retrieval"].to_list() == [0.0]
    assert set(found["rollout_id"]) == {"001:p0:01"}


def test_each_distinct_text_of_a_prompt_is_ranked_once(monkeypatch):
    asked = []
    values = Params()
    reward = JudgedReward(prepared(), values)
    plain = reward.values
    monkeypatch.setattr(
        reward, "values", lambda prompt_ids, queries: asked.extend(zip(prompt_ids, queries, strict=True)) or plain(prompt_ids, queries)
    )
    rows = [
        rollout("p0", 0, ["wool", "coat", "wool"]),
        rollout("p0", 1, ["wool", "coat"]),
        rollout("p1", 0, ["wool"]),
        rollout("p1", 1, ["coat"]),
    ]
    _, found, ranked = stage.score_coalitions(*frames(*rows), reward, values)
    assert len(asked) == len(set(asked)) == ranked
    assert ranked < found.height


def test_words_outside_every_segment_are_an_error_that_names_the_rollout():
    row, spans = rollout("p0", 0, ["red", "wool coat", "boots"])
    values = changed(repetition_weight=0.0, length_weight=1.0, length_limit=1)
    with pytest.raises(CreditError, match="rollout 001:p0:00: its segments together are not worth what its answer is"):
        score([(row, spans[:2]), rollout("p0", 1, ["belt"])], values)


@pytest.mark.parametrize("pooled", [True, False])
def test_shards_change_no_byte(tmp_path, monkeypatch, pooled):
    one, many = project(tmp_path / "one", pooled=pooled), project(tmp_path / "many", pooled=pooled)
    written = {table.name: table for table in (REWARDS, COALITION_VALUES, SPLICED_VALUES)}
    metrics = stage.execute(one, Params(), 1)
    monkeypatch.setattr(stage, "GROUPS_PER_QUICK_SHARD", 1)
    stage.execute(many, Params(), 1)
    assert outputs(one) == outputs(many)
    assert metrics["asked_values"] == sum(
        parquet.read(one.iteration(1, f"{name}.parquet"), table).height for name, table in written.items()
    )


def test_finished_shards_are_used_again_and_unfinished_ones_computed_to_the_same_bytes(tmp_path, monkeypatch):
    whole, cut = project(tmp_path / "whole"), project(tmp_path / "cut")
    monkeypatch.setattr(stage, "GROUPS_PER_QUICK_SHARD", 2)
    stage.execute(whole, Params(), 1)
    plain, calls = stage.score_coalitions, []

    def dies_in_the_third_shard(*arguments):
        calls.append(1)
        return plain(*arguments) if len(calls) < 3 else 1 / 0

    monkeypatch.setattr(stage, "score_coalitions", dies_in_the_third_shard)
    with pytest.raises(ZeroDivisionError):
        stage.execute(cut, Params(), 1)
    assert not cut.iteration(1, "rewards.parquet").exists()
    calls.clear()
    monkeypatch.setattr(stage, "score_coalitions", lambda *arguments: calls.append(1) or plain(*arguments))
    stage.execute(cut, Params(), 1)
    assert len(calls) == 1
    assert outputs(cut) == outputs(whole)


KILLED_IN_THE_THIRD_SHARD = """
import os, signal, sys
from pathlib import Path
from ospo_cli.params.whole import Params
from ospo_cli.layout import Layout
from ospo_cli.stages import score_coalitions as stage

plain, calls = stage.score_coalitions, []

def killed(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)

stage.GROUPS_PER_QUICK_SHARD, stage.score_coalitions = 2, killed
stage.execute(Layout(Path(sys.argv[1])), Params(), 1)
"""


def test_a_process_killed_in_the_third_shard_leaves_two_that_the_next_one_uses(tmp_path, monkeypatch):
    whole, cut = project(tmp_path / "whole"), project(tmp_path / "cut")
    done = subprocess.run([sys.executable, "-c", KILLED_IN_THE_THIRD_SHARD, str(cut.root)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not cut.iteration(1, "rewards.parquet").exists()
    assert len(list(cut.cache.rglob("rewards.parquet"))) == 2
    monkeypatch.setattr(stage, "GROUPS_PER_QUICK_SHARD", 2)
    metrics = [stage.execute(layout, Params(), 1) for layout in (whole, cut)]
    assert outputs(cut) == outputs(whole)
    assert 0 < metrics[1]["computed_values"] < metrics[0]["computed_values"]


@pytest.mark.parametrize("change", [{"metric": "mrr"}, {"composition": "append"}, {"families": ["prefix"]}, {"repetition_weight": 0.5}])
def test_a_change_of_the_reward_uses_no_shard_of_another_reward(tmp_path, monkeypatch, change):
    layout, fresh = project(tmp_path / "used"), project(tmp_path / "fresh")
    stage.execute(layout, Params(), 1)
    stage.execute(layout, changed(**change), 1)
    stage.execute(fresh, changed(**change), 1)
    assert outputs(layout) == outputs(fresh)


def test_the_metrics_count_what_was_asked_and_what_was_ranked(tmp_path):
    layout = project(tmp_path)
    values = dataclasses.replace(Params(), store=Store(values="never"))
    first, second = (stage.execute(layout, values, 1) for _ in range(2))
    assert first["distinct_values"] == second["distinct_values"]
    # Coalitions of an answer are ranked together, equal ones of other answers again: cheaper than to look for them.
    assert first["distinct_values"] < first["computed_values"] <= first["asked_values"]
    assert second["computed_values"] == 0
    assert (first["reused_values"], second["reused_values"]) == (0, second["asked_values"])
    assert json.loads(layout.iteration(1, "score_metrics.json").read_text())["rollout_groups"] == GROUPS


def test_a_missing_table_names_the_command_that_makes_it(tmp_path):
    layout = project(tmp_path)
    layout.iteration(1, "segments.parquet").unlink()
    with pytest.raises(MissingInputError, match="ospo segment --iter 1"):
        stage.execute(layout, Params(), 1)


def test_segments_of_another_sampling_are_refused(tmp_path):
    layout = project(tmp_path)
    rollouts, segments = frames(*sampled_rows())
    parquet.write(segments.with_columns(end=pl.col("end") + 40), layout.iteration(1, "segments.parquet"), SEGMENTS)
    with pytest.raises(CreditError, match=r"rollout 001:p0:00, segment 0.*run `ospo segment --iter 1` again"):
        stage.execute(layout, Params(), 1)
    parquet.write(rollouts.filter(pl.col("prompt_id") != "p0"), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    with pytest.raises(CreditError, match="names a rollout that is not in table rollouts"):
        stage.execute(layout, Params(), 1)


def test_an_answer_that_has_words_and_no_segment_is_refused_unless_segments_need_not_be_worth_the_reward(tmp_path):
    layout = project(tmp_path)
    segments = parquet.read(layout.iteration(1, "segments.parquet"), SEGMENTS)
    parquet.write(segments.filter(pl.col("rollout_id") != "001:p0:01"), layout.iteration(1, "segments.parquet"), SEGMENTS)
    with pytest.raises(
        CreditError, match=r"table segments, rollout 001:p0:01: an answer that has words has no segment: found .*grand_value: any"
    ):
        stage.execute(layout, Params(), 1)
    assert not layout.iteration(1, "rewards.parquet").exists()
    stage.execute(layout, changed(grand_value="any"), 1)
    found = {
        table.name: set(parquet.read(layout.iteration(1, f"{table.name}.parquet"), table)["rollout_id"])
        for table in (REWARDS, COALITION_VALUES)
    }
    assert found["rewards"] - found["coalition_values"] == {"001:p0:01"}


def test_no_rollouts_at_all_are_an_error(tmp_path):
    layout = project(tmp_path)
    parquet.write(ROLLOUTS.empty(), layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    with pytest.raises(CreditError, match="holds no rollout"):
        stage.execute(layout, Params(), 1)


def test_a_query_without_judged_products_stops_the_stage_and_writes_nothing(tmp_path):
    layout = project(tmp_path)
    parquet.write(prepared()[2].filter(pl.col("prompt_id") != "p3"), layout.prepared("qrels.parquet"), QRELS)
    with pytest.raises(RetrievalError, match="prompt p3: has no relevant product"):
        stage.execute(layout, Params(), 1)
    assert not layout.iteration(1, "rewards.parquet").exists()


def test_raw_queries_are_scored_by_themselves(tmp_path):
    layout = project(tmp_path)
    score_queries.execute(layout, Params())
    found = parquet.read(RAW_QUERY_VALUES.path(layout), RAW_QUERY_VALUES)
    reward = JudgedReward(prepared(), Params())
    assert found["value"].to_list() == [reward.values([prompt_id], [reward.raw_query(prompt_id)])[0] for prompt_id in found["prompt_id"]]


@pytest.mark.parametrize(
    ("settings", "is_light"),
    [
        ({}, True),
        ({"families": ["powerset"]}, False),
        ({"estimators": ["shapley"]}, False),
        ({"estimators": ["uniform"], "families": []}, True),
    ],
)
def test_large_shards_are_for_answers_of_few_coalitions(settings, is_light):
    assert stage._is_light(changed(**settings).score_coalitions) is is_light

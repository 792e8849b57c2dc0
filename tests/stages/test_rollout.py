import dataclasses
import json
import shutil

import polars as pl
import pytest

from ospo_cli.errors import MissingInputError, ParameterError, PolicyError
from ospo_cli.layout import Layout
from ospo_cli.policies.token_pieces import TokenPieces
from ospo_cli.stages import rollout
from ospo_cli.stages.rollout import choose_prompts
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS, SAMPLING_LOGPROBS
from ospo_cli.tables.rollout_rows import located
from ospo_cli.text.answers import Answer, find_answer
from tests.policies.tiny import copy_project, tiny_params, write_project


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    layout = write_project(tmp_path_factory.mktemp("rollout"))
    metrics = rollout.execute(layout, tiny_params(), 1)
    return layout, metrics, parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)


def some_prompts(count=10):
    rows = [(f"p{index:02d}", "train" if index % 5 else "dev", "q", [], "q") for index in range(count)]
    return pl.DataFrame(rows, schema=PROMPTS.schema, orient="row")


def test_every_prompt_gets_one_group_of_numbered_completions(sampled):
    _, _, rollouts = sampled
    groups = rollouts.group_by("prompt_id").agg(pl.col("sample_index").sort(), pl.col("rollout_id"))
    assert groups.height == 6
    assert set(map(tuple, groups["sample_index"].to_list())) == {(0, 1, 2, 3)}
    assert rollouts["rollout_id"][0] == f"001:{rollouts['prompt_id'][0]}:00"


def test_completions_are_the_text_of_their_ids_and_answers_their_spans(sampled):
    layout, _, rollouts = sampled
    pieces = TokenPieces.from_file(layout.policy(0) / "tokenizer.json")
    for row in rollouts.iter_rows(named=True):
        answer = find_answer(row["completion"])
        assert row["completion"] == pieces.text(row["token_ids"])
        assert (row["answer_start"], row["answer_end"], row["has_answer_tags"]) == (answer.start, answer.end, answer.has_tags)
        assert len(row["token_ids"]) == len(row["behavior_logprobs"]) <= 12


def test_metrics_count_what_the_table_holds(sampled):
    _, metrics, rollouts = sampled
    assert metrics["tokens"] == rollouts["token_ids"].list.len().sum()
    assert metrics["entropy"] == pytest.approx(-rollouts["behavior_logprobs"].explode().mean(), rel=1e-5)
    assert metrics["stop_share"] + metrics["length_share"] == pytest.approx(1)
    assert metrics["malformed_answers"] == rollouts.filter(pl.col("answer_start") == pl.col("answer_end")).height
    assert metrics["malformed_answers"] == sum(count for name, count in metrics.items() if name.startswith("malformed_")) / 2


def test_another_rule_of_what_an_answer_is_samples_nothing_again(sampled, tmp_path, monkeypatch):
    layout = Layout(shutil.copytree(sampled[0].root, tmp_path / "project"))
    monkeypatch.setattr("ospo_cli.tables.rollout_rows.find_answer", lambda text: Answer(0, len(text), True))
    monkeypatch.setattr(rollout, "rollout", None)  # finished shards are all there is
    rollout.execute(layout, tiny_params(), 1)
    found = parquet.read(layout.iteration(1, "rollouts.parquet"), ROLLOUTS)
    assert found["answer_end"].to_list() == found["completion"].str.len_chars().to_list()
    assert found["completion"].to_list() == sampled[2]["completion"].to_list()


def test_a_cached_completion_is_read_by_todays_rule_of_what_an_answer_is(sampled):
    _, _, rollouts = sampled
    as_cached = rollouts.with_columns(
        completion=pl.lit("red<answer>coat"), answer_start=pl.lit(11, pl.Int32), answer_end=pl.lit(15, pl.Int32)
    )
    found = located(as_cached)
    assert found.schema == rollouts.schema
    assert set(found.select("answer_start", "answer_end", "has_answer_tags").rows()) == {(11, 11, False)}


def test_the_batch_size_and_so_the_shards_change_no_byte(sampled):
    layout, _, _ = sampled
    before = layout.iteration(1, "rollouts.parquet").read_bytes()
    rollout.execute(layout, tiny_params(rollout={"batch_size": 100}), 1)
    assert layout.iteration(1, "rollouts.parquet").read_bytes() == before


def test_finished_shards_are_used_and_give_equal_bytes(sampled, monkeypatch):
    layout, _, _ = sampled
    rollout.execute(layout, tiny_params(), 1)
    path = layout.iteration(1, "rollouts.parquet")
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(rollout, "rollout", lambda *_: pytest.fail("sampled again"))
    metrics = rollout.execute(layout, tiny_params(), 1)
    assert path.read_bytes() == before
    assert metrics["tokens_per_second"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"rollout": {"temperature": 0.9}},
        {"rollout": {"top_k": 5}},
        {"rollout": {"top_p": 0.9}},
        {"rollout": {"max_new_tokens": 11}},
        {"train": {"seed": 1}},
    ],
)
def test_shards_of_other_settings_are_not_used(sampled, monkeypatch, change):
    layout, _, _ = sampled
    calls = []
    real = rollout.rollout
    monkeypatch.setattr(rollout, "rollout", lambda *arguments: calls.append(1) or real(*arguments))
    rollout.execute(layout, tiny_params(**change), 1)
    assert len(calls) == 3


def test_one_epoch_of_iterations_draws_every_train_prompt_once():
    settings = tiny_params(rollout={"prompts_per_iteration": 2}).rollout
    drawn = [choose_prompts(some_prompts(), None, settings, 0, iteration)["prompt_id"].to_list() for iteration in range(1, 5)]
    assert sorted(name for names in drawn for name in names) == [f"p{index:02d}" for index in (1, 2, 3, 4, 6, 7, 8, 9)]


def test_the_next_epoch_draws_in_another_order():
    settings = tiny_params(rollout={"prompts_per_iteration": 8}).rollout
    first, second = (choose_prompts(some_prompts(), None, settings, 0, iteration)["prompt_id"].to_list() for iteration in (1, 2))
    assert sorted(first) == sorted(second)
    assert first != second


def test_no_prompt_occurs_twice_in_one_iteration_though_epochs_do_not_divide():
    settings = tiny_params(rollout={"prompts_per_iteration": 3}).rollout
    drawn = [choose_prompts(some_prompts(), None, settings, 0, iteration)["prompt_id"] for iteration in range(1, 20)]
    assert all(prompts.n_unique() == 3 for prompts in drawn)


def test_headroom_leaves_out_prompts_whose_raw_query_does_well():
    values = pl.DataFrame({"prompt_id": [f"p{index:02d}" for index in range(10)], "value": [index / 9 for index in range(10)]})
    settings = tiny_params(rollout={"prompts_per_iteration": 3, "prompts": "headroom", "headroom_max": 0.5}).rollout
    drawn = {name for iteration in range(1, 5) for name in choose_prompts(some_prompts(), values, settings, 0, iteration)["prompt_id"]}
    assert drawn == {"p01", "p02", "p03", "p04"}


def test_fewer_prompts_than_asked_for_are_all_taken_once():
    drawn = choose_prompts(some_prompts(), None, tiny_params(rollout={"prompts_per_iteration": 9}).rollout, 0, 1)["prompt_id"]
    assert len(drawn) == drawn.n_unique() == 8


def test_no_train_prompt_at_all_is_an_error():
    with pytest.raises(ParameterError, match="there are no train prompts"):
        choose_prompts(some_prompts().with_columns(split=pl.lit("test")), None, tiny_params().rollout, 0, 1)


def test_a_missing_predecessor_names_its_command(sampled):
    layout, _, _ = sampled
    with pytest.raises(PolicyError, match="run `ospo update --iter 2`"):
        rollout.execute(layout, tiny_params(), 3)


def test_missing_tables_name_their_commands(sampled, tmp_path):
    layout, _, _ = sampled
    with pytest.raises(MissingInputError, match="ospo prepare-data"):
        rollout.execute(Layout(tmp_path), tiny_params(), 1)
    with pytest.raises(MissingInputError, match="ospo score-queries"):
        rollout.execute(layout, tiny_params(rollout={"prompts": "headroom"}), 1)


def test_a_prompt_longer_than_the_context_is_one_line_that_names_it(sampled):
    layout, _, _ = sampled
    params = tiny_params()
    params = dataclasses.replace(params, rollout=dataclasses.replace(params.rollout, max_new_tokens=4000))
    with pytest.raises(PolicyError, match=r"no prompt fits the context of the policy, such as that of prompt p\d\d"):
        rollout.execute(layout, params, 1)


def test_prompts_too_long_are_left_out_named_and_counted_and_nothing_else_changes(sampled, tmp_path, capsys):
    layout, _, rollouts = sampled
    copy = copy_project(layout, tmp_path / "copy")
    lengths = dict(rollouts.select("prompt_id", pl.col("prompt_token_ids").list.len()).iter_rows())
    longest = max(lengths.values())
    config = copy.policy(0) / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"max_position_embeddings": longest - 1 + 12}))
    metrics = rollout.execute(copy, tiny_params(), 1)
    kept = parquet.read(copy.iteration(1, "rollouts.parquet"), ROLLOUTS)
    left_out = sorted(name for name, length in lengths.items() if length == longest)
    assert 0 < len(left_out) < 6
    assert kept.equals(rollouts.filter(~pl.col("prompt_id").is_in(left_out)))
    assert (metrics["prompts"], metrics["prompts_too_long"]) == (6 - len(left_out), len(left_out))
    assert f"{len(left_out)} of 6 prompts are too long and left out: {', '.join(left_out)} (the longest has {longest} tokens" in (
        capsys.readouterr().err
    )


def test_empty_completions_are_counted_and_their_prompts_named(sampled, tmp_path, monkeypatch, capsys):
    layout, _, _ = sampled
    copy = copy_project(layout, tmp_path / "copy")
    real = rollout.rollout

    def emptied(*arguments):
        made, logprobs = real(*arguments)
        is_first = pl.col("sample_index") == 0
        return made.with_columns(completion=pl.when(is_first).then(pl.lit("")).otherwise("completion")), logprobs

    monkeypatch.setattr(rollout, "rollout", emptied)
    metrics = rollout.execute(copy, tiny_params(), 1)
    made = parquet.read(copy.iteration(1, "rollouts.parquet"), ROLLOUTS)
    error = capsys.readouterr().err
    assert metrics["empty_completions"] == 6
    assert "rollout 1: 6 empty completions" in error
    assert all(name in error for name in made["prompt_id"].unique())


def test_the_three_log_probabilities_are_saved_and_differ_where_temperature_and_cuts_make_them(sampled, tmp_path):
    layout, _, rollouts = sampled
    copy = copy_project(layout, tmp_path / "copy")
    rollout.execute(copy, tiny_params(), 1)
    plain = parquet.read(copy.iteration(1, "sampling_logprobs.parquet"), SAMPLING_LOGPROBS)
    assert plain["policy_logprobs"].to_list() == rollouts["behavior_logprobs"].to_list() == plain["sampled_logprobs"].to_list()
    rollout.execute(copy, tiny_params(rollout={"temperature": 0.7, "top_k": 3}), 1)
    cut = parquet.read(copy.iteration(1, "sampling_logprobs.parquet"), SAMPLING_LOGPROBS)
    own = parquet.read(copy.iteration(1, "rollouts.parquet"), ROLLOUTS)["behavior_logprobs"].explode()
    assert (cut["sampled_logprobs"].explode() > own).any()
    assert (cut["sampled_logprobs"].explode() >= own - 1e-6).all()
    assert (cut["policy_logprobs"].explode() < own).any()

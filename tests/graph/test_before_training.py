"""What parameters name in the data is looked for before training: by `ospo run`, by prepare-data and by warm-start alone."""

import dataclasses

import polars as pl
import pytest

from ospo_cli.errors import ParameterError, SourceError
from ospo_cli.graph import before_training, runner
from ospo_cli.graph.nodes import node
from ospo_cli.graph.records import Records
from ospo_cli.tables import parquet
from ospo_cli.tables.prepared import PROMPTS
from tests.policies.tiny import tiny_params, write_prepared


@pytest.fixture
def layout(tmp_path):
    return write_prepared(tmp_path)


def as_if_all_were(layout, split):
    path = layout.prepared("prompts.parquet")
    parquet.write(pl.read_parquet(path).with_columns(split=pl.lit(split)), path, PROMPTS)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"retrieval": {"fields": ["title", "brand^2"]}},
            r"retrieval\.fields: no such text field in documents: found brand, expected title",
        ),
        (
            {"warm_start": {"teacher": "judgments", "title_fields": ["brand"]}},
            r"warm_start\.title_fields: no such text field in documents: found brand",
        ),
    ],
)
def test_a_field_that_the_documents_lack_is_refused(layout, sections, message):
    params = tiny_params(**sections)
    with pytest.raises(ParameterError, match=message):
        before_training.check_fields(layout, params.retrieval, params.warm_start)


def test_fields_that_are_there_are_taken_with_and_without_weights(layout):
    params = tiny_params(retrieval={"fields": ["title^2", "category"]})
    before_training.check_fields(layout, params.retrieval, params.warm_start)


@pytest.mark.parametrize(("split", "message"), [("train", "to evaluate after training .*0 dev, 0 test"), ("test", "no prompt to train on")])
def test_a_split_without_prompts_ends_the_warm_start_before_it_begins(layout, split, message):
    as_if_all_were(layout, split)
    with pytest.raises(SourceError, match=message):
        runner.execute(node("warm-start", None, tiny_params()), layout, tiny_params())
    assert not layout.policy(0).exists()


def test_a_run_whose_warm_start_is_up_to_date_looks_too(layout, monkeypatch):
    params = tiny_params()
    monkeypatch.setattr(Records, "is_current", lambda *arguments, **settings: True)
    as_if_all_were(layout, "train")
    with pytest.raises(SourceError, match=r"set evaluate\.split to one that has prompts"):
        runner.run(layout, params)
    evaluates_train = dataclasses.replace(params, evaluate=dataclasses.replace(params.evaluate, split="train"))
    assert runner.run(layout, evaluates_train)[0] == 0


@pytest.mark.parametrize(
    ("sections", "is_said"),
    [
        ({"rollout": {"group_size": 1}}, True),
        ({"rollout": {"group_size": 1}, "update": {"objective": "dpo"}}, True),
        ({"rollout": {"group_size": 2}}, False),
        ({"rollout": {"group_size": 1}, "update": {"objective": "sft"}}, False),
        ({"rollout": {"group_size": 1}, "attribute": {"baseline": "batch", "rule": "uniform"}}, False),
    ],
)
def test_groups_of_one_rollout_are_said_to_teach_nothing(layout, capsys, sections, is_said):
    before_training.check(layout, tiny_params(**sections))
    assert ("nothing is learned" in capsys.readouterr().err) == is_said


@pytest.mark.parametrize("name", ["splice", "swap", "stopping"])
def test_a_group_game_whose_texts_are_not_evaluated_is_refused_before_anything_is_sampled(layout, name):
    game = {"estimator": name, "rule": "none"}
    before_training.check(layout, tiny_params(attribute=game, score_coalitions={"estimators": ["myerson", name]}))
    with pytest.raises(ParameterError, match=rf"{name} reads texts .*found score_coalitions\.estimators: \[myerson\], expected {name}"):
        before_training.check(layout, tiny_params(attribute=game, score_coalitions={"estimators": ["myerson"]}))
    before_training.check(layout, tiny_params(attribute={"estimator": "alone"}, score_coalitions={"estimators": ["myerson"]}))

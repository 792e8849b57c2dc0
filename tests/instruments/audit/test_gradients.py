"""Two halves of a rollout group on a small policy: what is written, what a broken rule looks like, what cannot be measured."""

import dataclasses
import io
import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.errors import CreditError, MissingInputError, ParameterError, PolicyError
from ospo_cli.instruments.audit import gradients as gradient_audit
from ospo_cli.layout import Layout
from ospo_cli.maths.gradient_agreement import HalfProducts
from ospo_cli.maths.redistribution import RULES
from ospo_cli.params import whole
from ospo_cli.stages import prepare_data, warm_start
from ospo_cli.tables import parquet
from ospo_cli.tables.audit import GRADIENT_AUDIT
from tests.pipeline import miniature

FLIPPED = """
from ospo_cli.maths import redistribution

def flipped(tokens, credit, settings):
    advantages, special = redistribution.RULES["uniform"].formula(tokens, credit, settings)
    return -advantages, special

RULE = redistribution.Rule("flipped", False, flipped)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradients") / "shop"
    values = miniature.make(folder, warm_start={"steps": 40}, rollout={"max_new_tokens": 32}, attribute={"rule_file": "rules.py"})
    (folder / "rules.py").write_text(FLIPPED, encoding="utf-8")
    layout = Layout(folder)
    prepare_data.execute(layout, values)
    warm_start.execute(layout, values)
    return layout, values


@pytest.fixture(scope="module")
def measured(project):
    layout, values = project
    return gradient_audit.execute(layout, values, 1, group_size=8, prompts=12, estimators=["myerson", "alone"])


def reading(table, rule, measure, estimator="myerson"):
    row = table.filter((pl.col("estimator") == estimator) & (pl.col("rule") == rule) & (pl.col("measure") == measure))
    assert row.height == 1
    return row.row(0, named=True)


def test_every_rule_is_there_once_per_estimator_that_it_reads(measured):
    table, metrics = measured
    found = set(table.select("estimator", "rule").unique().iter_rows())
    reads = {name for name, rule in RULES.items() if rule.needs_share} | {"flipped"}
    assert found == {("any", "uniform"), ("any", "potential"), *((name, rule) for name in ("myerson", "alone") for rule in reads)}
    assert metrics["prompts"] + metrics["silent_prompts"] == 12
    assert metrics["rollouts"] == 96


def test_grpo_has_no_bias_and_a_flipped_copy_of_it_is_against_it(measured):
    table, _ = measured
    assert reading(table, "uniform", "direction", "any")["value"] == pytest.approx(1)
    shared, opposite = (reading(table, rule, "agreement with GRPO", e) for rule, e in (("uniform", "any"), ("flipped", "myerson")))
    assert opposite["value"] < 0 < shared["value"]
    assert opposite["over_uniform"] == pytest.approx(opposite["value"] - shared["value"])
    assert reading(table, "flipped", "agreement")["value"] > 0
    assert reading(table, "flipped", "scaled error")["value"] == 1


def test_answer_uniform_is_grpo_where_tokens_outside_keep_their_advantage(measured):
    table, _ = measured
    for measure in ("agreement", "agreement with GRPO", "scaled error"):
        own, grpo = reading(table, "answer-uniform", measure), reading(table, "uniform", measure, "any")
        assert own["value"] == grpo["value"]
    assert own["over_uniform"] == 0


def test_two_runs_write_equal_bytes_and_leave_the_iteration_alone(project, measured):
    layout, values = project
    before = layout.iteration(1, "gradient_audit.parquet").read_bytes()
    gradient_audit.execute(layout, values, 1, group_size=8, prompts=12, estimators=["myerson", "alone"])
    assert layout.iteration(1, "gradient_audit.parquet").read_bytes() == before
    assert sorted(path.name for path in layout.iteration(1, "x").parent.iterdir()) == [
        "gradient_audit.parquet",
        "gradient_audit_metrics.json",
    ]
    assert not list(layout.cache.glob("gradient-audit-*"))


def test_the_halves_are_other_rollouts(project, measured):
    table, _ = measured
    row = reading(table, "uniform", "agreement", "any")
    assert row["value"] < 0.99
    assert row["low"] <= row["value"] <= row["high"]
    assert row["deviation"] > 0


def test_the_command_prints_a_line_for_each_rule_and_names_the_file(project):
    layout, values = project
    layout.params.write_text(presets.render(values), encoding="utf-8")
    arguments = [
        "audit",
        "-k",
        "1",
        "--gradients",
        "--rules",
        "signed, uniform",
        "--prompts",
        "8",
        "--group-size",
        "8",
        "-p",
        str(layout.root),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {line.split()[1] for line in done.stdout.splitlines()[2:4]} == {"signed", "uniform"}
    assert "gradient_audit.parquet" in done.output
    table = parquet.read(layout.iteration(1, "gradient_audit.parquet"), GRADIENT_AUDIT)
    assert set(table["rule"]) == {"signed", "uniform"}


def test_the_inputs_are_named_by_their_content(project, measured):
    layout, _ = project
    stored = json.loads(layout.iteration(1, "gradient_audit_metrics.json").read_text())
    assert {"data/policies/000", "data/prepared/qrels.parquet", "params.yaml: score_coalitions"} <= set(stored["inputs"])
    assert all(len(content) == 64 for content in stored["inputs"].values())


def test_the_grid_says_what_each_column_is(measured):
    stream = io.StringIO()
    gradient_audit.print_result(*measured, stream)
    lines = stream.getvalue().splitlines()
    columns = [name for name, _ in gradient_audit.COLUMNS]
    assert lines[1].split() == ["estimator", "rule", *columns]
    assert [line.partition(":")[0] for line in lines[-len(columns) :]] == columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_size": 5}, "--group-size: cannot be cut in two"),
        ({"prompts": 1}, "--prompts: too few for a spread"),
        ({"rules": ["signd"]}, "signd.*did you mean signed"),
        ({"estimators": ["shaply"]}, "shaply.*did you mean shapley"),
        ({"rules": ["uniform"]}, "none that reads shares"),
    ],
)
def test_what_cannot_be_asked_for_is_named(project, arguments, message):
    layout, values = project
    with pytest.raises(ParameterError, match=message):
        gradient_audit.execute(layout, values, 1, **arguments)


def test_rewards_that_never_differ_are_an_error_that_says_what_to_do(project):
    layout, values = project
    flat = dataclasses.replace(
        values,
        score_coalitions=dataclasses.replace(values.score_coalitions, retrieval_weight=0.0, format_weight=0.0, repetition_weight=0.0),
    )
    with pytest.raises(CreditError, match=r"0 of 4.*take more prompts"):
        gradient_audit.execute(layout, flat, 1, group_size=4, prompts=4)


def test_a_policy_that_is_not_there_names_its_command(project):
    layout, values = project
    with pytest.raises((MissingInputError, PolicyError), match="ospo update --iter 3"):
        gradient_audit.execute(layout, values, 4)


def test_options_of_gradients_alone_are_refused_without_it(project):
    layout, _ = project
    done = CliRunner().invoke(app, ["audit", "-k", "1", "--prompts", "8", "-p", str(layout.root)])
    assert done.exit_code == 2
    assert whole.load(layout.params)


def test_a_half_without_a_gradient_counts_as_half_a_silent_prompt(project):
    some, none = np.array([4.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])
    products = HalfProducts(some, none, none, none, none, some, some, some)
    table = gradient_audit._table({("any", "uniform"): products}, project[1])
    assert reading(table, "uniform", "silent", "any")["value"] == pytest.approx(1 / 3)

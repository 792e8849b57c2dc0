"""Kept runs, and what they are compared at."""

import dataclasses
import io
import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ospo_cli import presets
from ospo_cli.cli import app
from ospo_cli.errors import MissingInputError, OspoError, TableError
from ospo_cli.instruments import keep
from ospo_cli.maths.statistics import Resamples
from ospo_cli.params import whole
from ospo_cli.report.kept_files import comparison, present_run
from ospo_cli.report.kept_runs import Run, compared, how
from ospo_cli.report.kept_sections import print_comparison, section
from ospo_cli.stages import report
from ospo_cli.tables import parquet
from ospo_cli.tables.keep import KEPT_VALUES
from tests.report import small_project


def project(root, calls=100, tokens=1000):
    layout, params = small_project.write_project(root, iterations=2)
    for iteration in (1, 2):
        for name, values in (("rollout", {"tokens": tokens}), ("score", {"distinct_values": calls, "mean_reward": 0.5})):
            path = layout.iteration(iteration, f"{name}_metrics.json")
            known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            path.write_text(json.dumps(known | values), encoding="utf-8")
    return layout, params


def run_of(name, values, tokens, calls, **facts):
    """Return a run: value per (iteration, prompt), greedy; tokens and calls of each iteration."""
    rows = [(k, "greedy", f"p{p}", float(v)) for k, found in values.items() for p, v in enumerate(found)]
    table = pl.DataFrame(rows, schema=KEPT_VALUES.schema, orient="row")
    iterations = [{"tokens": t, "reward_calls": c} for t, c in zip(tokens, calls, strict=True)]
    return Run(name, {"metric": "ndcg@10", "retriever": "bm25", "split": "test", "how": "x"} | facts, iterations, table)


OWN = run_of("", {0: [0.0, 0.2], 1: [0.4, 0.2], 2: [0.6, 1.0]}, [100, 100], [1000, 1000])
CHEAP = run_of("cheap", {0: [0.0, 0.2], 2: [0.2, 0.8]}, [50, 100], [10, 30])


def printed(found):
    stream = io.StringIO()
    print_comparison(found, stream)
    return stream.getvalue()


def draws():
    return Resamples(2, 100, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("run", "place", "what", "expected"),
    [
        (OWN, None, "tokens", [0.6, 1.0]),
        (OWN, 200, "tokens", [0.6, 1.0]),
        (OWN, 150, "tokens", [0.5, 0.6]),
        (OWN, 100, "tokens", [0.4, 0.2]),
        (OWN, 0, "tokens", [0.0, 0.2]),
        (OWN, 500, "reward_calls", [0.2, 0.2]),
        (CHEAP, 75, "tokens", [0.1, 0.5]),  # policy 1 was not evaluated: between 0 and 2
        (CHEAP, 10, "reward_calls", [0.05, 0.35]),
        (OWN, 10**6, "tokens", [0.6, 1.0]),
    ],
)
def test_a_run_stands_between_its_evaluated_policies_where_it_has_spent_so_much(run, place, what, expected):
    assert run.at("greedy", place, what) == pytest.approx(expected)


def test_runs_are_compared_at_their_ends_and_at_the_smallest_number_that_any_spent():
    found = compared(OWN, [CHEAP], draws())
    assert [(table["what"], table["place"]) for table in found["tables"]] == [("", None), ("tokens", 150.0), ("reward_calls", 40.0)]
    end, tokens, calls = (table["rows"] for table in found["tables"])
    assert [row["greedy"]["mean"] for row in end] == pytest.approx([0.8, 0.5])
    assert [row["greedy"]["mean"] for row in tokens] == pytest.approx([0.55, 0.5])
    assert [row["greedy"]["mean"] for row in calls] == pytest.approx([0.04 * 0.2 + 0.1, 0.5])
    assert end[1]["greedy"]["to_own"]["mean"] == pytest.approx(-0.3)
    assert "to_own" not in end[0]["greedy"]
    assert end[0]["sampled"] is None
    assert [row["reward_calls"] for row in end] == [2000.0, 40.0]


@pytest.mark.parametrize("fact", ["metric", "retriever", "split"])
def test_a_run_of_another_measure_is_left_out_and_named(fact):
    other = run_of("other", {0: [1, 1], 1: [1, 1]}, [1], [1], **{fact: "another"})
    found = compared(OWN, [other], draws())
    assert found["left_out"] == [{"name": "other", "reason": f"another {fact}"}]
    assert [len(table["rows"]) for table in found["tables"]] == [1, 1, 1]


def test_a_run_on_other_prompts_is_left_out():
    other = run_of("other", {0: [1, 1, 1], 1: [1, 1, 1]}, [1], [1])
    assert compared(OWN, [other], draws())["left_out"] == [{"name": "other", "reason": "other prompts"}]


def test_what_is_kept_is_the_evaluation_and_stands_on_the_page(tmp_path):
    layout, params = project(tmp_path)
    assert comparison(layout, params) is None
    assert keep.execute(layout, layout, params, "first") is False
    assert keep.execute(layout, layout, params, "first") is True
    values = parquet.read(layout.kept("first") / "values.parquet", KEPT_VALUES)
    summary = json.loads(layout.evaluation("summary.json").read_text(encoding="utf-8"))
    mean = values.filter((pl.col("iteration") == 2) & (pl.col("decoding") == "greedy"))["value"].mean()
    assert mean == pytest.approx(summary["values"]["policy-002"]["greedy"][summary["training_retriever"]][summary["metric"]]["mean"])
    found = comparison(layout, params)
    own, first = found["tables"][0]["rows"]
    assert first["greedy"]["mean"] == own["greedy"]["mean"] == pytest.approx(mean)
    assert first["greedy"]["to_own"]["mean"] == 0
    assert first["tokens"] == 2000
    report.execute(layout, params)
    page = layout.report().read_text(encoding="utf-8")
    assert "Runs side by side" in page
    assert "At 2\u202f000 generated tokens" in page
    assert page.count(">first<") == 3


def test_another_projects_run_can_be_kept(tmp_path):
    here, params = project(tmp_path / "here")
    there, other = project(tmp_path / "there", calls=7)
    keep.execute(here, there, other, "there")
    assert comparison(here, params)["tables"][2]["place"] == 14
    assert present_run(there, whole.to_mapping(other)).spent("reward_calls").tolist() == [0, 7, 14]


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x" * 65, "a/b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    layout, params = project(tmp_path)
    with pytest.raises(OspoError, match="not a name"):
        keep.execute(layout, layout, params, name)
    assert not layout.kept("").exists()


def test_a_run_that_is_not_evaluated_or_whose_files_are_damaged_is_named(tmp_path):
    layout, params = project(tmp_path)
    keep.execute(layout, layout, params, "first")
    (layout.kept("first") / "run.json").write_text('{"facts": {}}', encoding="utf-8")
    with pytest.raises(TableError, match=r"run\.json: is not what `ospo keep` writes"):
        comparison(layout, params)
    layout.evaluation("summary.json").unlink()
    with pytest.raises(MissingInputError, match="run `ospo evaluate` first"):
        keep.execute(layout, layout, params, "second")


def test_the_command_keeps_and_compares(tmp_path):
    layout, params = project(tmp_path)
    (tmp_path / "params.yaml").write_text(presets.render(params), encoding="utf-8")
    done = CliRunner().invoke(app, ["keep", "first", "--stale", "--project", str(tmp_path)])  # written by hand: no record of what made it
    assert done.exit_code == 0
    assert "At the end" in done.stdout
    assert "first" in done.stdout
    assert (layout.kept("first") / "run.json").is_file()


def test_an_algorithm_as_options_of_dvc_names_what_its_row_says():
    words = presets.experiment_options("dpo")
    assert words[::2] == ["-S"] * (len(words) // 2)
    assert "update.objective=dpo" in words
    assert "score_coalitions.estimators=[uniform]" in words
    assert "attribute.clip=null" in words
    assert not any(" " in word for word in words)
    with pytest.raises(OspoError, match="no such algorithm: found dop"):
        presets.experiment_options("dop")


def test_dynamic_sampling_and_mirror_descent_are_told_from_plain_grpo():
    rows = {name: presets.load(name) for name in ("grpo", "dapo", "sft", "mirror-descent")}
    shown = {name: how(whole.to_mapping(values)) for name, values in rows.items()}
    assert shown == {
        "grpo": "uniform",
        "dapo": "uniform, unequal groups",
        "sft": "sft, targets: above-mean",
        "mirror-descent": "uniform, mirror descent",
    }


def test_what_two_runs_do_not_share_is_named_and_nothing_that_changes_no_result(tmp_path):
    layout, params = project(tmp_path)
    keep.execute(layout, layout, params, "same")
    other = dataclasses.replace(
        params,
        update=dataclasses.replace(params.update, epochs=7),
        report=dataclasses.replace(params.report, title="<b>other"),
        retrieval=dataclasses.replace(params.retrieval, dense=dataclasses.replace(params.retrieval.dense, max_length=9)),
    )
    keep.execute(layout, layout, other, "other")
    found = comparison(layout, params)
    assert found["set_otherwise"] == [{"name": "other", "names": ["retrieval.dense.max_length", "update.epochs"]}]
    assert "other and this run differ in retrieval.dense.max_length, update.epochs" in printed(found)
    assert section(found)["differ"] == ["other and this run differ in retrieval.dense.max_length, update.epochs"]


def test_a_run_that_was_kept_without_its_parameters_still_compares(tmp_path):
    layout, params = project(tmp_path)
    keep.execute(layout, layout, params, "old")
    path = layout.kept("old") / "run.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("facts", "iterations")}))
    assert comparison(layout, params)["set_otherwise"] == []
    assert [line.split("  ")[0] for line in printed(comparison(layout, params)).splitlines()[:4]] == [
        "At the end, over prompts, for these trained policies",
        "run",
        "this run",
        "old",
    ]

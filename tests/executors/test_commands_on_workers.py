"""Commands with workers write the tables that they write without, to the byte."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
import yaml

from ospo_cli.executors import engines
from ospo_cli.graph import nodes, runner
from ospo_cli.instruments.audit import estimators, gradients
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from ospo_cli.params.execution import Execution
from tests.faults import project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project that has run in one process, with several shards to each loop."""
    folder = project.make(tmp_path_factory.mktemp("made") / "project")
    content = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    content["train"]["iterations"] = 1
    content["rollout"]["batch_size"] = 3
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    runner.run(Layout(folder), whole.load(folder / "params.yaml"))
    return folder


def with_workers(folder, stage):
    """Run a stage of iteration 1 in this process, which need not load the libraries, with two workers."""
    layout, params = Layout(folder), whole.load(folder / "params.yaml")
    params = dataclasses.replace(params, execution=Execution(engine="processes", workers=2))
    runner.execute(nodes.node(stage, 1, params), layout, params)


def on_workers(folder, *arguments):
    """Run a command with two workers as a user does; return what it says."""
    command = [sys.executable, "-m", "ospo_cli", "--engine", "processes", "--workers", "2", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_rollouts_and_scores_of_two_workers_are_those_of_one_process(made, tmp_path, capsys):
    folder = project.copied(made, tmp_path / "project")
    project.undo_from(folder, "rollout --iter 1")
    with_workers(folder, "rollout")
    said = capsys.readouterr().err
    assert "rollout 1: 12/12 completions" in said
    assert " workers" in said
    with_workers(folder, "segment")
    said = on_workers(folder, "score-coalitions", "--iter", "1")
    assert "dense: 40/40 documents" in said
    expected = {path: digest for path, digest in project.outputs(made).items() if path.startswith("iterations/")}
    found = {path: digest for path, digest in project.outputs(folder).items() if path.startswith("iterations/")}
    assert found.items() <= expected.items()
    assert {"iterations/001/rollouts.parquet", "iterations/001/coalition_values.parquet"} <= set(found)
    assert project.leftovers(folder) == []


def test_the_gradient_audit_of_two_workers_is_that_of_one_process(made, tmp_path, capsys):
    params, request = whole.load(made / "params.yaml"), gradients.Request(4)
    alone, folder = (project.copied(made, tmp_path / name) for name in ("alone", "project"))
    gradients.execute(Layout(alone), params, 1, request)
    capsys.readouterr()
    audit = ["audit", "--iter", "1", "--gradients", "--prompts", "4", "--project", str(folder)]
    with engines.engaged(Execution(engine="processes", workers=2), audit):
        gradients.execute(Layout(folder), params, 1, request)
    assert re.search(r"gradients 1: \d/\d rollout groups, .*, 2 workers", capsys.readouterr().err)
    path = "data/iterations/001/gradient_audit.parquet"
    assert (folder / path).read_bytes() == (alone / path).read_bytes()
    assert project.leftovers(folder) == []


def test_the_audit_of_estimators_of_two_workers_is_that_of_one_process(made, tmp_path, capsys):
    params = whole.load(made / "params.yaml")
    alone, folder = (project.copied(made, tmp_path / name) for name in ("alone", "project"))
    _, counts = estimators.execute(Layout(alone), params, 1, examples=2)
    capsys.readouterr()
    audit = ["audit", "--iter", "1", "--project", str(folder)]
    with engines.engaged(Execution(engine="processes", workers=2), audit):
        _, found = estimators.execute(Layout(folder), params, 1, examples=2)
    assert re.search(r"audit: \d+/\d+ rollouts, .*, 2 workers", capsys.readouterr().err)
    for path in ("data/iterations/001/audit.parquet", "data/iterations/001/audit_curves.parquet"):
        assert (folder / path).read_bytes() == (alone / path).read_bytes()
    differing = {name for name in counts if found[name] != counts[name]}
    assert differing <= {"seconds", "look_up_seconds", "compute_seconds"}
    assert project.leftovers(folder) == []


@pytest.mark.slow
def test_evaluation_headroom_and_rewrites_of_two_workers_are_those_of_one_process(made, tmp_path):
    folder = project.copied(made, tmp_path / "project")
    project.undo_from(folder, "evaluate")
    on_workers(folder, "evaluate")
    found = project.outputs(folder)
    assert found == {path: digest for path, digest in project.outputs(made).items() if path in found}
    (folder / "queries.txt").write_text("red coat\nblue hat\n", encoding="utf-8")
    for command in (("headroom", "--split", "train", "--samples", "2"), ("rewrite", "queries.txt", "--ungated", "--out", "rewrites.csv")):
        on_workers(folder, *command)
    alone = project.copied(folder, tmp_path / "alone")
    project.remove(alone / "data" / "cache")
    for command in (("headroom", "--split", "train", "--samples", "2"), ("rewrite", "queries.txt", "--ungated", "--out", "rewrites.csv")):
        subprocess.run([sys.executable, "-m", "ospo_cli", *command], cwd=alone, capture_output=True, check=True)
    for path in ("data/headroom/headroom_queries.parquet", "rewrites.csv"):
        assert (folder / path).read_bytes() == (alone / path).read_bytes()

"""What `ospo run` takes for up to date, and what a single stage says of its inputs."""

import dataclasses
import hashlib
import json

import polars as pl
import pytest
import yaml

from ospo_cli.graph import nodes, runner
from ospo_cli.graph.records import Records
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params
from ospo_cli.tables.prepared import PROMPTS
from ospo_cli.tables.rollout import ROLLOUTS
from tests.policies.tiny import tiny_params, write_prepared
from tests.tables.sampled import sampled_frame

PARAMS = Params()
SEGMENT = nodes.node("segment", 1, PARAMS)
FILES = (*SEGMENT.outputs, *SEGMENT.metrics)


def write(frame: pl.DataFrame, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """A project whose first segments were made by the command."""
    monkeypatch.delenv("DVC_STAGE", raising=False)
    layout = Layout(tmp_path)
    write(sampled_frame(("001:p:00", "p", "<answer>navy wool coat, for men</answer>")), ROLLOUTS.path(layout, 1))
    write(pl.DataFrame([("p", "train", "coat", [], "coat")], schema=PROMPTS.schema, orient="row"), PROMPTS.path(layout))
    runner.execute(SEGMENT, layout, PARAMS)
    return layout


def is_current(layout) -> bool:
    return Records(layout, PARAMS).is_current(SEGMENT, say=True)


def test_a_stage_that_has_run_is_up_to_date(layout):
    assert is_current(layout)


@pytest.mark.parametrize("path", FILES)
def test_a_stage_with_a_damaged_or_missing_file_runs_again(path, layout, capsys):
    content = (layout.root / path).read_bytes()
    for place in range(0, len(content), max(1, len(content) // 50)):
        (layout.root / path).write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        assert not is_current(layout), place
    (layout.root / path).unlink()
    assert not is_current(layout)
    (layout.root / path).write_bytes(content)
    assert is_current(layout)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff"])
def test_a_stage_whose_manifest_cannot_be_read_runs_again(content, layout):
    (layout.data / "manifests/segment@1.json").write_bytes(content)
    assert not is_current(layout)


def test_a_damaged_file_is_named_with_the_command_that_runs_again(layout, capsys):
    (layout.root / SEGMENT.metrics[0]).write_text("{}")
    assert not is_current(layout)
    said = f"{SEGMENT.metrics[0]}: is not what was written (damaged?): `ospo segment --iter 1` runs again\n"
    assert capsys.readouterr().err == said


def test_a_file_that_was_absent_when_its_hash_was_taken_is_never_up_to_date(layout):
    path = layout.root / "data/manifests/segment@1.json"
    made = json.loads(path.read_text())
    made["hashes"][SEGMENT.metrics[0]] = "absent"
    path.write_text(json.dumps(made))
    (layout.root / SEGMENT.metrics[0]).unlink()
    assert not is_current(layout)


def test_metrics_of_another_run_are_taken_only_where_dvc_wrote_them_down(layout):
    path = layout.root / SEGMENT.metrics[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1.5}))
    assert not is_current(layout)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    locked = {"stages": {"segment@1": {"cmd": "ospo segment --iter 1", "outs": [{"path": SEGMENT.metrics[0], "md5": md5}]}}}
    (layout.root / "dvc.lock").write_text(yaml.safe_dump(locked))
    assert is_current(layout)
    path.write_text("{}")
    assert not is_current(layout)


def test_a_table_that_dvc_wrote_down_and_that_the_manifest_does_not_know_runs_again(layout):
    path = layout.root / SEGMENT.outputs[0]
    path.write_bytes(b"of another run")
    locked = {"stages": {"segment@1": {"outs": [{"path": SEGMENT.outputs[0], "md5": hashlib.md5(path.read_bytes()).hexdigest()}]}}}
    (layout.root / "dvc.lock").write_text(yaml.safe_dump(locked))
    assert not is_current(layout)


def test_a_setting_that_no_mode_reads_is_said_by_its_own_stage_and_by_the_whole_run(layout, capsys, monkeypatch):
    params = dataclasses.replace(PARAMS, segment=dataclasses.replace(PARAMS.segment, window=5))
    line = "params.yaml: set, and not read: segment.window (read where level: window)\n"
    runner.execute(SEGMENT, layout, params)
    assert line in capsys.readouterr().err
    monkeypatch.setattr(runner, "plan", lambda params: [])
    runner.run(layout, params)
    assert capsys.readouterr().err.count(line) == 1
    runner.execute(SEGMENT, layout, PARAMS)
    assert "not read" not in capsys.readouterr().err


def test_by_hand_inputs_that_are_not_what_their_stage_wrote_are_named(layout, capsys, monkeypatch):
    rollout = nodes.node("rollout", 1, PARAMS)
    records = Records(layout, PARAMS)
    manifest = layout.data / "manifests/rollout@1.json"

    def said(key, digest):
        path = "data/iterations/001/rollouts.parquet"
        manifest.write_text(json.dumps({"key": key, "hashes": {path: digest}}))
        capsys.readouterr()
        runner.execute(SEGMENT, layout, PARAMS)
        return capsys.readouterr().err

    true, key = records.of(rollout.outputs[0]), records.key(rollout)
    assert said(key, true) == ""
    assert said(key, "0") == (
        "ospo segment --iter 1: data/iterations/001/rollouts.parquet is not what `ospo rollout --iter 1` wrote; it is read as it is\n"
    )
    assert said("0", true) == (
        "ospo segment --iter 1: `ospo rollout --iter 1` would run again, its inputs, parameters or code changed; read as it is\n"
    )
    monkeypatch.setenv("DVC_STAGE", "segment@1")  # DVC has looked
    assert said(key, "0") == ""


HEADROOM = {"rollout": {"prompts": "headroom"}, "warm_start": {"teacher": "judgments", "steps": 2}}


def test_another_credit_rule_neither_scores_raw_queries_nor_teaches_again(tmp_path):
    layout, old = write_prepared(tmp_path), tiny_params(**HEADROOM)
    first = [nodes.node(name, None, old) for name in ("score-queries", "warm-start")]
    for wanted in first:
        runner.execute(wanted, layout, old)
    credit = {"estimators": ["uniform"], "families": [], "orders": 8, "format_weight": 0.5}
    new = tiny_params(**HEADROOM, score_coalitions=credit, attribute={"estimator": "uniform", "rule": "uniform"})
    assert all(Records(layout, new).is_current(nodes.node(wanted.stage, None, new)) for wanted in first)
    other = tiny_params(**HEADROOM, score_coalitions={"metric": "recall@10"})
    assert not any(Records(layout, other).is_current(nodes.node(wanted.stage, None, other)) for wanted in first)


def test_looks_of_a_warm_start_read_no_more_than_it_declares(tmp_path):
    layout = write_prepared(tmp_path)
    prompts = pl.read_parquet(PROMPTS.path(layout)).with_columns(split=pl.col("split").replace("test", "dev"))
    prompts.write_parquet(PROMPTS.path(layout))
    params = tiny_params(warm_start={"steps": 2, "look_every": 1}, evaluate={"split": "dev"})
    assert len(runner.execute(nodes.node("warm-start", None, params), layout, params)["looks"]) == 2

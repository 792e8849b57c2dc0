"""What a change re-runs, and what it does not: through DVC itself, on a miniature."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

from ospo_cli.params import whole
from tests.pipeline import miniature
from tests.pipeline.conftest import command


def ran(done) -> list[str]:
    """The stages that ran after the first one, which writes code.yaml every time."""
    first, *others = re.findall(r"Running stage '([^']+)'", done.stdout)
    assert first == "code"
    return others


def change(project, section, **values):
    old = whole.load(project / "params.yaml")
    miniature.rewrite(project, dataclasses.replace(old, **{section: dataclasses.replace(getattr(old, section), **values)}))


def test_a_second_repro_computes_nothing(project):
    done = command(project, "dvc", "repro")
    assert ran(done) == []


def test_one_process_goes_on_where_single_commands_were_run(project):
    assert "0 stages run" in command(project, "ospo", "run").stderr  # each stage was a command of its own, which dvc called
    change(project, "attribute", splice_trace=1.0)
    command(project, "ospo", "attribute", "--iter", "1")
    outlook = command(project, "ospo", "run", "--dry-run").stdout.splitlines()
    assert [line for line in outlook if not line.endswith(": up to date")] == [
        "ospo update --iter 1: run",
        "ospo evaluate: run",
        "ospo report: run",
    ]


def test_one_process_gives_the_same_bytes_as_dvc_and_skips_what_is_up_to_date(repro, tmp_path):
    miniature.make(tmp_path / "one", train={"iterations": 1})
    command(tmp_path / "one", "ospo", "run")
    again = command(tmp_path / "one", "ospo", "run")
    assert miniature.tables(tmp_path / "one") == miniature.tables(repro)
    assert "0 stages run" in again.stderr
    # Durations differ from run to run; that DVC made equal tables and brought its metrics back is no reason to make them again.
    shutil.copy(repro / "dvc.lock", tmp_path / "one" / "dvc.lock")
    for path in (repro / "data" / "iterations" / "001").glob("*_metrics.json"):
        shutil.copy(path, tmp_path / "one" / "data" / "iterations" / "001")
    metrics_differ = command(tmp_path / "one", "ospo", "run", "--dry-run").stdout.splitlines()
    assert [line for line in metrics_differ if not line.endswith(": up to date")] == ["ospo report: run"]
    command(tmp_path / "one", "ospo", "run")
    change(tmp_path / "one", "attribute", splice_trace=1.0)
    outlook = command(tmp_path / "one", "ospo", "run", "--dry-run").stdout.splitlines()
    assert [line.removesuffix(": run") for line in outlook if not line.endswith(": up to date")] == [
        "ospo attribute --iter 1",
        "ospo update --iter 1",
        "ospo evaluate",
        "ospo report",
    ]


def test_what_one_process_computed_is_recorded_and_then_up_to_date_for_dvc(project):
    """What `make repro` does: all stages without DVC, then a record of them."""
    recipe = Path("Makefile").read_text().partition("\nrepro:")[2].partition("\n\n")[0]
    record = "ospo graph --code && dvc commit --force --quiet"
    assert recipe.index("ospo run") < recipe.index(record)
    change(project, "attribute", splice_trace=0.9)
    assert "attribute@1" in command(project, "dvc", "status").stdout
    command(project, "ospo", "run")
    command(project, "sh", "-c", record)
    assert ran(command(project, "dvc", "repro")) == []


def test_another_discount_reruns_attribute_and_what_follows_but_not_sampling_or_scoring(project):
    change(project, "attribute", splice_trace=1.0)
    before = miniature.tables(project)
    done = command(project, "dvc", "repro")
    after = miniature.tables(project)
    assert ran(done) == ["attribute@1", "update@1", "evaluate", "report"]
    assert before["iterations/001/rollouts.parquet"] == after["iterations/001/rollouts.parquet"]
    assert before["iterations/001/token_advantages.parquet"] != after["iterations/001/token_advantages.parquet"]


def test_another_metric_reruns_from_scoring(project):
    change(project, "score_coalitions", metric="ndcg@pool")
    status = command(project, "dvc", "status").stdout
    changed = re.findall(r"^(\S+):$", status, re.MULTILINE)
    assert set(changed) == {"code", "score-coalitions@1", "evaluate", "report"}  # and attribute@1, update@1 once its values differ


def test_a_run_of_these_parameters_can_be_kept_and_a_graph_that_is_too_long_is_refused(project):
    assert "wrote data/kept/mine" in command(project, "ospo", "keep", "mine").stderr
    done = command(project, "env", "DVC_STAGE=rollout@2", "ospo", "rollout", "--iter", "2", check=False)
    assert done.stderr.strip() == (
        "ospo: iterations.yaml: is out of date: found iteration 2, expected at most train.iterations, 1; run `ospo graph`"
    )


def test_another_report_reruns_the_report_alone(project):
    change(project, "report", title="Another title")
    done = command(project, "dvc", "repro")
    assert ran(done) == ["report"]
    assert "Another title" in (project / "data/report/report.html").read_text(encoding="utf-8")


def test_one_more_iteration_keeps_the_first(project):
    change(project, "train", iterations=2)
    status = command(project, "dvc", "status").stdout
    assert "rollout@2" in status
    assert "rollout@1:" not in status
    assert "update@1:" not in status


def test_the_result_says_on_the_terminal_what_the_report_warns_of(project):
    shown = command(project, "ospo", "result").stdout
    crossed = json.loads((project / "data/report/warnings.json").read_text(encoding="utf-8"))
    assert "Few held-out prompts" in {sign["name"] for sign in crossed}
    assert [line.split(":")[1].strip() for line in shown.splitlines() if line.startswith("warning: ")] == [sign["name"] for sign in crossed]


def test_metrics_are_shown_by_dvc(project):
    shown = command(project, "dvc", "metrics", "show", "--json").stdout
    assert "data/iterations/001/update_metrics.json" in shown
    found = json.loads(shown)[""]["data"]
    assert "warm_start_greedy" in found["data/evaluation/metrics.json"]["data"]
    # Flat numbers alone, or the table that DVC prints is unreadable.
    flat = [value for content in found.values() for value in content["data"].values()]
    assert not [value for value in flat if isinstance(value, list)]

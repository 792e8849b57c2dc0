"""score-coalitions with the store: equal bytes whatever is there, little lost by a kill, shared by projects."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.store import Store
from ospo_cli.params.whole import Params
from ospo_cli.stages import score_coalitions as stage
from ospo_cli.stages import score_queries
from tests.params.deletion import by_deletion
from tests.stages.test_score_coalitions import outputs, project

KEPT = dataclasses.replace(Params(), store=Store(values="always"))


@pytest.mark.parametrize("pooled", [True, False])
def test_the_store_changes_no_byte_full_half_full_or_empty(tmp_path, pooled):
    plain, kept = project(tmp_path / "plain", pooled=pooled), project(tmp_path / "kept", pooled=pooled)
    stage.execute(plain, dataclasses.replace(KEPT, store=Store(values="never")), 1)
    score_queries.execute(kept, KEPT)
    metrics = []
    for _ in range(2):
        shutil.rmtree(kept.cache, ignore_errors=True)
        metrics.append(stage.execute(kept, KEPT, 1))
        assert outputs(kept) == outputs(plain)
    assert metrics[0]["computed_values"] > 0 == metrics[1]["computed_values"]
    assert metrics[1]["found_values"] > 0 == metrics[0]["reused_values"]
    assert not plain.store.exists()
    written = json.loads(kept.iteration(1, "score_metrics.json").read_text())
    assert metrics[1] == written | {"rollouts": 24}


def test_projects_share_a_store_that_is_named_outside(tmp_path, monkeypatch, capsys):
    one, two = project(tmp_path / "one"), project(tmp_path / "two")
    monkeypatch.setenv("OSPO_STORE", str(tmp_path / "shared"))
    first, second = (stage.execute(layout, KEPT, 1) for layout in (one, two))
    assert second["computed_values"] == 0 < first["computed_values"] <= first["distinct_values"]
    assert outputs(one) == outputs(two)
    assert not (one.data / "store").exists()
    assert f"score-coalitions: values: {second['asked_values']:,} asked" in capsys.readouterr().err


def test_one_call_per_coalition_looks_nothing_up(tmp_path):
    layout = project(tmp_path)
    section = by_deletion(calls="one-by-one").score_coalitions
    stage.execute(layout, KEPT, 1)
    metrics = stage.execute(layout, dataclasses.replace(KEPT, score_coalitions=section), 1)
    assert metrics["computed_values"] == metrics["asked_values"]
    assert metrics["found_values"] == 0


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.store import Store
from ospo_cli.params.whole import Params
from ospo_cli.layout import Layout
from ospo_cli.rewards import remembered
from ospo_cli.retrievers.lexical.rank_bm25 import RankBM25
from ospo_cli.stages import score_coalitions as stage
import dataclasses

root, kills, delay_seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
remembered.FIRST_BATCH, remembered.BATCH_SECONDS, stage.GROUPS_PER_SHARD = 4, 0.01, 1
section = dataclasses.replace(ScoreCoalitions(), retriever="rank-bm25")
parameters = dataclasses.replace(Params(), store=Store(values="always"), score_coalitions=section)
log = os.open(root / "ranked.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
rank = RankBM25.rank

def slow(self, queries, pools, k):
    for _ in queries:
        os.write(log, b".")
        time.sleep(delay_seconds)
    return rank(self, queries, pools, k)

RankBM25.rank = slow
stage.say_unfound = lambda *_: None  # ranks the raw queries at every start
numbers = random.Random(5)
for kill in range(kills + 1):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        stage.execute(Layout(root), parameters, 1)
        os._exit(0)
    if kill < kills:
        time.sleep(0.2 + numbers.random() * 0.3)
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("kills", "delay_seconds"), [(5, 0.012), pytest.param(30, 0.07, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_gives_the_same_bytes_and_loses_the_batch_in_hand_alone(tmp_path, kills, delay_seconds):
    whole, cut = project(tmp_path / "whole"), project(tmp_path / "cut")
    section = dataclasses.replace(ScoreCoalitions(), retriever="rank-bm25")
    values = dataclasses.replace(Params(), store=Store(values="always"), score_coalitions=section)
    metrics = stage.execute(whole, values, 1)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "POLARS_MAX_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(cut.root), str(kills), str(delay_seconds)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert list(map(int, done.stdout.split())) == [-9] * kills + [0], done.stderr
    assert outputs(cut) == outputs(whole)
    # What was ranked and not kept: at most a batch per kill, and these do not grow here, since they take too long.
    ranked = (cut.root / "ranked.log").stat().st_size
    assert metrics["computed_values"] <= ranked <= metrics["computed_values"] + 4 * kills

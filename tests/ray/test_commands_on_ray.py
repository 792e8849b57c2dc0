"""Commands on a Ray cluster write the tables that one process writes, to the byte."""

import os
import subprocess
import sys

from ospo_cli.graph import nodes, runner
from ospo_cli.layout import Layout
from ospo_cli.params import whole
from tests.executors.test_commands_on_workers import made  # noqa: F401
from tests.faults import project


def on_ray(folder, cluster, *arguments):
    """Run a command with two workers on the cluster; return what it says."""
    command = [sys.executable, "-m", "ospo_cli", "--engine", "ray", "--workers", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": cluster}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def made_alone(folder, stage):
    """Run a stage without shards in this process."""
    params = whole.load(folder / "params.yaml")
    runner.execute(nodes.node(stage, 1, params), Layout(folder), params)


def test_headroom_is_that_of_one_process(made, cluster, tmp_path):  # noqa: F811
    folder, alone = (project.copied(made, tmp_path / name) for name in ("project", "alone"))
    asked = ("headroom", "--split", "train", "--samples", "2")
    assert " workers" in on_ray(folder, cluster, *asked)
    subprocess.run([sys.executable, "-m", "ospo_cli", *asked], cwd=alone, capture_output=True, check=True)
    tables = [path.name for path in sorted((alone / "data/headroom").glob("*.parquet"))]
    assert "headroom_queries.parquet" in tables
    assert all((folder / "data/headroom" / name).read_bytes() == (alone / "data/headroom" / name).read_bytes() for name in tables)


def test_rollouts_scores_and_evaluation_are_those_of_one_process(made, cluster, tmp_path):  # noqa: F811
    folder = project.copied(made, tmp_path / "project")
    project.undo_from(folder, "rollout --iter 1")
    said = on_ray(folder, cluster, "rollout", "--iter", "1")
    assert "rollout 1: 12/12 completions" in said
    assert " workers" in said
    made_alone(folder, "segment")
    on_ray(folder, cluster, "score-coalitions", "--iter", "1")
    for stage in ("attribute", "update"):
        made_alone(folder, stage)
    on_ray(folder, cluster, "evaluate")
    assert project.outputs(folder) == project.outputs(made)
    assert project.leftovers(folder) == []

"""kill -9 in the middle of a stage that runs a model, then the same command again: equal bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ospo_cli.stages import rollout, update, warm_start
from tests.policies.tiny import copy_project, folder_bytes, tiny_params, write_advantages, write_prepared, write_project

PARAMS = {"update": {"epochs": 3}}
# One process imports torch, then a child per stage is forked and kills itself in the middle of its work.
KILLED = """
import os, signal, sys
from pathlib import Path
import transformers.models.llama.modeling_llama
from ospo_cli.layout import Layout
from ospo_cli.training.training_state import Training
from ospo_cli.stages import rollout, update, warm_start
from tests.policies.tiny import tiny_params

def killing(real, calls):
    left = [calls]
    def work(*arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return work

params = tiny_params(update={"epochs": 3})
for stage in ("rollout", "warm_start", "update"):
    child = os.fork()
    if child == 0:
        layout = Layout(Path(sys.argv[1]) / stage)
        if stage == "rollout":
            rollout.rollout = killing(rollout.rollout, 2)
            rollout.execute(layout, params, 1)
        Training.step = killing(Training.step, 4)
        warm_start.execute(layout, params) if stage == "warm_start" else update.execute(layout, params, 1)
        os._exit(0)
    print(stage, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Projects in which each stage was killed, beside copies in which nothing ran yet."""
    root = tmp_path_factory.mktemp("killed")
    params = tiny_params(**PARAMS)
    layouts = {
        "rollout": write_project(root / "rollout"),
        "warm_start": write_prepared(root / "warm_start"),
        "update": write_project(root / "update"),
    }
    rollout.execute(layouts["update"], params, 1)
    write_advantages(layouts["update"], 1)
    through = {stage: copy_project(layout, root / "through" / stage) for stage, layout in layouts.items()}
    environment = os.environ | {"OSPO_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "rollout -9\nwarm_start -9\nupdate -9\n", done.stderr
    return layouts, through


def test_a_killed_rollout_left_no_table_and_uses_its_finished_shards(killed, monkeypatch):
    layouts, through = killed
    path, params = layouts["rollout"].iteration(1, "rollouts.parquet"), tiny_params(**PARAMS)
    assert not path.exists()
    rollout.execute(through["rollout"], params, 1)
    real, calls = rollout.rollout, []
    monkeypatch.setattr(rollout, "rollout", lambda *arguments: calls.append(1) or real(*arguments))
    rollout.execute(layouts["rollout"], params, 1)
    assert len(calls) == 1
    assert path.read_bytes() == through["rollout"].iteration(1, "rollouts.parquet").read_bytes()


@pytest.mark.parametrize(("stage", "iteration"), [("warm_start", 0), ("update", 1)])
def test_killed_training_left_no_policy_and_resumes_from_its_checkpoint(killed, monkeypatch, stage, iteration):
    layouts, through = killed
    params = tiny_params(**PARAMS)
    assert not layouts[stage].policy(iteration).exists()
    execute = (
        (lambda layout: warm_start.execute(layout, params)) if stage == "warm_start" else (lambda layout: update.execute(layout, params, 1))
    )
    execute(through[stage])
    from ospo_cli.training.training_state import Training

    real, calls = Training.step, []
    monkeypatch.setattr(Training, "step", lambda self, rate: calls.append(1) or real(self, rate))
    execute(layouts[stage])
    assert len(calls) == {"warm_start": 8, "update": 6}[stage] - 4
    assert folder_bytes(layouts[stage].policy(iteration)) == folder_bytes(through[stage].policy(iteration))
    assert not any(path.name.startswith(".") for path in layouts[stage].policy(iteration).parent.iterdir())


def test_a_kill_between_moving_the_old_folder_away_and_the_new_one_in_is_mended(tmp_path):
    layout = write_prepared(tmp_path)
    warm_start.execute(layout, tiny_params())
    expected = folder_bytes(layout.policy(0))
    layout.policy(0).rename(layout.policy(0).parent / ".000.old.tmp")
    shutil.rmtree(layout.cache, ignore_errors=True)
    warm_start.execute(layout, tiny_params())
    assert folder_bytes(layout.policy(0).parent) == {f"000/{name}": content for name, content in expected.items()}

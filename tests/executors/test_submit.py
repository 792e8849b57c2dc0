"""Array jobs: a stand-in for sbatch and srun runs the tasks as processes; together they leave what one process leaves."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from ospo_cli.errors import OspoError
from ospo_cli.executors import engines, tasks, worker
from ospo_cli.instruments import submit
from ospo_cli.params.execution import Execution
from tests.executors import toy
from tests.policies.tiny import folder_bytes


def submitted(folder, number=2, options=()):
    """Write the scripts for the toy's next loop."""
    with pytest.raises(tasks.Listed) as caught, engines.using(tasks.Listing()):
        toy.jobs(folder)
    program = [sys.executable, "-m", "tests.executors.toy", str(folder)]
    return submit.write(folder / "jobs", caught.value, program, number, options, attempts=2)


def run_array(made, tmp_path):
    """Do what sbatch does with an array job on one machine; return each task's status and what it said."""
    place = tmp_path / "bin"
    place.mkdir(exist_ok=True)
    (place / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (place / "srun").chmod(stat.S_IRWXU)
    first, last = map(int, re.search(r"^#SBATCH --array=(\d+)-(\d+)$", made.array.read_text(), re.MULTILINE).groups())
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    running = [
        subprocess.Popen(
            ["bash", str(made.array)], env=os.environ | {"PATH": path, "SLURM_ARRAY_TASK_ID": str(task)}, stderr=subprocess.PIPE, text=True
        )
        for task in range(first, last + 1)
    ]
    return [(process.communicate()[1], process.returncode) for process in running]


def test_array_jobs_over_two_loops_leave_the_shards_of_one_process(alone, tmp_path):
    made = submitted(tmp_path)
    assert (made.label, made.shards) == ("squares", 6)
    assert [status for _, status in run_array(made, tmp_path)] == [0, 0]
    made = submitted(tmp_path, number=8)
    assert (made.label, made.shards) == ("times", 3)
    assert [status for _, status in run_array(made, tmp_path)] == [0, 0, 0]
    assert folder_bytes(tmp_path / "shards") == alone


def test_a_task_that_is_killed_is_tried_again_and_what_is_left_over_is_listed_anew(alone, tmp_path):
    (tmp_path / "die-0").write_text("1")
    (tmp_path / "die-1").write_text("2")
    assert [status for _, status in run_array(submitted(tmp_path), tmp_path)] == [0, 137]
    made = submitted(tmp_path)
    assert made.shards == 3
    run_array(made, tmp_path)
    toy.jobs(tmp_path)
    assert folder_bytes(tmp_path / "shards") == alone


def test_the_scripts_are_bash_and_hold_names_of_every_kind(tmp_path):
    folder = tmp_path / 'it\'s a $(folder) "here"'
    folder.mkdir()
    made = submitted(folder, options=["--partition=gpu", "--time=1:00:00"])
    for path in (made.array, made.collect):
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
        assert "#SBATCH --partition=gpu\n#SBATCH --time=1:00:00\n" in path.read_text()
    assert subprocess.run(["bash", "-n"], input=made.command, text=True, check=False).returncode == 0
    assert [status for _, status in run_array(made, tmp_path)] == [0, 0]


@pytest.mark.parametrize("option", ["partition=gpu", "--a\n#SBATCH --b", ""])
def test_what_is_no_option_of_sbatch_is_refused(option, tmp_path):
    with pytest.raises(OspoError, match="is no option of sbatch"):
        submitted(tmp_path, options=[option])


@pytest.fixture
def task(tmp_path, monkeypatch):
    """The list of a job and its variables."""
    made = submitted(tmp_path)
    path = next(made.array.parent.glob("*.json"))
    monkeypatch.setenv("OSPO_SHARDS", str(path))
    monkeypatch.setenv("OSPO_TASK", "0/2")
    return path


def begun():
    with engines.engaged(Execution(), ()):
        pass


def test_a_machine_that_does_not_see_the_folder_is_refused(task):
    shutil.move(task, task.with_suffix(".away"))
    with pytest.raises(OspoError, match=r"is not the list of shards that was submitted: found No such file or directory, on .*NFS"):
        begun()


def test_a_machine_that_sees_another_list_is_refused(task):
    task.write_bytes(task.read_bytes()[:-3])
    with pytest.raises(OspoError, match="found another list, on "):
        begun()


def test_a_machine_with_other_versions_is_refused(task, monkeypatch):
    own = worker.versions() | {"numpy": "0.1"}
    monkeypatch.setattr(worker, "versions", lambda: own)
    with pytest.raises(OspoError, match="has another version of numpy"):
        begun()


@pytest.mark.parametrize("part", ["", "2/2", "x/2", "1"])
def test_a_part_that_is_none_is_refused(part, task, monkeypatch):
    monkeypatch.setenv("OSPO_TASK", part)
    with pytest.raises(OspoError, match="OSPO_TASK: is no part of a list"):
        begun()


def test_a_stage_without_shards_is_refused(tmp_path):
    with pytest.raises(OspoError, match="a stage without shards: found update, expected rollout, score-coalitions, evaluate"):
        submit.submit(None, None, "update", 1, 8, ())

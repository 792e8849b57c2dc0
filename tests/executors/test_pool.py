"""Workers that die, hang, fail or differ: named, retried with a bound, no shard lost or doubled, bytes as without workers."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.executors import engines, pool, processes, worker
from ospo_cli.params.execution import Execution
from tests.executors import toy
from tests.policies.tiny import folder_bytes

TWO = Execution(workers=2, attempts=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    toy.jobs(folder)
    return folder_bytes(folder / "shards")


def run(folder, settings=TWO, **mischief):
    folder.mkdir(exist_ok=True)
    for name, times in mischief.items():
        (folder / name.replace("_", "-")).write_text(str(times))
    with engines.using(toy.pool(folder, settings)):
        return toy.jobs(folder)


def test_two_workers_over_two_loops_give_the_bytes_of_one_process(alone, tmp_path, capsys):
    run(tmp_path)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "squares: 6/6 shards" in (said := capsys.readouterr().err)
    assert "2 workers" in said


def test_a_worker_that_is_killed_is_named_and_its_shard_goes_to_another(alone, tmp_path, capsys):
    run(tmp_path, die_3=1, die_101=1)
    assert folder_bytes(tmp_path / "shards") == alone
    said = capsys.readouterr().err
    assert said.count("killed by SIGKILL (out of memory?); attempt 2 of 2") == 2
    assert "process" in said


def test_a_shard_over_which_every_worker_ends_is_given_up_after_so_many_and_the_others_are_kept(alone, tmp_path):
    with pytest.raises(OspoError, match=r"squares, shard \w{12}: 2 workers ended over it: found killed by SIGKILL"):
        run(tmp_path, die_5=2)
    run(tmp_path, die_5=0)
    assert folder_bytes(tmp_path / "shards") == alone


def test_a_shard_that_takes_too_long_is_ended_and_goes_to_another(alone, tmp_path, capsys):
    run(tmp_path, dataclasses.replace(TWO, shard_seconds=20.0), hang_0=1)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "a shard took longer than 20 s (execution.shard_seconds); attempt 2 of 2" in capsys.readouterr().err


def test_a_defect_is_tried_again_and_said(alone, tmp_path, capsys):
    run(tmp_path, fail_2=1)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "exit status 1; ValueError: a defect; attempt 2 of 2" in capsys.readouterr().err


def test_what_a_person_must_repair_is_not_tried_again_and_said_in_its_own_words(tmp_path):
    with pytest.raises(OspoError) as caught:
        run(tmp_path, refuse_2=2)
    assert caught.value.line().startswith("toy: cannot be done: found 2; remove the file (said by worker ")
    assert (tmp_path / "refuse-2").read_text() == "1"


def test_a_worker_that_cannot_start_is_named_with_its_last_line(tmp_path):
    with pytest.raises(OspoError, match=r"worker \d: ended before its first shard: found exit status 1; params.yaml: is broken"):
        run(tmp_path, broken=1)


def test_workers_that_end_between_two_loops_each_time_are_given_up_after_so_many(tmp_path):
    with pytest.raises(OspoError, match=r"worker \d.*: ended before its first shard: found killed by SIGKILL"):
        run(tmp_path, dataclasses.replace(TWO, attempts=3), between=1)


def test_failed_starts_with_finished_shards_between_them_are_no_row_of_failures(alone, tmp_path):
    one = dataclasses.replace(TWO, workers=1)
    run(tmp_path, one, exits="x-x-", die_3=1)  # the second process finishes shards and dies over one; the third does not start
    assert folder_bytes(tmp_path / "shards") == alone
    with pytest.raises(OspoError, match="ended before its first shard: found exit status 1; toy: cannot start"):
        run(tmp_path / "again", one, exits="xx")


def test_a_worker_with_another_list_of_shards_is_refused(tmp_path):
    with pytest.raises(OspoError, match="has another list of shards"):
        run(tmp_path, differ=1)


def test_a_worker_with_another_version_of_a_package_is_refused(tmp_path, monkeypatch):
    own = worker.versions() | {"polars": "0.1"}
    monkeypatch.setattr(worker, "versions", lambda: own)
    with pytest.raises(OspoError, match=r"has another version of polars: found \d.*, expected 0.1"):
        run(tmp_path)


def test_a_worker_that_sees_another_folder_under_the_same_path_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pool.os, "urandom", lambda count: b"\0" * count)
    (tmp_path / "shards").mkdir()
    monkeypatch.setattr(pool.Path, "write_text", lambda path, text, encoding: path.write_bytes(b"of another machine"))
    with pytest.raises(OspoError, match="is not the folder that the command writes into: found of another machine"):
        run(tmp_path)
    assert list((tmp_path / "shards").iterdir()) == []


def test_workers_end_with_a_driver_that_is_killed_and_the_next_one_goes_on(alone, tmp_path):
    (tmp_path / "hang-4").write_text("1")
    driver = subprocess.Popen([sys.executable, "-m", "tests.executors.toy", str(tmp_path), "drive"], stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 300
    while (len(list(tmp_path.rglob("hashes.json"))) < 5 or (tmp_path / "hang-4").read_text() != "0") and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    while working(tmp_path) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert working(tmp_path) == []
    before = folder_bytes(tmp_path / "shards")
    run(tmp_path)
    after = folder_bytes(tmp_path / "shards")
    assert {name: content for name, content in after.items() if not name.endswith(".tmp")} == alone
    assert len([name for name in before if name.endswith("hashes.json")]) == 5


def working(folder):
    """Return the processes that run the toy of a folder."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "tests.executors.toy" in line and str(folder) in line]


def test_each_worker_has_its_share_of_the_cores_and_its_own_gpus(monkeypatch):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = Execution(workers=4, gpus_per_worker=2)
    found = processes.environment_of(3, settings, [str(number) for number in range(8)])
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("2", "6,7")


def test_fewer_gpus_than_asked_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ParameterError, match="fewer GPUs than asked: found 3 here, expected 4"):
        processes.processes(Execution(workers=4, gpus_per_worker=1), ["rollout"])


def test_ray_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("OSPO_ENGINE", "ray")
    with pytest.raises(ParameterError) as caught, engines.engaged(Execution(), ()):
        pass
    assert caught.value.line() == "execution.engine: ray is not installed; pip install 'ospo[ray]'"


@pytest.mark.parametrize(("variable", "value"), [("OSPO_ENGINE", "dask"), ("OSPO_WORKERS", "many"), ("OSPO_WORKERS", "0")])
def test_a_variable_of_no_meaning_is_refused(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ParameterError, match=f"{variable}: .*found {value}"), engines.engaged(Execution(), ()):
        pass

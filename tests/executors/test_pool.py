"""Workers that die, hang, fail or differ: named, retried with a bound, no shard lost or doubled, bytes as without workers."""

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.executors import engines, pool, processes, ray_actors, worker
from ospo_cli.executors.base import Job, Shard
from ospo_cli.params.execution import Execution
from tests.executors import toy
from tests.faults import project
from tests.policies.tiny import folder_bytes

TWO = Execution(workers=2, attempts=2)


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


def test_a_shard_that_takes_too_long_is_ended_and_goes_to_another(alone, tmp_path, capsys, monkeypatch):
    began, hanging = time.monotonic, tmp_path / "hang-0"
    # An hour passes as soon as the shard hangs.
    passed = SimpleNamespace(monotonic=lambda: began() + 3600 * (hanging.read_text() == "0"), sleep=time.sleep)
    monkeypatch.setattr(pool, "time", passed)
    run(tmp_path, dataclasses.replace(TWO, shard_seconds=1800.0), hang_0=1)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "a shard took longer than 1800 s (execution.shard_seconds); attempt 2 of 2" in capsys.readouterr().err


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
        run(tmp_path, between=1)


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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_driver_that_is_killed_or_interrupted_and_the_next_one_goes_on(how, alone, tmp_path):
    (tmp_path / "hang-4").write_text("1")
    driver = subprocess.Popen([sys.executable, "-m", "tests.executors.toy", str(tmp_path), "drive"], stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 300
    while (len(list(tmp_path.rglob("hashes.json"))) < 5 or (tmp_path / "hang-4").read_text() != "0") and time.monotonic() < give_up:
        time.sleep(0.05)
    os.kill(driver.pid, how)
    driver.wait()
    while working(tmp_path) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert working(tmp_path) == []
    before = folder_bytes(tmp_path / "shards")
    run(tmp_path)
    after = folder_bytes(tmp_path / "shards")
    assert {name: content for name, content in after.items() if not name.endswith(".tmp")} == alone
    assert len([name for name in before if name.endswith("hashes.json")]) == 5


class Scripted:
    """A worker that does what a test says: what `answer` returns for a line are its next lines."""

    def __init__(self, answer, *lines):
        self.answer, self.lines, self.is_ended = answer, queue.Queue(), False
        self.say(*lines)

    def say(self, *messages):
        for message in messages:
            self.lines.put(json.dumps(message) + "\n" if message else "")

    def send(self, line):
        self.say(*self.answer(json.loads(line)))

    def read(self):
        return self.lines.get()

    def kill(self):
        if not self.is_ended:
            self.is_ended = True
            self.say(*self.answer({"kill": True}), "")

    def last_words(self):
        return "has ended"


def scripted_job(folder, label, count):
    """A job whose shards are done by `done.add`."""
    done = set()
    shards = [Shard(f"{label}-{number}", 1, number) for number in range(count)]
    return Job(shards, done.__contains__, done.add, label, "shards", folder), done


def at(job):
    return {"at": worker.name_of(job), "versions": worker.versions(), "place": "a script"}


def conducted(workers, settings, *jobs, between=lambda: None):
    hired = iter(workers)
    engine = pool.Pool(lambda place: next(hired), settings)
    with engines.using(engine):
        for job in jobs:
            engines.run(job)
            between()


def test_a_worker_that_is_ended_while_its_shard_arrives_is_given_no_other(tmp_path):
    job, done = scripted_job(tmp_path, "late", 2)

    def late(message):  # the shard was written when its time was over
        return [{"done": 0, "counts": {}}] if "kill" in message and not done.add(0) else []

    def prompt(message):
        return [{"done": message["do"], "counts": {}}] if "do" in message and not done.add(message["do"]) else []

    workers = [Scripted(late, at(job)), Scripted(prompt, at(job))]
    conducted(workers, Execution(workers=1, attempts=1, shard_seconds=0.3), job)
    assert done == {0, 1}
    assert workers[0].is_ended


def test_workers_of_one_place_that_never_come_as_far_as_a_shard_are_given_up_though_those_of_another_work(tmp_path):
    job, done = scripted_job(tmp_path, "uneven", 50)
    hired = []

    def follow(message):  # each shard is done only after one more worker of the other place has ended at its start
        give_up = time.monotonic() + 60
        while "do" in message and len(hired) < message["do"] + 2 and time.monotonic() < give_up:
            time.sleep(0.005)
        return [{"done": message["do"], "counts": {}}] if "do" in message and not done.add(message["do"]) else []

    def hire(place):
        hired.append(place)
        return Scripted(follow, at(job)) if place == 0 else Scripted(lambda _: [], None)

    with engines.using(pool.Pool(hire, Execution(workers=2, attempts=3))), pytest.raises(OspoError) as caught:
        engines.run(job)
    assert caught.value.line().startswith("execution, worker 2: ended before its first shard: found has ended")
    assert hired == [0, 1, 1, 1]
    assert done


def test_what_the_driver_does_between_two_loops_is_not_counted_as_a_workers_start(tmp_path):
    (first, one), (second, two) = scripted_job(tmp_path, "first", 2), scripted_job(tmp_path, "second", 2)

    def follow(message):
        if "do" in message:
            (two if one >= {0, 1} else one).add(message["do"])
            return [{"done": message["do"], "counts": {}}]
        return [at(second)] if "go on" in message else []

    slow = Scripted(follow)
    ended = []

    def between():
        ended.append(slow.is_ended)
        if len(ended) == 1:
            slow.say(at(first))
            time.sleep(0.6)

    conducted([Scripted(follow, at(first)), slow], Execution(workers=2, attempts=1, shard_seconds=0.5), first, second, between=between)
    assert (two, ended) == ({0, 1}, [False, False])


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


def test_so_many_processes_that_the_machine_would_end_are_refused_before_one_is_started(monkeypatch):
    monkeypatch.setattr(processes, "most_processes", lambda: 64)
    assert processes.processes(Execution(workers=64), ["rollout"]).count == 0
    with pytest.raises(ParameterError) as caught:
        processes.processes(Execution(workers=10_000), ["rollout"])
    assert caught.value.line() == (
        "execution.workers: more processes than this machine may have: found 10000, expected at most 64, 32 a core; "
        "lower it, or use --engine ray on several machines"
    )


def test_fewer_gpus_than_asked_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ParameterError, match="fewer GPUs than asked: found 3 here, expected 4"):
        processes.processes(Execution(workers=4, gpus_per_worker=1), ["rollout"])


def test_ray_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(ray_actors.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("OSPO_ENGINE", "ray")
    with pytest.raises(ParameterError) as caught, engines.engaged(Execution(), ()):
        pass
    assert caught.value.line() == "execution.engine: ray is not installed; pip install '.[ray]' in a clone of the repository"


@pytest.mark.parametrize(("variable", "value"), [("OSPO_ENGINE", "dask"), ("OSPO_WORKERS", "many"), ("OSPO_WORKERS", "0")])
def test_a_variable_of_no_meaning_is_refused(variable, value, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ParameterError, match=f"{variable}: .*found {value}"), engines.engaged(Execution(), ()):
        pass


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--workers", "0"), "ospo: --workers or OSPO_WORKERS: is no number of workers: found 0, expected 1 to 100000\n"),
        (("--workers", "-3"), "ospo: --workers or OSPO_WORKERS: is no number of workers: found -3, expected 1 to 100000\n"),
        (("--engine", "dask"), "ospo: --engine or OSPO_ENGINE: no such engine: found dask, expected local, processes, ray\n"),
    ],
)
def test_an_option_of_no_meaning_is_one_line_and_nothing_is_written(option, said, tmp_path):
    folder = project.make(tmp_path / "project")
    before = folder_bytes(folder)
    command = [sys.executable, "-m", "ospo_cli", *option, "prepare-data", "--project", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    after = folder_bytes(folder)
    after.pop("data/cache/code.json", None)  # hashes of the code
    assert after == before

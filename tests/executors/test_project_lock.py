"""One command at a time writes into a project; a killed one leaves nothing that stops the next."""

import fcntl
import json
import os
import signal
import threading
import time

import pytest

from ospo_cli.errors import FileError
from ospo_cli.executors import project_lock
from ospo_cli.executors.project_lock import LockedError, ProjectLock
from ospo_cli.layout import Layout
from ospo_cli.tables import files, unfinished


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(project_lock, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(project_lock, "DVC_SECONDS", 0.05)
    return Layout(tmp_path)


def killed(work) -> None:
    """Run `work` in a child of this process and kill it there."""
    child = os.fork()
    if child == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def left_by(layout, **record) -> None:
    layout.data.mkdir(exist_ok=True)
    layout.lock.write_text(json.dumps(project_lock._record("ospo run") | record))


def test_the_second_command_is_told_who_has_the_project_and_since_when(layout):
    with ProjectLock(layout, "ospo run"), pytest.raises(LockedError) as refused, ProjectLock(layout, "ospo segment --iter 1"):
        pass
    line = refused.value.line()
    assert f"found `ospo run`, process {os.getpid()} on " in line
    assert f"since {time.strftime('%Y-%m-%d')}" in line
    assert line.endswith("wait for its end, or give --wait")


def test_a_command_that_ends_leaves_neither_a_lock_nor_an_empty_folder(layout):
    with ProjectLock(layout, "ospo run"):
        assert layout.lock.is_file()
    assert not layout.data.exists()
    with pytest.raises(ValueError, match="no"), ProjectLock(layout, "ospo run"):
        raise ValueError("no")
    with ProjectLock(layout, "ospo run"):
        (layout.data / "kept").mkdir()
    assert [path.name for path in layout.data.iterdir()] == ["kept"]


def test_who_waits_goes_on_when_the_first_one_ends(layout, capsys):
    order = []

    def second():
        with ProjectLock(layout, "ospo report", wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with ProjectLock(layout, "ospo run"):
        waiting.start()
        said = ""
        while "waiting for" not in said and waiting.is_alive():
            time.sleep(0.01)
            said += capsys.readouterr().err
        order.append("first")
    waiting.join(300)
    assert order == ["first", "second"]
    assert (said + capsys.readouterr().err).count("ospo report: waiting for `ospo run`, process ") == 1


def test_of_many_that_wait_one_at_a_time_goes_on(layout):
    inside, seen = [], []

    def work():
        with ProjectLock(layout, "ospo run", wait=True):
            inside.append(1)
            seen.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    workers = [threading.Thread(target=work) for _ in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert seen == [1] * 12


def test_a_killed_commands_lock_is_taken_over_and_its_leftovers_go(layout, capsys):
    def work():
        lock = ProjectLock(layout, "ospo run")
        lock.__enter__()
        (layout.iteration(1, "")).mkdir(parents=True)
        files.replacing(layout.iteration(1, "rollouts.parquet")).__enter__()
        files.replacing_folder(layout.policy(1)).__enter__()

    killed(work)
    assert len(list(layout.data.rglob("*.tmp"))) == 2
    with ProjectLock(layout, "ospo run"):
        assert list(layout.data.rglob("*.tmp")) == []
    assert "removed what a killed command left half written (2)" in capsys.readouterr().err


def test_a_killed_process_that_nobody_has_asked_after_is_gone(layout):
    """As in a container whose first process never asks: it stays in the list of processes for ever."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        layout.data.mkdir()
        (layout.data / f"{unfinished.prefix('x')}1.tmp").touch()
        layout.lock.write_text(json.dumps(project_lock._record("ospo run")))
        os.write(writing, b"1")
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(reading, 1)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and still listed
    try:
        (layout.root / ".dvc/tmp").mkdir(parents=True)
        (layout.root / ".dvc/tmp/rwlock").write_text(json.dumps({"write": {"data": {"pid": child, "cmd": "dvc repro"}}}))
        with ProjectLock(layout, "ospo run"):
            assert [path.name for path in layout.data.iterdir()] == ["project.lock"]
    finally:
        os.waitpid(child, 0)


def test_what_a_reader_is_writing_is_left_alone(layout):
    # `ospo explain` needs no lock and may be building an index.
    half_made = unfinished.folder(layout.cache / "index", "index-2")
    with unfinished.folder(layout.cache / "index", "index-2") as alive:
        left_by(layout)
        killed(half_made.__enter__)
        assert len(list((layout.cache / "index").iterdir())) == 2
        with ProjectLock(layout, "ospo run"):
            assert list((layout.cache / "index").iterdir()) == [alive]


def test_what_a_worker_was_making_when_its_command_ended_goes_with_the_command(layout):
    with ProjectLock(layout, "ospo audit"):
        killed(unfinished.folder(layout.cache, "gradient-audit").__enter__)
        assert len(list(layout.cache.glob(".*.tmp"))) == 1
    assert list(layout.cache.iterdir()) == []


def test_a_file_of_another_machine_is_left_alone_for_a_day(layout):
    place = layout.cache / "index"
    place.mkdir(parents=True)
    path = place / ".index-2.00000000-1-1.abc.tmp"
    path.touch()
    with ProjectLock(layout, "ospo run"):
        assert path.exists()
    os.utime(path, (0, 0))
    with ProjectLock(layout, "ospo run"):
        assert not path.exists()


def test_another_machines_lock_is_said_and_never_taken(layout):
    left_by(layout, host="elsewhere", boot="another")
    with (
        pytest.raises(LockedError, match=r"another machine did not give.*on elsewhere, since .*if it does not, delete this file"),
        ProjectLock(layout, "ospo run", wait=True),
    ):
        pass
    layout.lock.unlink()
    with ProjectLock(layout, "ospo run"):
        pass


@pytest.mark.parametrize("change", [{"boot": "before the restart"}, {"host": "another container"}])
def test_a_lock_that_this_kernel_or_this_machine_kept_is_taken_over(layout, change):
    left_by(layout, **change)
    with ProjectLock(layout, "ospo run"):
        assert json.loads(layout.lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\0" * 100])
def test_a_damaged_lock_file_stops_nobody(layout, content):
    layout.data.mkdir()
    layout.lock.write_text(content)
    with ProjectLock(layout, "ospo run"):
        pass


def test_a_lock_file_that_was_deleted_locks_nobody_out_and_protects_the_next(layout):
    with ProjectLock(layout, "ospo run"):
        layout.lock.unlink()
        with ProjectLock(layout, "ospo report"), pytest.raises(LockedError), ProjectLock(layout, "ospo run"):
            pass


def test_a_lock_file_that_is_deleted_while_it_is_taken_is_made_again(layout, monkeypatch):
    """The kernel's lock of a file without a name stops nobody else."""
    taken = []

    def flock(opened, how, lock=fcntl.flock):
        lock(opened, how)
        taken.append(opened)
        if len(taken) == 1:
            layout.lock.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with ProjectLock(layout, "ospo run"):
        assert len(taken) == 2
        with pytest.raises(LockedError), ProjectLock(layout, "ospo report"):
            pass


def test_without_locks_of_the_file_system_the_record_tells(layout, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with ProjectLock(layout, "ospo run"), pytest.raises(LockedError, match="`ospo run`"), ProjectLock(layout, "ospo report"):
        pass
    left_by(layout, pid=2**22 + 1)
    with ProjectLock(layout, "ospo run"):
        pass
    left_by(layout, start=1)  # the number is ours now
    with ProjectLock(layout, "ospo run"):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(layout, monkeypatch):
    layout.data.write_text("no folder")
    with pytest.raises(FileError, match=r"project\.lock: cannot be written"), ProjectLock(layout, "ospo run"):
        pass


def at_work(layout, pid: int) -> None:
    folder = layout.root / ".dvc/tmp"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rwlock").write_text(json.dumps({"write": {"/x": {"pid": pid, "cmd": "dvc repro"}}, "read": {}}))


def test_dvc_at_work_is_waited_for_or_said(layout, monkeypatch):
    at_work(layout, os.getpid())
    with pytest.raises(LockedError, match="DVC works in this project: found `dvc repro`, process"), ProjectLock(layout, "ospo run"):
        pass
    with pytest.raises(LockedError), ProjectLock(layout, "ospo run"):
        pass
    monkeypatch.setenv("DVC_STAGE", "rollout@1")  # what DVC itself calls
    with ProjectLock(layout, "ospo rollout --iter 1"):
        pass


def test_a_killed_dvc_is_not_at_work(layout):
    at_work(layout, 2**22 + 1)
    with ProjectLock(layout, "ospo run"):
        pass
    (layout.root / ".dvc/tmp/rwlock").write_text('{"write')
    with ProjectLock(layout, "ospo run"):
        pass


def test_dvc_between_two_stages_is_at_work(layout):
    (layout.root / ".dvc/tmp").mkdir(parents=True)
    with open(layout.root / ".dvc/tmp/lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match=r"DVC works in this project: found a command that holds \.dvc/tmp/lock"):
            ProjectLock(layout, "ospo run").__enter__()
    with ProjectLock(layout, "ospo run"):
        pass


def test_an_interrupted_command_removes_its_own_half_written_files(layout):
    lock = ProjectLock(layout, "ospo run").__enter__()
    files.replacing(layout.policy(0) / "a.json").__enter__()  # Ctrl-C before its block has begun
    lock.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(layout.data.rglob("*.tmp")) == []
    with ProjectLock(layout, "ospo run"):
        written = files.replacing(layout.data / "b.json").__enter__()
    assert written.exists()  # an orderly end looks for nothing of its own

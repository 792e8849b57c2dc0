"""A command in several processes of torchrun: one of them prints, and whatever goes wrong ends as one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ospo_cli.cli import launching
from ospo_cli.errors import OspoError
from ospo_cli.executors import peers, worker
from ospo_cli.params.written import render
from ospo_cli.tables.files import write_text
from tests.policies.tiny import tiny_params

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = {"TORCHELASTIC_RUN_ID": "test", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(scope="module")
def project(project):
    write_text(project.params, render(tiny_params(update={"epochs": 3})))
    return project


def begun(layout, *arguments, **environment):
    command = [sys.executable, "-m", "ospo_cli", *arguments, "--project", str(layout.root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(layout, *arguments, **environment):
    """Return exit status, stdout and the lines of stderr."""
    process = begun(layout, *arguments, **environment)
    stdout, stderr = process.communicate(timeout=1800)
    is_note = re.compile(r"update: no GPU is found here: \d processes share the processor").fullmatch
    lines = stderr.splitlines()
    assert torch.cuda.is_available() or sum(map(bool, map(is_note, lines))) == ("--gpus" in arguments)
    return process.returncode, stdout, [line for line in lines if not is_note(line)]


def test_an_update_in_two_processes_prints_and_writes_once(layout):
    status, stdout, lines = ended(layout, "update", "--iter", "1", "--gpus", "2")
    assert (status, stdout) == (0, ""), lines
    assert [line.partition(":")[0] for line in lines] == ["update 1", "update 1", "ospo update --iter 1"]
    assert (layout.policy(1) / "model.safetensors").is_file()
    assert not layout.lock.exists()


@pytest.mark.slow
def test_an_error_of_all_processes_is_one_line(layout):
    layout.iteration(1, "rollouts.parquet").unlink()
    status, _, lines = ended(layout, "update", "--iter", "1", "--gpus", "2")
    assert status == 1
    assert [line.partition(": expected")[0] for line in lines] == ["ospo: data/iterations/001/rollouts.parquet: no such file or folder"]


@pytest.mark.slow
def test_a_project_that_another_command_holds_is_one_line_of_the_first_process(layout):
    with held(layout):
        status, _, lines = ended(layout, "update", "--iter", "1", "--gpus", "2")
    assert status == 1
    assert len(lines) == 1
    assert "another command writes into this project" in lines[0]


def held(layout):
    from ospo_cli.executors.project_lock import ProjectLock

    return ProjectLock(layout, "ospo test")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_process_ends_all_within_a_minute_and_the_same_command_goes_on(layout, number):
    process = begun(layout, "update", "--iter", "1", "--gpus", "2", OSPO_CHECKPOINT_SECONDS="0")
    while not list(layout.cache.glob("update/*/*/hashes.json")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(int(children(process.pid)[number]), signal.SIGKILL)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=1800)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == (
        f"ospo: ospo update: one of its processes is gone: found process {number} of 2 ended by SIGKILL; "
        "run the same command again: it goes on from the last checkpoint"
    )
    assert not layout.policy(1).exists()
    status, _, lines = ended(layout, "update", "--iter", "1", "--gpus", "3")
    assert status == 0
    assert any("from cache" in line for line in lines)


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(
    ("number", "expected"), [("0", ["ospo: ospo segment: is one process's work: found torchrun; run it without torchrun"]), ("1", [])]
)
def test_a_stage_that_is_not_shared_is_refused_under_torchrun_by_the_first_process_alone(layout, number, expected):
    assert ended(layout, "segment", "--iter", "1", **LAUNCHED | {"RANK": number}) == (1, "", expected)


def test_a_port_that_is_in_use_is_one_line(layout):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, lines = ended(layout, "update", "--iter", "1", **LAUNCHED, MASTER_PORT=port)
    assert status == 1
    assert [line.partition(": found")[0] for line in lines] == ["ospo: torchrun: its processes cannot meet"]
    assert port in lines[0]


def test_no_process_is_refused():
    with pytest.raises(OspoError, match="--gpus: is too small: found 0, expected 1 or more"):
        launching.wanted(0)


def test_cut_weights_of_one_process_are_refused(layout):
    status, _, lines = ended(layout, "update", "--iter", "1", "--shard-weights")
    assert (status, lines) == (1, ["ospo: --shard-weights: needs several processes: found one, expected --gpus 2 or more, or torchrun"])


def test_options_are_spelled_as_arguments():
    found = launching.spelled({"--iter": 3, "--project": Path("."), "--wait": False, "--shard-weights": True, "--gpus": None})
    assert found == ["--iter", "3", "--project", ".", "--shard-weights"]


def test_fewer_gpus_than_processes_or_no_nccl_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OspoError, match="fewer GPUs than processes: found 2 GPUs, expected at least 4"):
        launching.wanted(4)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(OspoError, match="this build of PyTorch has no NCCL"):
        launching.wanted(2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="processes share GPUs by their number")
def test_so_many_processes_without_gpus_that_the_machine_would_end_are_refused():
    with pytest.raises(OspoError, match=r"--gpus: is too large for a machine without GPUs: found 10000, expected at most \d+"):
        launching.wanted(10_000)


def test_a_process_of_other_versions_is_refused_by_name(monkeypatch):
    theirs = worker.versions() | {"torch": "1.0"}
    monkeypatch.setattr(peers, "gathered", lambda own: [own, {"own": np.array(json.dumps(theirs))}])
    with pytest.raises(OspoError) as caught:
        launching.check_versions_alike()
    expected = f"found 1.0, expected {worker.versions()['torch']}; install the same versions on all machines"
    assert caught.value.line() == f"torchrun, process 1: has another version of torch: {expected}"


def test_without_company_nothing_travels_and_the_process_speaks():
    assert (peers.count(), peers.rank(), peers.is_first(), peers.speaks(), peers.is_agreed(False)) == (1, 0, True, True, False)

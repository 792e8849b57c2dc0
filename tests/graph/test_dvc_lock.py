"""What is read from dvc.lock: a stage is current where command, dependencies, parameters and outputs are those that DVC wrote down."""

import hashlib
import json

import pytest
import yaml

from ospo_cli import presets
from ospo_cli.graph import dvc
from ospo_cli.graph.dvc_lock import DvcLock
from ospo_cli.graph.nodes import each, node
from ospo_cli.params import whole


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def project(tmp_path):
    """A project whose warm start was made by DVC: inputs are files, the output is a folder."""
    values = presets.load("demo")
    (tmp_path / "params.yaml").write_text(presets.render(values))
    dvc.write(tmp_path, values)
    dvc.write_code(tmp_path, each(values))
    wanted = node("warm-start", None, values)
    for path in wanted.inputs:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    outputs = {}
    for path in wanted.outputs:
        (tmp_path / path / "inner").mkdir(parents=True)
        (tmp_path / path / "b.txt").write_text("b")
        (tmp_path / path / "inner" / "a.txt").write_text("a")
        listed = [{"md5": md5(b"b"), "relpath": "b.txt"}, {"md5": md5(b"a"), "relpath": "inner/a.txt"}]
        outputs[path] = md5(json.dumps(listed).encode()) + ".dir"
    mapping = whole.to_mapping(values)
    declared = dvc.stage_of(wanted)
    named = {}
    for section in wanted.sections:
        head, _, name = section.partition(".")
        named[section] = mapping[head][name] if name else mapping[head]
    code = yaml.safe_load((tmp_path / "code.yaml").read_text())["stages"]["warm-start"]
    locked = {
        "cmd": wanted.command,
        "deps": [{"path": path, "md5": md5((tmp_path / path).read_bytes())} for path in declared["deps"]],
        "params": {"params.yaml": named, "code.yaml": {"stages.warm-start": code}},
        "outs": [{"path": path, "md5": digest} for path, digest in outputs.items()],
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"warm-start": locked}}))
    return tmp_path, wanted


def test_a_stage_that_dvc_made_is_current(project):
    root, wanted = project
    assert DvcLock(root).is_current(wanted)


@pytest.mark.parametrize("change", ["input", "output", "further output", "params", "code", "lock", "no lock"])
def test_a_stage_of_which_anything_changed_is_not_current(project, change):
    root, wanted = project
    changes = {
        "input": lambda: (root / wanted.inputs[0]).write_text("other"),
        "output": lambda: (root / wanted.outputs[0] / "b.txt").write_text("other"),
        "further output": lambda: (root / wanted.outputs[0] / "c.txt").write_text("c"),
        "params": lambda: (root / "params.yaml").write_text(
            (root / "params.yaml").read_text().replace("hidden_size: 128", "hidden_size: 64")
        ),
        "code": lambda: (root / "dvc.lock").write_text(
            (root / "dvc.lock").read_text().replace("stages.warm-start: ", "stages.warm-start: 1")
        ),
        "lock": lambda: (root / "dvc.lock").write_text("stages: {warm-start: {cmd: ospo warm-start, deps: [1]}}"),
        "no lock": lambda: (root / "dvc.lock").unlink(),
    }
    changes[change]()
    assert not DvcLock(root).is_current(wanted)

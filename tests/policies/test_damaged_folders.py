"""Folders whose weights are damaged or are not those of their configuration: one line, before anything is copied or sampled."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ospo_cli.errors import PolicyError
from ospo_cli.params.policy import Policy
from ospo_cli.policies.starting_point import write_starting_point
from tests.policies.tiny import write_project


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("whole") / "project").policy(0)


def shards(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(weights) // 2
    placed = {name: f"model-0000{1 + (place >= half)}-of-00002.safetensors" for place, name in enumerate(weights)}
    for shard in set(placed.values()):
        save_file({name: weights[name] for name in weights if placed[name] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def changed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def started(folder, project):
    place = project / "data/policies/000"
    place.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.replace(Policy(), base=str(folder))
    write_starting_point(place, project, settings, 0, list)
    return sorted(path.name for path in place.glob("*.safetensors"))


def test_several_shards_are_copied_whole(policy, tmp_path):
    shutil.copytree(policy, tmp_path / "base")
    shards(tmp_path / "base")
    assert len(started(tmp_path / "base", tmp_path)) == 2


def _shard_gone(folder):
    shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _two_sets(folder):
    kept = (folder / "model.safetensors").read_bytes()
    shards(folder)
    (folder / "model.safetensors").write_bytes(kept)


def _outside(folder):
    shards(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_shard_gone, "names weights that are not in its folder: found model-00002-of-00002.safetensors"),
        (_outside, r"names weights that are not in its folder: found \.\./model-00002"),
        (_two_sets, "holds two sets of weights"),
        (_cut, "model.safetensors: is no file of weights"),
        (lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "is no file of weights"),
        (lambda folder: changed(folder, lambda weights: weights.pop("model.norm.weight")), r"missing keys\): found model.norm.weight"),
        (lambda folder: changed(folder, lambda weights: weights.update(other=np.zeros(2, np.float32))), r"unexpected keys\): found other"),
        (
            lambda folder: changed(folder, lambda weights: weights.update({"model.norm.weight": np.zeros(3, np.float32)})),
            r"mismatched keys\): found .*model.norm.weight",
        ),
        (
            lambda folder: changed(folder, lambda weights: weights.update({"model.norm.weight": np.ones(32, np.int8)})),
            "holds weights in whole numbers: quantised, .*found model.norm.weight",
        ),
        (
            lambda folder: changed(folder, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"] + 1})),
            "has an output embedding of its own, and config.json says that there is none",
        ),
    ],
)
def test_what_is_wrong_with_the_weights_is_one_line_at_warm_start(policy, tmp_path, capfd, damage, said):
    shutil.copytree(policy, tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(PolicyError, match=said):
        started(tmp_path / "base", tmp_path)
    assert capfd.readouterr().err == ""

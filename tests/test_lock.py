"""The locks of the two README commands: what pyproject.toml asks for, each file by its hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# PyTorch has two builds (see the Makefile); what a build with CUDA brings it pins itself.
BESIDE = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
ASKED = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-dev.lock": PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"],
}


def locked(name):
    """Return (requirement, number of hashes) of each entry."""
    entries = re.findall(
        r"^([a-z0-9].*?)((?: \\\n {4}--hash=sha256:[0-9a-f]{64})*)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE
    )
    return [(Requirement(entry), hashes.count("--hash")) for entry, hashes in entries]


@pytest.mark.parametrize("name", ASKED)
def test_every_dependency_is_locked_at_a_version_that_it_allows(name):
    held = {}
    for entry, _ in locked(name):
        held.setdefault(entry.name, []).append(next(iter(entry.specifier)).version)
    for asked in map(Requirement, ASKED[name]):
        versions = held.get(asked.name.lower(), [] if not BESIDE.fullmatch(asked.name) else ["2.13.0"])
        assert versions, asked
        assert all(asked.specifier.contains(version) for version in versions), (asked, versions)


@pytest.mark.parametrize("name", ASKED)
def test_every_entry_of_a_lock_has_one_version_and_hashes_and_none_is_a_build_of_torch(name):
    entries = locked(name)
    assert len(entries) > 80
    assert [str(entry) for entry, hashes in entries if not hashes or not re.fullmatch(r"==[^*]+", str(entry.specifier))] == []
    assert [entry.name for entry, _ in entries if BESIDE.fullmatch(entry.name)] == []


def test_both_locks_agree():
    assert {str(entry) for entry, _ in locked("requirements.lock")} <= {str(entry) for entry, _ in locked("requirements-dev.lock")}

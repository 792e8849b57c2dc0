"""One miniature project that has run through DVC, shared by the tests of this folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.pipeline import miniature

BIN = Path(sys.executable).parent
PATHS = [str(BIN), os.environ["PATH"]]


def command(directory: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command of this environment in a project's folder."""
    environment = {**os.environ, "PATH": os.pathsep.join(PATHS), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=directory, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def warm_ospo(tmp_path_factory):
    """Let `ospo` be forked from a server, by DVC too."""
    with warm.commands(tmp_path_factory.mktemp("warm")) as folder:
        PATHS.insert(0, str(folder))
        yield
        PATHS.pop(0)


@pytest.fixture(scope="session")
def repro(tmp_path_factory, warm_ospo) -> Path:
    """A project of one iteration after `dvc repro`; tests copy it, they do not change it."""
    directory = tmp_path_factory.mktemp("dvc") / "project"
    miniature.make(directory, train={"iterations": 1})
    command(directory, "git", "init", "-q")
    command(directory, "dvc", "config", "--local", "core.no_scm", "false")
    command(directory, "dvc", "repro")
    return directory


@pytest.fixture
def project(repro, tmp_path) -> Path:
    """A copy of the project that has run, DVC's cache included."""
    shutil.copytree(repro, tmp_path / "project", symlinks=True)
    return tmp_path / "project"

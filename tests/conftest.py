import pytest

from ospo_cli.policies.opening import load_policy
from tests.policies.tiny import write_tiny_policy


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("policies") / "tiny")


@pytest.fixture(scope="session")
def tiny_policy(tiny_folder):
    return load_policy(tiny_folder, threads=1)

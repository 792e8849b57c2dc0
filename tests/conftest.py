import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from ospo_cli.policies.opening import load_policy
from ospo_cli.stages import rollout
from tests.executors import toy
from tests.policies.tiny import copy_project, folder_bytes, tiny_params, write_advantages, write_project, write_tiny_policy

# Longest first, so that no worker is left alone with one of them at the end.
LONG = ("tests/pipeline/", "tests/instruments/audit/", "tests/executors/", "tests/training/", "tests/cli/", "tests/test_benchmarks.py")

# The same examples in every run, and no limit of time: a loaded machine refutes nothing. `--hypothesis-profile fresh` draws anew.
settings.register_profile("repeated", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fresh", settings.get_profile("repeated"), derandomize=False)
settings.load_profile("repeated")


class ByFile(LoadScopeScheduling):
    """A file's tests go to one worker, and those of tests/pipeline all to one: what their fixtures make takes up to a minute."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return LONG[0] if file.startswith(LONG[0]) else file


def pytest_xdist_make_scheduler(config, log):
    """Schedule by file; xdist's own marks of groups are without effect under pytest 9."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Put the longest folders first; the order within them stays."""
    items.sort(key=lambda item: next((place for place, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG)))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("policies") / "tiny")


@pytest.fixture(scope="session")
def tiny_policy(tiny_folder):
    return load_policy(tiny_folder, threads=1)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project with the rollouts of iteration 1 and what an update learns from; tests that write take `layout`."""
    layout = write_project(tmp_path_factory.mktemp("tiny") / "project")
    rollout.execute(layout, tiny_params(), 1)
    write_advantages(layout, 1)
    return layout


@pytest.fixture
def layout(project, tmp_path):
    """A copy of the module's project."""
    return copy_project(project, tmp_path / "copy")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the toy's loops."""
    folder = tmp_path_factory.mktemp("alone")
    toy.jobs(folder)
    return folder_bytes(folder / "shards")

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from ospo_cli.policies.opening import load_policy
from tests.policies.tiny import write_tiny_policy

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

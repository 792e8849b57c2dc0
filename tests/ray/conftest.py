"""A cluster for the tests of one session."""

import os

import pytest


@pytest.fixture(scope="session")
def cluster():
    """The address of a cluster of one node on this machine: two processors, and two GPUs that are not there."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    if address := os.environ.get("OSPO_TEST_RAY"):  # one that is there: ray start --head --num-cpus 2 --num-gpus 2
        yield address
        return
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
    yield made.address
    made.shutdown()

"""What is said of a Ray cluster that cannot be had; Ray itself is not needed for it."""

import socket
import threading

import pytest

from ospo_cli.errors import ParameterError
from ospo_cli.executors import ray_actors
from ospo_cli.params.execution import Execution


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setattr(ray_actors.importlib.util, "find_spec", lambda name: "here")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("address", ["nonsense", "ray://", "host.invalid:1", "host:port", "127.0.0.1:99999", "127.0.0.1:1"])
def test_an_address_without_a_cluster_is_refused(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ParameterError) as caught:
        ray_actors.actors(Execution(), ["rollout"])
    assert caught.value.line().startswith(f"execution.address: no Ray cluster there: found {address}: ")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_server_at_the_address_is_refused_at_once(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with server.accept()[0] as other:
                other.recv(100)
                other.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ParameterError, match="what listens there is not Ray's head"):
            ray_actors.actors(Execution(address=f"127.0.0.1:{server.getsockname()[1]}"), ["rollout"])


def test_a_server_of_http_2_is_taken_for_a_head_and_nothing_is_started_yet():
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = []

        def serve():
            with server.accept()[0] as other:
                heard.append(other.recv(100))
                other.sendall(b"\0\0\0\4\0\0\0\0\0")

        serving = threading.Thread(target=serve)
        serving.start()
        ray_actors.actors(Execution(address=f"127.0.0.1:{server.getsockname()[1]}"), ["rollout"])
        serving.join()
    assert heard[0].startswith(b"PRI * HTTP/2.0")


class AuthenticationError(Exception):
    """As Ray names it."""


@pytest.mark.parametrize(
    ("error", "address", "line"),
    [
        (
            RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.7\n"),
            "10.0.0.1:6379",
            "execution.address: the Ray cluster has other versions: found Version mismatch: The cluster was started with: Ray: 2.59.0 Python: "
            "3.11.7; install the same versions of Python and Ray on all machines",
        ),
        (
            AuthenticationError("no token\nmore"),
            "10.0.0.1:6379",
            "execution.address: the Ray cluster does not let this command in: found no token; ",
        ),
        (ConnectionError("timed out"), "auto", "execution.address: no Ray cluster there: found auto: timed out; start one"),
        (
            RuntimeError("No node info found"),
            "10.0.0.1:6379",
            "execution.address: no Ray cluster there: found 10.0.0.1:6379: No node info found",
        ),
        (Exception("The node timed out\nmore"), "", "execution.engine: Ray does not start on this machine: found The node timed out; mend"),
    ],
)
def test_each_refusal_of_ray_has_its_line(error, address, line):
    assert ray_actors.refusal(error, address).line().startswith(line)

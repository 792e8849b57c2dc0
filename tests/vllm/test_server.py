"""vLLM's own OpenAI server on this machine, asked by the sampler openai."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from ospo_cli.errors import PolicyError
from ospo_cli.params.rollout import Server
from ospo_cli.policies.opening import read_policy
from ospo_cli.sampling.completions_server import ServerSampler
from ospo_cli.sampling.vllm_engine import PYTHON
from tests.vllm.test_engine import BOUND, difference, sampled

START_SECONDS = 400


@pytest.fixture(scope="module")
def server(layout, tmp_path_factory):
    """Give rollout.server for a server that holds policy 000 under the name `policy`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "policy", "--generation-config", "vllm"]
    arguments += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "64"]
    arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [
                os.environ.get(PYTHON) or sys.executable,
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(layout.policy(0)),
                *arguments,
            ],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment | {"OMP_NUM_THREADS": "2", "VLLM_LOGGING_LEVEL": "WARNING"},
            cwd=log.parent,
        )
    try:
        wait(process, port, log)
        yield Server(url=f"http://127.0.0.1:{port}/v1", model="policy", concurrency=16, retries=0)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(process, port, log):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the server ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not start within {START_SECONDS} s: {log.read_text()[-2000:]}")


def test_a_servers_log_probabilities_are_those_of_the_updates_forward_pass(server, layout, trained):
    found = sampled(ServerSampler(read_policy(layout.policy(0)), server))
    assert difference(trained["full"], found, "logprobs", 1.0) < BOUND


def test_a_server_draws_the_engines_tokens_and_repeats_them(server, layout, engines):
    made = ServerSampler(read_policy(layout.policy(0)), server)
    first, again, expected = sampled(made), sampled(made), sampled(engines["full"])
    tokens = [[[row.token_ids for row in group] for group in groups] for groups in (first, again, expected)]
    assert tokens[0] == tokens[1] == tokens[2]


def test_a_name_that_the_server_does_not_know_is_an_error_with_its_words(server, layout):
    wrong = ServerSampler(read_policy(layout.policy(0)), dataclasses.replace(server, model="other"))
    with pytest.raises(PolicyError, match=r"the server refuses the request: found HTTP 404 .*other"):
        sampled(wrong)

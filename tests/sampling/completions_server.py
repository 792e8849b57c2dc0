"""A server on this machine that speaks OpenAI's /completions as vLLM does, around this project's own sampler, with faults on demand."""

import contextlib
import json
import time

from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request
from tests import http_server
from tests.http_server import send, serving, status  # noqa: F401  (status: for tests)


class Server(http_server.Server):
    """Answers by a policy of this process; faults are given the answer as an object."""

    def __init__(self, policy):
        super().__init__(Handler)
        self.sampler = Sampler(policy)

    @property
    def url(self):
        return f"{super().url}/v1"


class Handler(http_server.Handler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, "headers": dict(self.headers), "asked": asked})
            fault = self.server.faults.pop(0) if self.server.faults else None
            row = self.server.sampler.sample(Request([asked["prompt"]], [["row"]], asked["max_tokens"], Sampling(), asked["seed"], 1))[0][0]
        choice = {
            "index": 0,
            "text": row.text,
            "logprobs": {"tokens": ["…"] * len(row.token_ids), "token_logprobs": row.logprobs, "text_offset": [], "top_logprobs": None},
            "finish_reason": row.finish_reason,
            "stop_reason": None,
            "token_ids": row.token_ids,
            "prompt_token_ids": asked["prompt"],
        }
        answer = {"id": "1", "object": "text_completion", "model": asked["model"], "choices": [choice], "usage": {}}
        (fault or send)(self, self.server.change(answer))


def no_json(handler, answer):
    send(handler, json.dumps(answer)[:40])


def cut(handler, answer):
    """End the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def slow(seconds):
    """Wait before the answer."""

    def fault(handler, answer):
        time.sleep(seconds)
        with contextlib.suppress(OSError):
            send(handler, answer)

    return fault


def running(policy):
    """Give a server that runs until the block ends."""
    return serving(Server(policy))

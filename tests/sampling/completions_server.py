"""A server on this machine that speaks OpenAI's /completions as vLLM does, around this project's own sampler, with faults on demand."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ospo_cli.sampling.causal_lm import Sampler
from ospo_cli.sampling.next_token import Sampling
from ospo_cli.sampling.sampler import Request


class Server(ThreadingHTTPServer):
    """`faults` are taken one per request, in order: functions (handler, answer) -> None in place of sending; `change` is for all answers."""

    daemon_threads = True

    def __init__(self, policy):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sampler = Sampler(policy)
        self.faults, self.requests, self.lock = [], [], threading.Lock()
        self.change = lambda answer: answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

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

    def log_message(self, *arguments):
        pass


def send(handler, answer, status=200, **headers):
    """Answer with an object as JSON, or with text."""
    content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        handler.wfile.write(content)


def status(code, text="no", **headers):
    """Answer with an HTTP status."""
    return lambda handler, answer: send(handler, text, code, **headers)


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


@contextlib.contextmanager
def running(policy):
    """Give a server that runs until the block ends."""
    server = Server(policy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

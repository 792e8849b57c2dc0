"""A JSON server on this machine, in a thread of its own, with faults on demand."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """`faults` are taken one per request, in order: functions (handler, answer) -> None in place of sending; `change` is for all answers."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.faults, self.requests, self.lock = [], [], threading.Lock()
        self.change = lambda answer: answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open and writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


def send(handler, answer, status=200, length=None, **headers):
    """Answer with an object as JSON, or with text."""
    content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        handler.wfile.write(content)


def status(code, text="{}", **headers):
    """Return a fault: this HTTP status."""
    return lambda handler, _: send(handler, text, code, **headers)


@contextlib.contextmanager
def serving(server):
    """Run a server in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

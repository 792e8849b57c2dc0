"""A search server on this machine that speaks Elasticsearch's `_msearch` around a retriever, with faults on demand."""

import contextlib
import json
import time

import numpy as np

from tests import http_server
from tests.http_server import send, serving, status  # noqa: F401  (status: for tests)


class Server(http_server.Server):
    """Answers by a retriever; faults are given the reply as text."""

    def __init__(self, retriever, doc_ids):
        super().__init__(Handler)
        self.retriever, self.doc_ids = retriever, doc_ids

    def queries(self):
        """Return every query of every request."""
        return [asked["query"] for request in self.requests for asked in request["asked"]]


class Handler(http_server.Handler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = [understood(json.loads(line)) for line in body.splitlines()[1::2]]
        request = {"path": self.path, "headers": dict(self.headers), "asked": asked, "seconds": time.monotonic()}
        with self.server.lock:
            self.server.requests.append(request)
            fault = self.server.faults.pop(0) if self.server.faults else None
        replies = [self.reply(one) for one in asked]
        text = json.dumps(self.server.change({"took": 1, "responses": replies}))
        (fault or send)(self, text)

    def reply(self, asked):
        index = {doc_id: place for place, doc_id in enumerate(self.server.doc_ids)}
        pool = None if asked["pool"] is None else np.array(sorted(index[doc_id] for doc_id in asked["pool"]))
        with self.server.lock:  # the engines of this project serve one thread
            found = self.server.retriever.rank([asked["query"]], [pool], asked["k"])[0]
        hits = [
            {"_id": self.server.doc_ids[document], "_score": score}
            for document, score in zip(found.documents.tolist(), found.scores.tolist(), strict=True)
        ]
        return {"hits": {"hits": hits}, "timed_out": False, "_shards": {"failed": 0}, "status": 200}


def understood(request):
    """Return query, k and pool of a request as the template elasticsearch writes it."""
    query, pool = request["query"], None
    for inner in [query["bool"]] if "bool" in query else []:
        pool, query = inner["filter"][0]["ids"]["values"], inner["must"][0]
    return {"query": query["multi_match"]["query"], "fields": query["multi_match"]["fields"], "k": request["size"], "pool": pool}


def slow(handler, text):
    """A fault: the right answer, too late."""
    time.sleep(30)
    with contextlib.suppress(OSError):
        send(handler, text)


def dripping(handler, text):
    """A fault: a byte now and then, each within the time-out, for half a minute."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(300):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)
    handler.close_connection = True


def cut_at_once(handler, text):
    """A fault: the connection ends without an answer."""
    handler.close_connection = True


def cut_within(handler, text):
    """A fault: the connection ends in the middle of the answer."""
    send(handler, text[: len(text) // 2], length=len(text))
    handler.close_connection = True


def instead(text):
    """Return a fault: this text with status 200."""
    return lambda handler, _: send(handler, text)


def running(retriever, doc_ids):
    """Run a server in a thread."""
    return serving(Server(retriever, doc_ids))

"""A server that answers as the Hugging Face hub does for one repository, with the faults that are asked for."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, COMMIT = "org/model", "c0ffee" * 6 + "beef"


class Hub:
    """What is served and what was asked for.

    Attributes:
        files: name → bytes of the commit.
        large: names that are listed by SHA-256; the others by git's SHA-1.
        served: name → other bytes than those listed.
        elsewhere: address of another host that HEAD and GET of large files are sent to; "" for none.
        cut_after: bytes after which a connection that sends a large file breaks; 0 for never. `cuts`: how often.
        requests: (method, path, authorization, range) in order.
    """

    def __init__(self, files, large=("model.safetensors",)):
        self.files, self.large, self.served = dict(files), set(large), {}
        self.elsewhere, self.cut_after, self.cuts = "", 0, 0
        self.commit, self.listed_beside, self.requests, self.url = COMMIT, [], [], ""

    def listing(self):
        siblings = [{"rfilename": name, "size": 1, "blobId": "0" * 40} for name in self.listed_beside]
        for name, content in self.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": git}
            if name in self.large:
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": NAME, "modelId": NAME, "sha": self.commit, "tags": [], "siblings": siblings}).encode()

    def asked(self, what):
        """Return the requests whose path holds the text."""
        return [request for request in self.requests if what in request[1]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("authorization"), self.headers.get("range")))
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            known = path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/{hub.commit}")
            return self.send(200 if known else 404, hub.listing() if known else b'{"error":"none"}', with_body, {})
        name = path.partition(f"/resolve/{hub.commit}/")[2]
        if name not in hub.files:
            return self.send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})
        content = hub.files[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.commit}
        if hub.elsewhere and name in hub.large:
            headers |= {"Location": f"{hub.elsewhere}{path}", "X-Linked-Size": str(len(content)), "X-Linked-Etag": headers["ETag"]}
            return self.send(302, b"", with_body, headers)
        body, status = hub.served.get(name, content), 200
        if self.headers.get("range"):
            start = int(self.headers["range"].removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        return self.send(status, body, with_body, headers, cut=name in hub.large)

    def send(self, status, body, with_body, headers, cut=False):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        if cut and self.hub.cut_after and self.hub.cuts:
            self.hub.cuts -= 1
            self.wfile.write(body[: self.hub.cut_after])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def serving(hub, host="127.0.0.1"):
    """Serve the hub on a port of its own; its address is `hub.url`."""
    server = ThreadingHTTPServer((host, 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://{host}:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

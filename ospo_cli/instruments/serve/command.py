"""Open the policy, listen, and end well."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ospo_cli.errors import OspoError, of_extra
from ospo_cli.instruments.serve.settings import Settings
from ospo_cli.rewriting.chosen import to_serve

if TYPE_CHECKING:
    from ospo_cli.instruments.serve.batching import Pace
    from ospo_cli.rewriting.rewriter import Rewriter

TOKEN = "OSPO_SERVE_TOKEN"  # noqa: S105  (the name of a variable)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# uvicorn answers 503 beyond so many connections: what holds back who opens them without end.
_CONNECTIONS = 4096
# Longer than uvicorn's 5 s, which are also httpx's: a client that takes a resting connection as the service closes it meets an error.
_REST_SECONDS = 30
_WARMING = (1, 8)  # queries of batches that say, before the first request, how many fit into a deadline


def execute(project: Path, policy: str, threads: int, settings: Settings, ungated: bool = False) -> None:
    """Serve until a signal ends it; requests under way are answered.

    Raises:
        OspoError: the packages are not installed, there is no such policy, it is worse than the raw query and neither gated nor
            `ungated`, or the address reaches beyond this machine without a token.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise OspoError("ospo serve", f"the package {missing[0]} is not installed", remedy=of_extra("serve"))
    if settings.host not in _LOOPBACK and not settings.token:
        raise OspoError(
            f"--host {settings.host}", "is reached from other machines, and there is no token", expected=f"a secret in {TOKEN}",
            remedy="set it, or listen on 127.0.0.1",
        )  # fmt: skip
    import uvicorn

    from ospo_cli.instruments.serve.application import Service
    from ospo_cli.rewriting.rewriter import Rewriter

    # One thread opens the policy and asks it: PyTorch keeps its number of threads for each thread apart.
    with ThreadPoolExecutor(1, thread_name_prefix="policy") as thread:
        chosen = to_serve(project, policy, threads, ungated)
        rewriter = thread.submit(Rewriter.opened, chosen).result()
        service = Service(rewriter.rewrite, (rewriter.policy.content_hash, chosen.folder.name, chosen.why), settings, thread)
        thread.submit(warm, rewriter, service.batcher.pace).result()
        sys.stderr.write(f"ospo serve: policy {rewriter.policy.folder} on http://{settings.host}:{settings.port}/rewrite\n")
        uvicorn.run(
            service.application(), host=settings.host, port=settings.port, log_level="warning", access_log=False,
            limit_concurrency=_CONNECTIONS, server_header=False, timeout_graceful_shutdown=5,
            timeout_keep_alive=_REST_SECONDS,
        )  # fmt: skip


def warm(rewriter: Rewriter, pace: Pace) -> None:
    """Ask the policy, and the search engine where the gate does, before anyone waits; `pace` is told what two batches take."""
    from ospo_cli.rewriting.rewriter import Asked
    from ospo_cli.rewriting.search_signs import search_features

    rewriter.rewrite([Asked("a")])  # the first one takes longest
    if rewriter.engine is not None:
        search_features(rewriter.engine, ["a"], ["a b"])
    for size in _WARMING:
        began = time.monotonic()
        rewriter.rewrite([Asked(f"a {index}") for index in range(size)])
        pace.observe(size, time.monotonic() - began)


def token() -> str:
    """Return the secret that requests must show; raise OspoError where it cannot stand in a header."""
    found = os.environ.get(TOKEN, "")
    if found and (not found.isascii() or not found.isprintable() or " " in found):
        raise OspoError(TOKEN, "cannot stand in a header", expected="printable ASCII without blanks")
    return found

"""`ospo serve` under load: latency and throughput of 1, 16 and 64 clients that never ask the same twice, then of clients that always do.

python benchmarks/serving.py QUERIES.txt [--policy K|FOLDER] [--project FOLDER] [--clients 1 16 64] [--seconds 10] [--deadline 200]

Every client sends its next query when the last one is answered. Clients and service share the machine: beside latencies stands what the
service alone took of the processor (/proc), which other work changes less. Exit status 1 for an answer that is none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np


def main() -> None:
    """Print a line per number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries", type=Path, help="one query a line")
    parser.add_argument("--policy", default="")
    parser.add_argument("--project", default=".")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--deadline", type=float, default=200.0)
    parser.add_argument("--queue", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    lines = [line for line in arguments.queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", port, "--deadline", arguments.deadline, "--queue", arguments.queue, "--threads", arguments.threads]
    options += ["--project", arguments.project, *(["--policy", arguments.policy] if arguments.policy else [])]
    command = [sys.executable, "-m", "ospo_cli", "serve", *map(str, options)]
    process = subprocess.Popen(command, env=os.environ | {"OSPO_SERVE_TOKEN": ""})
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url, process)
        # No query twice: a number behind each, that goes on from one measurement to the next.
        fresh = (f"{line} {number}" for number in itertools.count() for line in lines)
        for clients in arguments.clients:
            asyncio.run(measure("never asked before", url, process.pid, fresh, clients, arguments.seconds))
        for clients in arguments.clients:
            known = itertools.repeat(f"{lines[0]} 0")
            asyncio.run(measure("always asked before", url, process.pid, known, clients, min(arguments.seconds, 3.0)))
    finally:
        process.terminate()
        process.wait(30)


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the service answers; end where it ends."""
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit("the service ended")


async def measure(kind: str, url: str, service: int, queries: Iterator[str], clients: int, seconds: float) -> None:
    """Let so many clients ask for so long; print what they met."""
    latencies: list[float] = []
    why: Counter[str] = Counter()
    end = 0.0

    async def client(http: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            query = next(queries)
            began = time.monotonic()
            answer = await http.post("/rewrite", json={"query": query})
            latencies.append(time.monotonic() - began)
            content = answer.json()
            if answer.status_code != 200 or not (content["is_used"] or content["engine_query"] == query):
                sys.exit(f"no answer to {query!r}: HTTP {answer.status_code} {answer.text[:200]}")
            why[content["why"]] += 1

    # A connection each, made before the time runs: a pool for all is slow with many, and certificates are read for each that checks them.
    async with contextlib.AsyncExitStack() as stack:
        opened = [httpx.AsyncClient(base_url=url, timeout=60, verify=False) for _ in range(clients)]  # noqa: S501  (plain HTTP)
        for http in opened:
            await stack.enter_async_context(http)
            await http.get("/health")
        began, before = time.monotonic(), spent(service)
        end = began + seconds
        await asyncio.gather(*map(client, opened))
    each = (spent(service) - before) * 1000 / len(latencies)
    rate = len(latencies) / (time.monotonic() - began)
    p50, p99 = np.quantile(np.array(latencies) * 1000, [0.5, 0.99])
    reasons = ", ".join(f"{count / len(latencies):.1%} {reason}" for reason, count in why.most_common())
    took = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {rate:.0f} queries/s, {each:.2f} ms of the processor a query"
    print(f"{kind}, {clients} clients: {took}; {reasons}", flush=True)


def spent(service: int) -> float:
    """Return the seconds that a process took of the processor."""
    fields = Path(f"/proc/{service}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

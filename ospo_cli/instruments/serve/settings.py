"""How `ospo serve` listens, waits and remembers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of the service.

    Attributes:
        host, port: where it listens.
        deadline_seconds: longest wait for a rewrite; then the raw query is answered.
        queue: most queries that wait for the policy; beyond that the raw query is answered at once.
        batch: most queries that are rewritten together.
        cache: most rewrites that are remembered.
        body_bytes: largest body of a request.
        queries_per_request: most queries in one request.
        token: what `Authorization: Bearer` must hold; empty: nothing.
        logs_queries: whether queries and rewrites are written to stderr.
    """

    host: str = "127.0.0.1"
    port: int = 8017
    deadline_seconds: float = 0.2
    queue: int = 256
    batch: int = 64
    cache: int = 100_000
    body_bytes: int = 1 << 18
    queries_per_request: int = 64
    token: str = ""
    logs_queries: bool = False

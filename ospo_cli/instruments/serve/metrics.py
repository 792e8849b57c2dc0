"""Counters, a gauge and histograms in Prometheus' text format (version 0.0.4); no label holds text of a user's."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of values at most as large as each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Return the samples."""
        found, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += count
            found.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*found, f"{name}_sum {self.total!r}", f"{name}_count {so_far}"]


class Metrics:
    """What the service counts.

    Attributes:
        requests: answered requests by HTTP status.
        queries: answered queries by `why`.
        cache_hits: queries that were answered from the cache.
        late: rewrites that were ready after every waiting request had been answered; the cache has them.
        seconds: from a request's body to its answer.
        batch_seconds, batch_size: of the policy's batches.
    """

    def __init__(self, policy: str, waiting: Callable[[], int]) -> None:
        self.policy, self.waiting = policy, waiting
        self.requests: Counter[int] = Counter()
        self.queries: Counter[str] = Counter()
        self.cache_hits = self.late = 0
        self.seconds, self.batch_seconds, self.batch_size = Histogram(SECONDS), Histogram(SECONDS), Histogram(SIZES)

    def text(self) -> str:
        """Return all of it."""
        lines = [
            *_head("ospo_policy_info", "gauge", "The policy that is served, by its hash."),
            f'ospo_policy_info{{policy="{self.policy}"}} 1',
            *_head("ospo_requests_total", "counter", "Requests by HTTP status."),
            *(f'ospo_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.requests.items())),
            *_head("ospo_queries_total", "counter", "Queries by what became of them."),
            *(f'ospo_queries_total{{why="{why}"}} {count}' for why, count in sorted(self.queries.items())),
            *_head("ospo_cache_hits_total", "counter", "Queries answered from the cache."),
            f"ospo_cache_hits_total {self.cache_hits}",
            *_head("ospo_late_rewrites_total", "counter", "Rewrites that came after the deadline of all who waited."),
            f"ospo_late_rewrites_total {self.late}",
            *_head("ospo_waiting_queries", "gauge", "Queries that wait for the policy."),
            f"ospo_waiting_queries {self.waiting()}",
        ]
        histograms = (
            ("ospo_request_seconds", "From a request's body to its answer.", self.seconds),
            ("ospo_batch_seconds", "Time of the policy's batches.", self.batch_seconds),
            ("ospo_batch_queries", "Queries of the policy's batches.", self.batch_size),
        )
        for name, meaning, histogram in histograms:
            lines += [*_head(name, "histogram", meaning), *histogram.lines(name)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]

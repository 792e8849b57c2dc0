"""Queries of many requests, rewritten together in one thread: a bounded queue, a deadline for each, a cache of what is known."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from ospo_cli.instruments.serve.metrics import Metrics
from ospo_cli.instruments.serve.settings import Settings
from ospo_cli.rewriting.decision import refused
from ospo_cli.rewriting.rewriter import Asked, Rewrite, raw

DEADLINE = "deadline"
OVERLOAD = "overload"
ERROR = "error"
SHUTTING_DOWN = "shutting down"
# Longer ones are not remembered: they come once, and would let a stranger fill the memory.
REMEMBERED_CHARACTERS = 512
# A batch is to take this share of the deadline, so that who comes while it runs can still be answered.
_SHARE = 0.5


class Pace:
    """What a batch takes: a line through those of before, of which older ones count less and less."""

    def __init__(self) -> None:
        self._weight = self._size = self._seconds = self._sizes = self._both = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Count a batch."""
        kept = (self._weight, self._size, self._seconds, self._sizes, self._both)
        new = (1.0, size, seconds, size * size, size * seconds)
        self._weight, self._size, self._seconds, self._sizes, self._both = (0.9 * old + one for old, one in zip(kept, new, strict=True))

    def largest(self, seconds: float, most: int) -> int:
        """Return how many queries fit into so many seconds: 1 to `most`."""
        if not self._seconds:
            return most
        size, mean = self._size / self._weight, self._seconds / self._weight
        spread = self._sizes / self._weight - size * size
        slope = (self._both / self._weight - size * mean) / spread if spread > 1e-6 else mean / size
        slope = min(max(slope, mean / size / 16), mean / size)  # a first query never takes less than a further one
        return max(1, min(most, int(size + (seconds - mean) / slope)))


@dataclass
class _Waiting:
    asked: Asked
    until: float
    found: asyncio.Future[Rewrite] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Rewrites queries in batches: whatever has come while one batch ran is the next one.

    Args:
        answer: queries -> rewrites, called in `thread`, one call at a time.
        settings: limits.
        metrics: what is counted.
        thread: where `answer` runs.
        report: is told the kind of an error; never a query.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], list[Rewrite]],
        settings: Settings,
        metrics: Metrics,
        thread: Executor,
        report: Callable[[str], None],
    ) -> None:
        self.answer, self.settings, self.metrics, self.thread, self.report = answer, settings, metrics, thread, report
        self.queue: deque[_Waiting] = deque()
        self._by_query: dict[Asked, _Waiting] = {}
        self._known: OrderedDict[Asked, Rewrite] = OrderedDict()
        self.pace = Pace()
        self._work: asyncio.Task[None] | None = None
        self._has_work = asyncio.Event()
        self.is_closed = False

    def start(self) -> None:
        """Begin to rewrite; within the event loop that requests come from."""
        self._work = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_alive(self) -> bool:
        """Whether queries are being taken."""
        return self._work is not None and not self._work.done() and not self.is_closed

    async def stop(self) -> None:
        """Answer who waits with the raw query, and end when the batch that runs has ended."""
        self.is_closed = True
        for waiting in self.queue:
            _settle(waiting, raw(waiting.asked, SHUTTING_DOWN))
        self.queue.clear()
        self._has_work.set()
        if self._work is not None:
            await self._work

    async def rewrite(self, asked: Asked, until: float) -> Rewrite:
        """Return the rewrite, or the raw query where it cannot be had by `until` (of `time.monotonic`) or the policy is not asked."""
        if why := refused(asked.query):
            return raw(asked, why)
        if (known := self._known.get(asked)) is not None:
            self._known.move_to_end(asked)
            self.metrics.cache_hits += 1
            return known
        if not self.is_alive:
            return raw(asked, SHUTTING_DOWN)
        waiting = self._by_query.get(asked)
        if waiting is None:
            if len(self.queue) >= self.settings.queue:
                return raw(asked, OVERLOAD)
            waiting = self._by_query[asked] = _Waiting(asked, until)
            self.queue.append(waiting)
            self._has_work.set()
        waiting.until = max(waiting.until, until)
        try:
            return await asyncio.wait_for(asyncio.shield(waiting.found), max(0.0, until - time.monotonic()))
        except TimeoutError:
            return raw(asked, DEADLINE)

    async def _run(self) -> None:
        while not self.is_closed:
            await self._has_work.wait()
            self._has_work.clear()
            while self.queue and not self.is_closed:
                batch = self._next()
                if batch:
                    await self._rewritten(batch)

    def _next(self) -> list[_Waiting]:
        """Take from the queue what can be rewritten in good time; what is late already gets the raw query and is not worked on."""
        fitting = self.pace.largest(_SHARE * self.settings.deadline_seconds, self.settings.batch)
        batch: list[_Waiting] = []
        while self.queue and len(batch) < fitting:
            waiting = self.queue.popleft()
            if waiting.until <= time.monotonic():
                self._settle(waiting, raw(waiting.asked, DEADLINE))
            else:
                batch.append(waiting)
        return batch

    async def _rewritten(self, batch: list[_Waiting]) -> None:
        asked = [waiting.asked for waiting in batch]
        began = time.monotonic()
        try:
            found = await asyncio.get_running_loop().run_in_executor(self.thread, self.answer, asked)
            self._known.update((one, rewrite) for one, rewrite in zip(asked, found, strict=True) if _is_short(one))
        except Exception as error:  # whatever it is, a user's search goes on; a message may hold the query
            self.report(f"{type(error).__name__} while {len(asked)} queries were rewritten")
            found = [raw(one, ERROR) for one in asked]
        while len(self._known) > self.settings.cache:
            self._known.popitem(last=False)
        seconds = time.monotonic() - began
        self.pace.observe(len(batch), seconds)
        self.metrics.batch_seconds.observe(seconds)
        self.metrics.batch_size.observe(len(batch))
        for waiting, rewrite in zip(batch, found, strict=True):
            self.metrics.late += waiting.until < time.monotonic()
            self._settle(waiting, rewrite)

    def _settle(self, waiting: _Waiting, rewrite: Rewrite) -> None:
        self._by_query.pop(waiting.asked, None)
        _settle(waiting, rewrite)


def _is_short(asked: Asked) -> bool:
    return len(asked.query) + sum(map(len, asked.history)) <= REMEMBERED_CHARACTERS


def _settle(waiting: _Waiting, rewrite: Rewrite) -> None:
    if not waiting.found.done():
        waiting.found.set_result(rewrite)

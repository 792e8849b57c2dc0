"""The driver of workers: hands out shards, notices who dies or hangs, refuses who differs. How a worker is started is the engine's own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ospo_cli.errors import shorten
from ospo_cli.executors.base import Job
from ospo_cli.executors.progress import Progress
from ospo_cli.executors.worker import WorkerError, check_versions, is_visible, name_of
from ospo_cli.params.execution import Execution
from ospo_cli.tables import unfinished

_LAST_SECONDS = 10.0


class Told(WorkerError):
    """What a worker said of something that a person can repair, in its own words."""

    def line(self) -> str:
        """Return the worker's line."""
        return f"{self.problem} (said by {self.where})" if self.problem else ""


class Hired(Protocol):
    """A process somewhere that runs the command as a worker."""

    def send(self, line: str) -> None:
        """Give it a line; nothing happens if it has ended."""
        ...

    def read(self) -> str:
        """Return its next line, waiting for it; an empty text once it has ended."""
        ...

    def kill(self) -> None:
        """End it at once, with all that it started."""
        ...

    def last_words(self) -> str:
        """Return how it ended, and the last line that it wrote on stderr."""
        ...


@dataclass
class _Member:
    worker: Hired
    place: str
    since: float
    number: int
    at: str = ""
    doing: int | None = None
    has_worked: bool = False
    why: str = ""
    listener: threading.Thread | None = None


class Pool:
    """Workers over all jobs of one command; started when there is work, ended with the command.

    Args:
        hire: starts the worker of a number, from 0.
        settings: section execution.
        release: called at the end.
    """

    works_here = False

    def __init__(self, hire: Callable[[int], Hired], settings: Execution, release: Callable[[], None] = lambda: None) -> None:
        self.hire, self.settings, self.release = hire, settings, release
        self._members: dict[int, _Member] = {}
        self._events: queue.Queue[tuple[int, str]] = queue.Queue()
        self._passed: set[str] = set()
        self._hired = 0
        # Of workers in a row that did not come as far as a shard: those of one place, and under None all together.
        self.failed_starts = Counter[int | None]()

    def run(self, job: Job, progress: Progress) -> set[int]:
        """Have all unfinished shards computed."""
        left = dict.fromkeys(number for number in range(len(job.shards)) if not job.is_done(number))
        for number in set(range(len(job.shards))) - set(left):
            progress.advance(job.shards[number].units, reused=True)
        fresh = set(left)
        if left:
            with _probe(job.folder) as probe:
                _Round(self, job, progress, left, probe).run()
        self._passed.add(name_of(job))
        return fresh

    def end(self) -> None:
        """End all workers."""
        for member in self._members.values():
            member.worker.kill()
        give_up = time.monotonic() + _LAST_SECONDS
        for member in self._members.values():  # before what they read from is released
            if member.listener is not None:  # else Ctrl-C came before it was there
                member.listener.join(max(0.0, give_up - time.monotonic()))
        self._members.clear()
        self.release()

    def staff(self, wanted: int) -> None:
        """Start workers until there are so many."""
        while len(self._members) < wanted:
            number, self._hired = self._hired, self._hired + 1
            # A worker that takes the place of another also takes its number: its GPUs.
            place = next(free for free in range(wanted) if free not in self._members)
            member = _Member(self.hire(place), f"worker {place + 1}", time.monotonic(), place)
            self._members[place] = member
            member.listener = threading.Thread(target=self._listen, args=(place, member), daemon=True, name=f"worker {number}")
            member.listener.start()

    def _listen(self, place: int, member: _Member) -> None:
        line = "…"
        while line:
            try:
                line = member.worker.read()
            except Exception as error:  # whatever an engine's library raises: the worker is lost
                member.why, line = member.why or shorten(str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)), ""
            self._events.put((place, line))

    def next_event(self) -> tuple[int, _Member, str]:
        """Return the next line of a worker; end those whose time is over meanwhile."""
        while True:
            limit, now = self.settings.shard_seconds, time.monotonic()
            busy = [member for member in self._members.values() if not member.why and (member.doing is not None or not member.at)]
            for member in busy:
                if limit and now - member.since > limit:
                    doing = "its start" if member.doing is None else "a shard"
                    member.why = f"{doing} took longer than {limit:g} s (execution.shard_seconds)"
                    member.worker.kill()
            nearest = min([limit - (now - member.since) for member in busy if not member.why], default=1.0) if limit else 1.0
            with contextlib.suppress(queue.Empty):
                place, line = self._events.get(timeout=min(max(nearest, 0.01), 1.0))
                if place in self._members:
                    return place, self._members[place], line

    def lose(self, place: int) -> _Member:
        """Take a worker that has ended from the list, and return it; raise where no worker comes as far as a shard."""
        member = self._members.pop(place)
        member.why = member.why or member.worker.last_words()
        if not member.has_worked and member.doing is None:  # at its start, or on the way to a later job
            self.failed_starts.update((place, None))
            if max(self.failed_starts[place], self.failed_starts[None]) >= self.settings.attempts:
                raise WorkerError(
                    f"execution, {member.place}",
                    "ended before its first shard",
                    found=member.why,
                    remedy="mend that, then run the same command again",
                )
        return member

    def arrived(self, member: _Member, message: dict[str, Any], current: str) -> None:
        """Note where a worker stands. One that is behind goes on; one that differs is refused."""
        member.place, member.since = f"{member.place.partition(',')[0]}, {message['place']}", time.monotonic()
        check_versions(message["versions"], f"execution, {member.place}")
        if message["at"] in self._passed:
            member.worker.send('{"go on": true}\n')
            return
        if message["at"] != current:
            remedy = "did params.yaml or a table change meanwhile? run the same command again"
            raise WorkerError(
                f"execution, {member.place}", "has another list of shards", found=message["at"][:16], expected=current[:16], remedy=remedy
            )
        member.at = current

    def release_waiting(self) -> None:
        """Let workers that wait at an earlier job go on; what the driver did meanwhile is not theirs to answer for."""
        for member in self._members.values():
            if not member.at or member.at in self._passed:
                member.since = time.monotonic()
            if member.at in self._passed:
                member.at = ""
                member.worker.send('{"go on": true}\n')

    def idle(self, current: str) -> list[_Member]:
        """Workers that wait for work of a job, but for those that have been ended."""
        return [member for member in self._members.values() if member.at == current and member.doing is None and not member.why]

    @property
    def count(self) -> int:
        """Workers that are there."""
        return len(self._members)


class _Round:
    """One job."""

    def __init__(self, pool: Pool, job: Job, progress: Progress, left: dict[int, None], probe: tuple[Path, str]) -> None:
        self.pool, self.job, self.progress, self.left, self.probe = pool, job, progress, left, probe
        self.todo, self.tried, self.current = deque(left), Counter[int](), name_of(job)

    def run(self) -> None:
        pool = self.pool
        pool.release_waiting()
        while self.left:
            pool.staff(min(pool.settings.workers, max(pool.count, len(self.left))))
            place, member, line = pool.next_event()
            if not line:
                self._lost(pool.lose(place))
            elif line.startswith("{"):  # else something that was printed before the worker took its streams over
                self._heard(member, json.loads(line))
            for idle in pool.idle(self.current):  # whoever is free, also one that waits since the last shards were out
                if self.todo:
                    self._give(idle)

    def _heard(self, member: _Member, message: dict[str, Any]) -> None:
        if "error" in message:
            raise Told(member.place, message["error"])
        if "at" in message:
            self.pool.arrived(member, message, self.current)
        else:
            self._done(member, message)

    def _give(self, member: _Member) -> None:
        member.doing, member.since = self.todo.popleft(), time.monotonic()
        member.worker.send(json.dumps({"do": member.doing, "probe": str(self.probe[0]), "text": self.probe[1]}) + "\n")

    def _done(self, member: _Member, message: dict[str, Any]) -> None:
        number, member.doing, member.has_worked = int(message["done"]), None, True
        for whose in (member.number, None):
            del self.pool.failed_starts[whose]
        if number not in self.left:
            return
        if not is_visible(self.job, number):
            raise WorkerError(
                self.job.folder,
                "a shard that a worker has written is not seen here",
                found=f"{self.job.shards[number].key}, {member.place}",
                remedy="share the folder among all machines (NFS)",
            )
        del self.left[number]
        for name, value in message["counts"].items():
            setattr(self.job.counts, name, getattr(self.job.counts, name) + value)
        self.progress.advance(self.job.shards[number].units, f"{self.pool.count} workers")

    def _lost(self, member: _Member) -> None:
        if self.job.folder.is_dir():
            unfinished.remove_left_over(self.job.folder, is_deep=True)
        number, attempts = member.doing, self.pool.settings.attempts
        if number is None:
            sys.stderr.write(f"{self.job.label}: {member.place} ended: {member.why}\n")
            return
        self.tried[number] += 1
        name = self.job.shards[number].key[:12]
        if self.tried[number] >= attempts:
            raise WorkerError(
                f"{self.job.label}, shard {name}",
                f"{attempts} workers ended over it",
                found=member.why,
                remedy="mend that, then run the same command again; finished shards are kept",
            )
        sys.stderr.write(
            f"{self.job.label}: {member.place} ended over shard {name}: {member.why}; attempt {self.tried[number] + 1} of {attempts}\n"
        )
        self.todo.appendleft(number)


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[tuple[Path, str]]:
    # A file by which a worker sees that it looks into the same folder, not into one of the same path.
    folder.mkdir(parents=True, exist_ok=True)
    text = os.urandom(16).hex()
    path = folder / f"{unfinished.prefix('probe')}{text[:8]}{unfinished.SUFFIX}"
    path.write_text(text, encoding="ascii")
    try:
        yield path.absolute(), text
    finally:
        path.unlink(missing_ok=True)

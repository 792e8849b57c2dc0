"""Queries from a stream: a line in, a line out; lines that wait are answered together."""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

from ospo_cli.errors import OspoError
from ospo_cli.instruments.rewrite import inputs, outputs
from ospo_cli.instruments.rewrite.command import Request
from ospo_cli.rewriting.chosen import to_serve
from ospo_cli.rewriting.rewriter import Asked, Rewrite, Rewriter, raw

LINES_AT_ONCE = 64
REMEMBERED = 100_000
_WAITING = 4 * LINES_AT_ONCE
_COLUMNS = ("query", "rewrite", "engine_query", "is_used", "why", "mean_logprob", "probability")


def execute(project: Path, request: Request, kind_in: str = "", kind_out: str = "") -> dict[str, int]:
    """Answer standard input on standard output until it ends; return counts by reason.

    Raises:
        OspoError: what was asked for does not go with a stream; a line never is the reason.
    """
    kind_in, kind_out = kind_in or "text", outputs.format_for(None, kind_out)
    if kind_in not in ("text", "jsonl"):
        raise OspoError("--from", "cannot be read from a stream", found=kind_in, expected="text or jsonl")
    if kind_out == "csv" or request.top:
        raise OspoError("--top" if request.top else "--as csv", "does not go with a stream", expected="a file in place of -")
    rewriter = Rewriter.opened(to_serve(project, request.policy, request.threads, request.ungated))
    return answer(sys.stdin.buffer, _to_stdout, rewriter, request, kind_in, kind_out)


def answer(
    source: IO[bytes], write: Callable[[str], None], rewriter: Rewriter, request: Request, kind_in: str, kind_out: str
) -> dict[str, int]:
    """Write a line for every line of `source`, in its order, each as soon as it is known; return counts by reason."""
    waiting: Queue[bytes | None] = Queue(_WAITING)
    threading.Thread(target=_feed, args=(source, waiting), daemon=True).start()
    known: OrderedDict[Asked, Rewrite] = OrderedDict()
    why: Counter[str] = Counter()
    is_terminal = sys.stdout.isatty()
    columns = [*_COLUMNS, *(["best"] if request.best > 1 else []), *(["milliseconds"] if request.milliseconds else [])]
    while lines := _next(waiting):
        texts = [inputs.lines(line)[0] if line.strip(b"\r\n") else "" for line in lines]
        asked = [inputs.line_asked(text, kind_in, request.query_column, request.history_column) for text in texts]
        new = [one for one in dict.fromkeys(asked) if one is not None and one not in known]
        known.update(zip(new, rewriter.rewrite(new, request.best), strict=True) if new else [])
        for text, one in zip(texts, asked, strict=True):
            found = known[one] if one is not None else raw(Asked(text), "no JSON object with a query")
            why[found.why] += 1
            fields = outputs.fields(found)
            write(outputs.line({name: fields[name] for name in columns}, kind_out, is_terminal))
        while len(known) > REMEMBERED:
            known.popitem(last=False)
    return dict(why)


def _feed(source: IO[bytes], waiting: Queue[bytes | None]) -> None:
    try:
        for line in source:
            waiting.put(line)
    finally:
        waiting.put(None)


def _next(waiting: Queue[bytes | None]) -> list[bytes]:
    """Return the lines that have come, at least one; none where the stream has ended."""
    lines: list[bytes] = []
    line = waiting.get()
    while line is not None:
        lines.append(line)
        if len(lines) == LINES_AT_ONCE:
            return lines
        try:
            line = waiting.get_nowait()
        except Empty:
            return lines
    waiting.put(None)
    return lines


def _to_stdout(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def in_words(why: dict[str, Any]) -> str:
    """Return the counts in one line."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(why.items(), key=lambda pair: (-pair[1], pair[0]))) or "no line"

"""The HTTP side: POST /rewrite, /health, /metrics; a token, limits, and no answer above 499 of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ospo_cli.errors import shorten
from ospo_cli.instruments.serve import metrics as counting
from ospo_cli.instruments.serve.batching import ERROR, Batcher
from ospo_cli.instruments.serve.settings import Settings
from ospo_cli.rewriting.rewriter import Asked, Rewrite, raw

LONGEST_BODY_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_FIELDS = ("query", "rewrite", "engine_query", "why", "mean_logprob", "probability")


class Refused(Exception):
    """A request that cannot be answered: HTTP status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Service:
    """What the routes share.

    Args:
        answer: queries -> rewrites, called in `thread`.
        policy: the policy's hash, for metrics and health, its name, and why it is this one.
        settings: limits.
        thread: one worker, in which the policy lives.
    """

    def __init__(
        self, answer: Callable[[Sequence[Asked]], list[Rewrite]], policy: tuple[str, str, str], settings: Settings, thread: Executor
    ) -> None:
        self.policy, self.settings = policy, settings
        self.metrics = counting.Metrics(policy[0], lambda: len(self.batcher.queue))
        self.batcher = Batcher(answer, settings, self.metrics, thread, _say)

    def application(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/rewrite", self.rewrite, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics_text, methods=["GET"]),
        ]
        # Without a token a page in the browser of this machine must not get in under a name of its own (DNS rebinding).
        guard = [] if self.settings.token else [Middleware(_KnownHosts, hosts=[*LOOPBACK, self.settings.host])]
        return Starlette(routes=routes, middleware=guard, lifespan=self._lifespan, exception_handlers={HTTPException: _refusal})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        await self.batcher.stop()

    async def rewrite(self, request: Request) -> Response:
        """Answer one query, or many, each by its rewrite or itself."""
        began = time.monotonic()
        try:
            self._check_token(request)
            asked, is_one = self._asked(await self._body(request))
            found = await self._rewritten(asked, began)
            rows = [_row(rewrite) for rewrite in found]
            response: Response = JSONResponse(rows[0] if is_one else {"rewrites": rows}, headers={"Cache-Control": "no-store"})
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            response = JSONResponse({"error": refused.reason}, refused.status, headers)
        self.metrics.requests[response.status_code] += 1
        self.metrics.seconds.observe(time.monotonic() - began)
        return response

    async def health(self, _: Request) -> Response:
        """Tell whether queries are rewritten."""
        is_alive = self.batcher.is_alive
        told = dict(zip(("policy", "name", "chosen"), self.policy, strict=True))
        content = {"status": "ok" if is_alive else "shutting down", "waiting": len(self.batcher.queue)}
        return JSONResponse(content | told, 200 if is_alive else 503)

    async def metrics_text(self, request: Request) -> Response:
        """Give the counts to Prometheus."""
        try:
            self._check_token(request)
        except Refused as refused:
            return JSONResponse({"error": refused.reason}, refused.status, {"WWW-Authenticate": "Bearer"})
        return PlainTextResponse(self.metrics.text(), media_type=counting.CONTENT_TYPE)

    async def _rewritten(self, asked: list[Asked], began: float) -> list[Rewrite]:
        until = began + self.settings.deadline_seconds
        done = await asyncio.gather(*(self.batcher.rewrite(one, until) for one in asked), return_exceptions=True)
        found = []
        for one, rewrite in zip(asked, done, strict=True):
            if isinstance(rewrite, BaseException):
                _say(f"{type(rewrite).__name__} while a query waited")
                rewrite = raw(one, ERROR)
            self.metrics.queries[rewrite.why] += 1
            found.append(rewrite)
            if self.settings.logs_queries:
                _say(f"{rewrite.why}: {shorten(one.query)} -> {shorten(rewrite.engine_query)}")
        return found

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if self.settings.token and not hmac.compare_digest(given, f"Bearer {self.settings.token}".encode()):
            raise Refused(401, "needs Authorization: Bearer TOKEN")

    async def _body(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "needs Content-Type: application/json")
        body = bytearray()
        try:
            async with asyncio.timeout(LONGEST_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self.settings.body_bytes:
                        raise Refused(413, f"the body is larger than {self.settings.body_bytes} bytes")
        except TimeoutError:
            raise Refused(408, f"the body did not come within {LONGEST_BODY_SECONDS:g} s") from None
        except ClientDisconnect:
            raise Refused(400, "the body ended early") from None
        return bytes(body)

    def _asked(self, body: bytes) -> tuple[list[Asked], bool]:
        """Return the queries of a body, and whether it is one alone."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is no JSON") from None
        if not isinstance(content, dict) or ("query" in content) == ("queries" in content):
            raise Refused(400, 'expected {"query": TEXT} or {"queries": [TEXT or {"query": TEXT, "history": [TEXT]}, …]}')
        if "query" in content:
            return [_one(content)], True
        many = content["queries"]
        if not isinstance(many, list):
            raise Refused(400, "queries is no list")
        if len(many) > self.settings.queries_per_request:
            raise Refused(400, f"found {len(many)} queries, expected at most {self.settings.queries_per_request} (--most)")
        return [_one(one if isinstance(one, dict) else {"query": one}) for one in many], False


class _KnownHosts:
    """Lets requests in that name one of these hosts, as Starlette's middleware reads a host; that one answers others by plain text."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        known = False

        async def let_in(*_: object) -> None:
            nonlocal known
            known = True

        async def drop(_: Message) -> None:
            pass

        await TrustedHostMiddleware(let_in, self.hosts, www_redirect=False)(scope, receive, drop)
        await (self.app if known else JSONResponse({"error": "the header Host names another machine"}, 400))(scope, receive, send)


async def _refusal(_: Request, error: Exception) -> Response:
    """Answer what no route takes: 404, 405."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _one(content: dict[str, Any]) -> Asked:
    query, history = content.get("query"), content.get("history") or []
    history = [history] if isinstance(history, str) else history
    if not isinstance(query, str) or not isinstance(history, list) or not all(isinstance(title, str) for title in history):
        raise Refused(400, "query is no text, or history no list of texts")
    return Asked(_valid(query), tuple(map(_valid, history)))


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # JSON can spell half of a surrogate pair


def _row(rewrite: Rewrite) -> dict[str, Any]:
    return {name: getattr(rewrite, name) for name in _FIELDS} | {"is_used": rewrite.is_used}


def _say(text: str) -> None:
    sys.stderr.write(f"ospo serve: {text}\n")

"""Requests to one server: kept connections, several at once, time-outs, further attempts, a rate limit; a secret that is never shown."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import SplitResult, urlsplit

from ospo_cli.errors import OspoError, ParameterError

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE_SECONDS = 300.0
LARGEST_ANSWER_BYTES = 1 << 28


class Again(Exception):
    """What may be different at the next attempt.

    Args:
        found: what happened, in words.
        pause_seconds: what the server asked for, or 0.
    """

    def __init__(self, found: str, pause_seconds: float = 0.0) -> None:
        super().__init__(found)
        self.found, self.pause_seconds = found, pause_seconds


class Settings(Protocol):
    """What a section of the parameters says of a server (retrieval.http, rollout.server)."""

    @property
    def url(self) -> str: ...
    @property
    def authorization(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def requests_per_second(self) -> float: ...
    @property
    def timeout_seconds(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def backoff_seconds(self) -> float: ...


class HttpClient:
    """A client of the server in the parameters.

    Args:
        settings: a section of the parameters.
        header: name of the header that carries the secret.
        section: its dotted name, for errors.
        failure: kind of error that a failed request is.

    Raises:
        ParameterError: the URL is none, holds credentials or a query string, or the environment variable is not set.
    """

    def __init__(self, settings: Settings, header: str, section: str, failure: type[OspoError]) -> None:
        self.settings, self.section, self.failure = settings, section, failure
        parts = _checked_url(settings.url, section)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._secret = _secret(settings.authorization, section)
        self._http = _opened(settings, {header: self._secret} if self._secret else {})
        self._pace = threading.Lock()
        self._next_seconds = 0.0
        self._stop = threading.Event()

    def send(
        self,
        method: str,
        content_type: str,
        requests: Sequence[tuple[str, bytes | None]],
        read: Callable[[int, bytes], Any],
        names: Sequence[str] = (),
    ) -> list[Any]:
        """Return `read(number, content)` of each request (path, body), several at once.

        `read` raises Again for what is to be tried again. The first failure ends all: nothing further is begun. `names` of the requests are
        for errors.

        Raises:
            OspoError: (of kind `failure`) a request failed for good; of several, the one with the lowest number.
        """
        self._stop.clear()
        self._names = names
        with ThreadPoolExecutor(max_workers=min(self.settings.concurrency, max(1, len(requests)))) as pool:
            futures = [
                pool.submit(self._persist, method, content_type, path, body, number, read) for number, (path, body) in enumerate(requests)
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                for future in futures:
                    future.cancel()
        failed = [future.exception() for future in futures if not future.cancelled() and future.exception() is not None]
        if failed:
            raise next((error for error in failed if not isinstance(error, _Stopped)), failed[0])  # type: ignore[misc]
        return [future.result() for future in futures]

    def clean(self, text: str) -> str:
        """Return the text without the secret, should a server echo it."""
        for part in (self._secret, *self._secret.split()):
            if len(part) > 3:
                text = text.replace(part, "***")
        return text

    def _persist(
        self, method: str, content_type: str, path: str, body: bytes | None, number: int, read: Callable[[int, bytes], Any]
    ) -> Any:
        found = ""
        for attempt in range(self.settings.retries + 1):
            if self._stop.is_set():
                raise _Stopped
            self._keep_pace()
            try:
                return read(number, self._exchange(method, content_type, path, body))
            except Again as again:
                found = again.found
                pause = max(self.settings.backoff_seconds * 2**attempt, again.pause_seconds)
                if again.pause_seconds > LONGEST_PAUSE_SECONDS:
                    found += f", and asks for a pause of {again.pause_seconds:.0f} s"
                    break
                if attempt < self.settings.retries and self._stop.wait(min(pause, LONGEST_PAUSE_SECONDS)):
                    raise _Stopped from None
        raise self.failure(
            self.url,
            f"no answer to request {number}{f' ({self._names[number]})' if self._names else ''} after {attempt + 1} attempts",
            found=self.clean(found),
            remedy=f"mend the server or raise {self.section}.retries, then run the same command again; what was done is kept",
        )

    def _exchange(self, method: str, content_type: str, path: str, body: bytes | None) -> bytes:
        import httpx

        headers = {"Content-Type": content_type} if body is not None else {}
        deadline = time.monotonic() + self.settings.timeout_seconds
        try:
            with self._http.stream(method, self.url + path, content=body, headers=headers) as answer:
                content = self._content(answer, deadline)
        except (httpx.TimeoutException, TimeoutError):
            raise Again(f"no answer within {self.settings.timeout_seconds:g} s") from None
        except httpx.TransportError as error:
            raise Again(f"{type(error).__name__} {error}".strip()) from None
        if answer.status_code == 200:
            return content
        found = self.clean(f"HTTP {answer.status_code} {answer.reason_phrase}: {content[:300].decode('utf-8', 'replace')}")
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise Again(found, _retry_after(answer.headers.get("Retry-After")))
        if answer.headers.get("Location"):
            found += f", to {self.clean(answer.headers['Location'])}"
        raise self.failure(self.url, "the server refuses the request", found=found, expected="HTTP 200")

    def _content(self, answer: httpx.Response, deadline: float) -> bytes:
        # A server that sends a byte a second keeps every single read within its time-out: the connection is cut at the deadline.
        cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [answer])
        cut.start()
        content = bytearray()
        try:
            for part in answer.iter_raw():
                content += part
                if len(content) > LARGEST_ANSWER_BYTES:
                    raise self.failure(self.url, "an answer is too large", found=f"more than {LARGEST_ANSWER_BYTES >> 20} MiB")
        finally:
            cut.cancel()
            if time.monotonic() >= deadline:
                raise TimeoutError
        return bytes(content)

    def _keep_pace(self) -> None:
        if not self.settings.requests_per_second:
            return
        with self._pace:
            turn = max(time.monotonic(), self._next_seconds)
            self._next_seconds = turn + 1.0 / self.settings.requests_per_second
        if self._stop.wait(max(0.0, turn - time.monotonic())):
            raise _Stopped


class _Stopped(Exception):
    """Another request failed."""


def _opened(settings: Settings, secret: dict[str, str]) -> httpx.Client:
    import httpx

    # Nothing of the environment (proxy, netrc), the operating system's certificates, no cookies, bytes as they come.
    return httpx.Client(
        headers={"Accept": "application/json", "Accept-Encoding": "identity"} | secret,
        timeout=settings.timeout_seconds,
        limits=httpx.Limits(max_connections=settings.concurrency, keepalive_expiry=None),
        verify=ssl.create_default_context(),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        trust_env=False,
    )


def _cut(answer: httpx.Response) -> None:
    with contextlib.suppress(OSError):  # it may have ended just now
        answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _checked_url(url: str, section: str) -> SplitResult:
    where = f"{section}.url"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ParameterError(where, "is no URL", expected="such as http://localhost:9200") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ParameterError(
            where,
            "holds credentials",
            expected="none in a file",
            remedy=f"put the header's value into an environment variable and its name into {section}.authorization",
        )
    if parts.query or parts.fragment:
        raise ParameterError(where, "holds a query string", expected="the server's address alone")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ParameterError(where, "is no URL", found=url or "nothing", expected="such as http://localhost:9200")
    return parts


def _secret(variable: str, section: str) -> str:
    where = f"{section}.authorization"
    if not variable:
        return ""
    secret = os.environ.get(variable, "")
    if not secret:
        raise ParameterError(
            where,
            "the environment variable is not set",
            found=variable if variable.replace("_", "").isalnum() else "what is no name of a variable",
            expected="the name of a variable that holds the header's value, such as 'Bearer …'",
        )
    if not secret.isascii() or not secret.isprintable():
        raise ParameterError(where, "the variable's content is no header value", expected="printable ASCII")
    return secret


def _retry_after(value: str | None) -> float:
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0

"""Somebody else's search server as a retriever: JSON over HTTP, whatever server; a failure is never a ranking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ospo_cli.errors import ParameterError, RetrievalError, shorten
from ospo_cli.executors.http_client import Again, HttpClient
from ospo_cli.layout import Layout
from ospo_cli.params.retrieval import Retrieval
from ospo_cli.retrievers.base import NOTHING, Catalogue, Ranking, best_first, candidates, has_text
from ospo_cli.retrievers.http import template as http_template

_Asked = tuple[str, NDArray[np.int64] | None]


class HttpEngine:
    """Asks the server of section retrieval.http.

    Order: the server's scores (all above 0), then doc_id; with a template that names no score, the server's own order, score 1/rank.
    Which of several documents of equal score the server leaves out beyond depth k is the server's choice. A query without a letter or
    digit is not sent and retrieves nothing. k = 0 asks for `depth` results.

    A foreign index cannot be hashed: the fingerprint holds the URL, the template, its variables, the depth and `version`, which whoever
    changes the index changes too.
    """

    name = "http"

    def __init__(self, catalogue: Catalogue, settings: Retrieval, cache: Path | None) -> None:
        layout = Layout(Path()) if cache is None else Layout.of_cache(cache)
        self.settings = settings.http
        self.template = http_template.load(self.settings.template, self.settings.variables, layout.root)
        self.client = HttpClient(self.settings, self.template.authorization_header, "retrieval.http", RetrievalError)
        if not self.settings.version:
            raise ParameterError(
                "retrieval.http.version",
                "is empty",
                expected="your name for the state of the server's index, such as 2026-11-24",
                remedy="name it, and change the name whenever the index changes: results are kept under it",
            )
        self.depth = min(self.settings.depth, self.template.most_results or self.settings.depth)
        print_of_template = json.dumps(asdict(self.template) | {"about": ""}, sort_keys=True)
        self.fingerprint = catalogue.fingerprint("http-1", self.client.url, print_of_template, self.depth, self.settings.version)
        self.catalogue = catalogue
        self._prepared: dict[tuple[str, bytes | None], Ranking] = {}
        self._prepared_depth = -1

    def prepare(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> None:
        """Ask for all of these at once."""
        self._prepared, self._prepared_depth = {}, -1
        self._prepared = self._found(list(zip(queries, pools, strict=True)), k)
        self._prepared_depth = k

    def rank(self, queries: Sequence[str], pools: Sequence[NDArray[np.int64] | None], k: int) -> list[Ranking]:
        """Return the first k documents of each query within its pool; k = 0 is all, to `depth`."""
        asked = list(zip(queries, pools, strict=True))
        found = self._found(asked, k)
        return [found[_key(one)] for one in asked]

    def _found(self, asked: list[_Asked], k: int) -> dict[tuple[str, bytes | None], Ranking]:
        if k > self.depth:
            raise RetrievalError(
                "retriever http", "is asked for more results than it may give", found=k, expected=f"at most {self.depth}",
                remedy="raise retrieval.http.depth, as far as the server's own limit allows, or take a metric of fewer ranks",
            )  # fmt: skip
        found = {}
        new: dict[tuple[str, bytes | None], _Asked] = {}
        for one in asked:
            key = _key(one)
            if key in found or key in new:
                continue
            if k == self._prepared_depth and key in self._prepared:
                found[key] = self._prepared[key]
            elif not has_text(one[0]) or (one[1] is not None and not len(one[1])):
                found[key] = NOTHING
            else:
                new[key] = one
        if new:
            found |= dict(zip(new, self._ask(list(new.values()), k or self.depth), strict=True))
        return found

    def _ask(self, asked: list[_Asked], k: int) -> list[Ranking]:
        pools = [None if pool is None else candidates(pool, len(self.catalogue.doc_ids)) for _, pool in asked]
        if self.template.pooled_request is None and any(pool is not None for pool in pools):
            raise ParameterError(
                "retrieval.http.template",
                "has no pooled_request, and a prompt has a pool",
                remedy="write one, or set prepare_data.pool: catalogue",
            )
        step = self.settings.queries_per_request if self.template.has_batches else 1
        starts = range(0, len(asked), step)
        wanted = []
        for (query, _), pool in zip(asked, pools, strict=True):
            ids = None if pool is None else [self.catalogue.doc_ids[index] for index in pool]
            wanted.append((query, k if pool is None else min(k, len(pool)), ids))
        requests = [self.template.path_and_body(wanted[start : start + step]) for start in starts]

        def read(number: int, content: bytes) -> list[Ranking]:
            first = number * step
            part = wanted[first : first + step]
            return [
                self._ranking(answer, first + place, query, most, pools[first + place])
                for place, ((query, most, _), answer) in enumerate(zip(part, self._answers(content, first, part), strict=True))
            ]

        found = self.client.send(self.template.method, self.template.content_type, requests, read)
        return [ranking for rankings in found for ranking in rankings]

    def _answers(self, content: bytes, first: int, part: list[tuple[str, int, list[str] | None]]) -> list[Any]:
        where = self._where(first, part[0][0])
        try:
            reply = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError):
            excerpt = self.client.clean(content[:120].decode("utf-8", "replace"))
            raise RetrievalError(where, "the answer is not JSON", found=excerpt or "nothing", expected="JSON in UTF-8") from None
        if self.template.error and http_template.at(reply, self.template.error) is not None:
            found = self.client.clean(json.dumps(http_template.at(reply, self.template.error))[:300])
            raise RetrievalError(where, "the server reports an error", found=found)
        if not self.template.has_batches:
            return [reply]
        answers = http_template.at(reply, self.template.answers)
        if not isinstance(answers, list) or len(answers) != len(part):
            count = f"{len(answers)} answers" if isinstance(answers, list) else self.client.clean(json.dumps(reply)[:160])
            raise RetrievalError(
                where,
                f"no answer per query at {self.template.answers}",
                found=count,
                expected=f"{len(part)} answers, in the queries' order",
            )
        for answer in answers if self.template.status else ():
            status = http_template.at(answer, self.template.status)
            if isinstance(status, int) and (status == 429 or status >= 500):
                raise Again(self.client.clean(f"status {status} of a query within the request: {json.dumps(answer)[:200]}"))
        return answers

    def _ranking(self, answer: Any, number: int, query: str, k: int, pool: NDArray[np.int64] | None) -> Ranking:
        try:
            results = http_template.results(self.template, answer, k)
        except ValueError as error:
            raise RetrievalError(self._where(number, query), self.client.clean(str(error))) from None
        documents = np.empty(len(results), dtype=np.int64)
        seen: set[str] = set()
        for place, (doc_id, _) in enumerate(results):
            if doc_id in seen:
                raise RetrievalError(self._where(number, query), "an id occurs twice in an answer", found=doc_id, expected="each id once")
            seen.add(doc_id)
            if doc_id not in self.catalogue.index_of:
                raise RetrievalError(
                    self._where(number, query), "an id is not in the catalogue", found=doc_id, expected="doc_id of table documents",
                    remedy="index the same products, under the same ids, or run `ospo prepare-data` again",
                )  # fmt: skip
            documents[place] = self.catalogue.index_of[doc_id]
        if pool is not None and not np.isin(documents, pool).all():
            stranger = self.catalogue.doc_ids[int(documents[~np.isin(documents, pool)][0])]
            raise RetrievalError(
                self._where(number, query), "an id is not in the prompt's pool", found=stranger, expected="results of the pool alone",
                remedy="mend the template's pooled_request",
            )  # fmt: skip
        if self.template.score:
            return best_first(documents, np.array([score for _, score in results], dtype=np.float64), k)
        return Ranking(documents, 1.0 / np.arange(1, len(documents) + 1))

    def _where(self, number: int, query: str) -> str:
        return f"{self.client.url}, query {number} ({shorten(query, 60)!r})"


def _key(asked: _Asked) -> tuple[str, bytes | None]:
    return asked[0], None if asked[1] is None else np.asarray(asked[1], dtype=np.int64).tobytes()

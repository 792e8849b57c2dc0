"""What is said to a search server and where its answer lies: a JSON file, filled in per query."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ospo_cli.errors import ParameterError, RetrievalError

READY = ("elasticsearch", "solr", "vespa", "meilisearch", "typesense")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(\[\])?\}")
_WHOLE = re.compile(r"\{([a-z_]+)(\[\])?\}\Z")
_MISSING = object()
FORMATS = ("json", "ndjson", "url")


@dataclass(frozen=True)
class Template:
    """A search server's language.

    In strings, `{name}` is replaced: by the variables, by `{query}`, `{k}` (results wanted) and `{pool}` (ids of the candidates). A string
    that is nothing but a placeholder becomes the value itself (`"{k}"` the number, `"{pool}"` a list; `"{fields[]}"` the variable's words
    between commas, as a list). `{query}` stands alone in its string, so that no text reaches into a query language; ids within a longer
    string are put between `quote` and joined by `separator`, and refused where they hold either.

    Attributes:
        about: what it is for.
        method: POST, or GET.
        path: appended to the URL; placeholders are percent-encoded.
        format: json (a request is an object), ndjson (a list of objects, one per line) or url (text after the path).
        request: what is asked for one query over the whole catalogue.
        pooled_request: the same within a pool; null: the server cannot.
        batch: object that holds `"{requests}"`, for several queries at once (json); null: one query per request. ndjson always batches.
        content_type: of the request.
        quote, separator: of ids within a longer string.
        answers: path of the list of answers in a batch's reply; empty: the reply is the answer of one query.
        error: path that must be absent or null in an answer, and in a reply.
        status: path of an answer's own HTTP status; 429 and 5xx are tried again.
        must: path -> value that it must have where it is there (such as `timed_out: false`).
        hits: path of the list of results in an answer.
        total: path of the number of results; where `hits` is absent it must be 0. Empty: `hits` must be there.
        id, score: paths within a result; no score: the server's own order counts.
        authorization_header: name of the header that carries the secret.
        most_results: the server's own limit of results; 0 is none.
        variables: name -> default; null must be given in retrieval.http.variables.
    """

    about: str = ""
    method: str = "POST"
    path: str = ""
    format: str = "json"
    request: Any = None
    pooled_request: Any = None
    batch: Any = None
    content_type: str = "application/json"
    quote: str = ""
    separator: str = ","
    answers: str = ""
    error: str = ""
    status: str = ""
    must: dict[str, Any] | None = None
    hits: str = ""
    total: str = ""
    id: str = ""
    score: str = ""
    authorization_header: str = "Authorization"
    most_results: int = 0
    variables: dict[str, str | None] | None = None

    @property
    def has_batches(self) -> bool:
        """Whether several queries go into one request."""
        return self.format == "ndjson" or self.batch is not None

    def path_and_body(self, asked: Sequence[tuple[str, int, list[str] | None]]) -> tuple[str, bytes | None]:
        """Return the path and the body of one request for (query, k, ids of the pool or None), of which there are several in a batch."""
        requests = []
        values: dict[str, Any] = dict(self.variables or {})
        for query, k, pool in asked:
            values = {**(self.variables or {}), "query": query, "k": k, **({} if pool is None else {"pool": pool})}
            asked_for = self.request if pool is None else self.pooled_request
            requests.append(self._escaped(asked_for, values) if self.format == "url" else self._filled(asked_for, values))
        path = self._escaped(self.path, values)
        if self.format == "url":
            return path + requests[0], None
        if self.format == "ndjson":
            return path, b"".join(_encoded(line) + b"\n" for lines in requests for line in lines)
        return path, _encoded(_with_requests(self.batch, requests) if self.batch is not None else requests[0])

    def _escaped(self, text: str, values: Mapping[str, Any]) -> str:
        return _PLACEHOLDER.sub(lambda found: quote(self._text(found[1], values).encode("utf-8", "replace"), safe=""), text)

    def _filled(self, value: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(content, values) for key, content in value.items()}
        if isinstance(value, list):
            return [self._filled(content, values) for content in value]
        if not isinstance(value, str):
            return value
        whole = _WHOLE.match(value)
        if whole:
            found = values[whole[1]]
            return [part.strip() for part in found.split(",")] if whole[2] else found
        return _PLACEHOLDER.sub(lambda found: self._text(found[1], values), value)

    def _text(self, name: str, values: Mapping[str, Any]) -> str:
        value = values[name]
        if name != "pool":
            return str(value)
        for doc_id in value:
            if any(mark and mark in doc_id for mark in (self.quote, self.separator if not self.quote else "", "\\")):
                raise RetrievalError(
                    "retrieval.http.template",
                    "an id cannot be written into this server's filter",
                    found=doc_id,
                    expected=f"ids without {' or '.join(mark for mark in (self.quote or self.separator, chr(92)) if mark)}",
                )
        return self.separator.join(f"{self.quote}{doc_id}{self.quote}" for doc_id in value)


def load(name: str, variables: Mapping[str, str], root: Path) -> Template:
    """Return a ready template, or that of a JSON file relative to the project's folder `root`, with its variables set.

    Raises:
        ParameterError: no such template, not one that can be used, or a variable that is missing or unknown.
    """
    where = "retrieval.http.template"
    if name in READY:
        text = (resources.files(__package__) / "templates" / f"{name}.json").read_text(encoding="utf-8")
    elif name.endswith(".json"):
        where = str(root / name)
        try:
            text = (root / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ParameterError(where, "cannot be read", found=error) from None
    else:
        raise ParameterError(where, "no such template", found=name, expected=", ".join((*READY, "or the path of a .json file")))
    return parse(text, variables, where)


def parse(text: str, variables: Mapping[str, str], where: str) -> Template:
    """Return the template of a JSON text; raises as `load` does."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParameterError(where, "is not JSON", found=error) from None
    known = {field.name for field in fields(Template)}
    if not isinstance(content, dict) or set(content) - known:
        found = ", ".join(sorted(set(content) - known)) if isinstance(content, dict) else type(content).__name__
        raise ParameterError(where, "is no template", found=found, expected=", ".join(sorted(known)))
    texts = {field.name for field in fields(Template) if field.type == "str"}
    for key, value in content.items():
        is_right = (
            isinstance(value, str) if key in texts else isinstance(value, (dict, type(None))) if key in ("must", "variables") else True
        )
        if not is_right or (key == "most_results" and not (type(value) is int and value >= 0)):
            raise ParameterError(
                f"{where}: {key}", "wrong type", found=type(value).__name__, expected="text" if key in texts else "see docs"
            )
    defaults = content.get("variables") or {}
    unknown = [name for name in variables if name not in defaults]
    if unknown:
        raise ParameterError(
            "retrieval.http.variables", "the template has no such variable", found=unknown[0], expected=", ".join(defaults)
        )
    values = {**defaults, **variables}
    missing = [name for name, value in values.items() if not isinstance(value, str) or not value]
    if missing:
        raise ParameterError(
            "retrieval.http.variables", "the template needs a variable", found=f"no {missing[0]}", expected=", ".join(defaults)
        )
    template = Template(**{**content, "variables": values})
    _check(template, where)
    # Paths within answers name fields, which differ from index to index.
    put = {key: _PLACEHOLDER.sub(lambda found: values[found[1]], getattr(template, key)) for key in ("hits", "id", "score", "total")}
    return Template(**{**content, "variables": values, **put})


def _check(template: Template, where: str) -> None:
    if template.format not in FORMATS or template.method not in ("GET", "POST"):
        raise ParameterError(
            where, "unknown format or method", found=f"{template.format}, {template.method}", expected=f"{', '.join(FORMATS)}; GET, POST"
        )
    if not template.id:
        raise ParameterError(f"{where}: id", "is empty", expected="the path of the id within a result")
    if template.has_batches and not template.answers:
        raise ParameterError(f"{where}: answers", "is empty", expected="the path of the list of answers in a batch's reply")
    if template.format == "ndjson" and not isinstance(template.request, list):
        raise ParameterError(
            f"{where}: request", "is no list", found=type(template.request).__name__, expected="one object per line (ndjson)"
        )
    names = {*(template.variables or {}), "query", "k", "pool"}
    needed = {"request": {"query"}, "pooled_request": {"query", "pool"}, "path": set()}
    for part, needs in needed.items():
        held = getattr(template, part)
        if held is None and part == "pooled_request":
            continue
        asked = [(text, found) for text in _strings(held) for found in _PLACEHOLDER.finditer(text)]
        unknown = [found[0] for _, found in asked if found[1] not in (names if needs else names - {"query", "k", "pool"})]
        if unknown:
            raise ParameterError(f"{where}: {part}", "unknown placeholder", found=unknown[0], expected=", ".join(sorted(names)))
        if missing := needs - {found[1] for _, found in asked}:
            raise ParameterError(f"{where}: {part}", "a placeholder is missing", expected=f"{{{min(missing)}}}")
        within = [text for text, found in asked if found[1] == "query" and template.format != "url" and not _WHOLE.match(text)]
        if within:
            raise ParameterError(
                f"{where}: {part}",
                "{query} stands within a longer text, where a query could say more than it should",
                found=within[0],
                expected="a string of its own",
            )
    if template.batch is not None and "{requests}" not in _strings(template.batch):
        raise ParameterError(f"{where}: batch", "a placeholder is missing", expected="{requests}, as a string of its own")


def at(value: Any, path: str) -> Any:
    """Return what lies at a path of names and list positions joined by points; the value itself for an empty one; None where absent."""
    found = _at(value, path)
    return None if found is _MISSING else found


def results(template: Template, answer: Any, k: int) -> list[tuple[str, float | None]]:
    """Return (id, score) of an answer's results in the server's order; score is None where the template has none.

    Raises:
        ValueError: with what was found and expected, as text, where the answer is not what the template says.
    """
    if template.error and at(answer, template.error) is not None:
        raise ValueError(f"the server reports an error: found {_short(at(answer, template.error))}")
    for path, value in (template.must or {}).items():
        if _at(answer, path) is not _MISSING and _at(answer, path) != value:
            raise ValueError(f"the answer is not whole: found {path} = {_short(_at(answer, path))}, expected {json.dumps(value)}")
    hits = _at(answer, template.hits)
    if hits is _MISSING and template.total and _at(answer, template.total) == 0:
        return []
    if not isinstance(hits, list):
        what = _short(answer) if hits is _MISSING else type(hits).__name__
        raise ValueError(f"no list of results at {template.hits or 'the top'}: found {what}")
    if len(hits) > k:
        raise ValueError(f"more results than were asked for: found {len(hits)}, expected at most {k}")
    found: list[tuple[str, float | None]] = []
    for place, hit in enumerate(hits):
        doc_id = _at(hit, template.id)
        if isinstance(doc_id, bool) or not isinstance(doc_id, (str, int)):
            raise ValueError(f"result {place} has no id at {template.id}: found {_short(hit)}")
        score = None
        if template.score:
            score = _at(hit, template.score)
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
                raise ValueError(f"result {place} has no finite score at {template.score}: found {_short(hit)}")
            if score <= 0:
                raise ValueError(
                    f"result {place} has a score that is not above 0: found {score}, expected one above 0 (a template without a score "
                    "takes the server's order)"
                )
        found.append((str(doc_id), None if score is None else float(score)))
    return found


def _at(value: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _MISSING
    return value


def _with_requests(value: Any, requests: list[Any]) -> Any:
    if value == "{requests}":
        return requests
    if isinstance(value, dict):
        return {key: _with_requests(content, requests) for key, content in value.items()}
    return [_with_requests(content, requests) for content in value] if isinstance(value, list) else value


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for content in held for text in _strings(content)]


def _encoded(value: Any) -> bytes:
    # ASCII alone: lone surrogates of a model's text survive as escapes.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 160 else text[:159] + "…"

"""Parameters that are set and that nothing reads in the chosen mode: said, since a setting without effect looks like one with effect."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

from ospo_cli.params.whole import SECTIONS, Params

_CONDITION = re.compile(r"(?P<name>[a-z_.]+)(?:: (?P<values>.+)| (?P<not_zero>not 0)| (?P<given>given))")


def unread(params: Params, sections: Collection[str] = tuple(SECTIONS)) -> str:
    """Return the parameters of these sections that differ from their defaults and are not read, each with the mode that reads it; as one
    line, empty where there is none."""
    found: dict[str, list[str]] = {}
    for section in sections:
        for name, when in _walk(params, getattr(params, section), section):
            found.setdefault(when, []).append(name)
    said = [f"{', '.join(names)} (read where {when})" for when, names in found.items()]
    return f"params.yaml: set, and not read: {'; '.join(said)}\n" if found else ""


def conditions() -> Iterator[tuple[str, str, list[str]]]:
    """Yield (parameter, the one its mode hangs on, values of that one) for every declared condition; a test looks whether these exist."""
    for section, kind in SECTIONS.items():
        for name, when in _declared(kind(), section):
            other, values = _parsed(when, name)
            yield name, other, values


def _walk(params: Params, values: Any, section: str) -> Iterator[tuple[str, str]]:
    default = type(values)()
    for name, when in _declared(values, section):
        inner = name[len(section) + 1 :].split(".")
        if _at(values, inner) != _at(default, inner):
            other, allowed = _parsed(when, name)
            value = _at(params, other.split("."))
            chosen = {str(item) for item in value} if isinstance(value, list) else {str(value)}
            if not (chosen & set(allowed) if allowed else value):
                yield name, when


def _declared(values: Any, section: str) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(values):
        inner = getattr(values, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _declared(inner, f"{section}.{field.name}")
        elif field.metadata["when"]:
            yield f"{section}.{field.name}", field.metadata["when"]


def _parsed(when: str, name: str) -> tuple[str, list[str]]:
    match = _CONDITION.fullmatch(when)
    assert match is not None, f"{name}: {when}"
    other = match["name"] if "." in match["name"] else f"{name.rpartition('.')[0]}.{match['name']}"
    return other, re.split(", | or ", match["values"]) if match["values"] else []


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = getattr(values, name)
    return values

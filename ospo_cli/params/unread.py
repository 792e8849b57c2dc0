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
    modes: dict[str, str] = {}
    for section in sections:
        default = SECTIONS[section]()
        for name, when in _walk(params, section):
            inner = name[len(section) + 1 :].split(".")
            if _at(getattr(params, section), inner) != _at(default, inner):
                modes.setdefault(name, when)
    said = [f"{', '.join(name for name in modes if modes[name] == when)} (read where {when})" for when in dict.fromkeys(modes.values())]
    return f"params.yaml: set, and not read: {'; '.join(said)}\n" if said else ""


def names(params: Params) -> set[str]:
    """Return the parameters that nothing reads in the chosen mode, whatever their values."""
    return {name for section in SECTIONS for name, _ in _walk(params, section)}


def conditions() -> Iterator[tuple[str, str, list[str]]]:
    """Yield (parameter, the one its mode hangs on, values of that one) for every declared condition; a test looks whether these exist."""
    for section, kind in SECTIONS.items():
        for name, when, holder in _declared(kind(), section):
            yield from ((name, other, values) for other, values in _parsed(when, holder))


def _walk(params: Params, section: str) -> Iterator[tuple[str, str]]:
    for name, when, holder in _declared(getattr(params, section), section):
        if not any(_holds(_at(params, other.split(".")), allowed) for other, allowed in _parsed(when, holder)):
            yield name, when


def _holds(value: Any, allowed: list[str]) -> bool:
    chosen = {str(item) for item in value} if isinstance(value, list) else {str(value)}
    return bool(chosen & set(allowed) if allowed else value)


def _declared(values: Any, section: str) -> Iterator[tuple[str, str, str]]:
    """Yield (parameter, its mode, the section that plain names in the mode are of); a group's mode is that of all within it."""
    for field in dataclasses.fields(values):
        inner, name, when = getattr(values, field.name), f"{section}.{field.name}", field.metadata.get("when")
        if dataclasses.is_dataclass(inner):
            yield from ((f"{name}.{each.name}", when, section) for each in dataclasses.fields(inner) if when)
            yield from _declared(inner, name)
        elif when:
            yield name, when, section


def _parsed(when: str, section: str) -> list[tuple[str, list[str]]]:
    found = []
    for part in when.split(", or where "):
        match = _CONDITION.fullmatch(part)
        assert match is not None, f"{section}: {when}"
        other = match["name"] if "." in match["name"] else f"{section}.{match['name']}"
        found.append((other, re.split(", | or ", match["values"]) if match["values"] else []))
    return found


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = getattr(values, name)
    return values

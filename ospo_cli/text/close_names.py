"""Names that are nearly what was asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ospo_cli.errors import ParameterError


def closest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return up to `count` of the known names that look like `name` (ratio of equal characters at least `cutoff`), best first."""
    import difflib

    return difflib.get_close_matches(name, list(known), count, cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the remedy that names the closest known name; None where none is close."""
    close = closest(name, known, 1)
    return f"did you mean {close[0]}?" if close else None


def unknown_name(where: object, noun: str, name: str, known: Iterable[str]) -> ParameterError:
    """Return the error of a name that is none of the known ones."""
    known = list(known)
    return ParameterError(where, f"unknown {noun}", found=name, expected=", ".join(known), remedy=did_you_mean(name, known))


def check_names(where: object, noun: str, names: Iterable[object], known: Collection[object]) -> None:
    """Raise the error of the first of the names that is none of the known ones."""
    for name in names:
        if name not in known:
            raise unknown_name(where, noun, str(name), map(str, known))

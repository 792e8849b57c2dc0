"""The parameters that a stage declares, and no others: reading one that it does not declare would make it stale unseen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# These change no result: every stage may read them, and none runs again for them.
FREE = ("store", "score_coalitions.calls", "execution")


class UndeclaredError(Exception):
    """A stage read a parameter that its node does not declare: a defect of the package."""


class Declared:
    """Some fields of a section, or some sections of all parameters, under the same names; reading another raises.

    Args:
        whole: the section, or all parameters.
        entries: names of fields; `section.name` gives that one of a section.
        reader: who reads, such as `ospo rollout`, for the message.
    """

    def __init__(self, whole: object, entries: Iterable[str], reader: str, where: str = "") -> None:
        self._whole, self._entries, self._reader, self._where = whole, tuple(entries), reader, where

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what copy and pickle ask for
            raise AttributeError(name)
        computed = getattr(type(self._whole), name, None)
        if isinstance(computed, property) and computed.fget is not None:  # from fields, which are looked at in their turn
            return computed.fget(self)
        value = getattr(self._whole, name)
        further = [entry.partition(".")[2] for entry in self._entries if entry.partition(".")[0] == name]
        if not further:
            raise UndeclaredError(f"{self._reader} reads {self._where}{name}, which its node (graph/declared.py) does not declare")
        return value if "" in further else Declared(value, further, self._reader, f"{self._where}{name}.")

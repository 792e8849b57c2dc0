"""How a parameter is declared."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Registered:
    """Names that are declared elsewhere in the package; asked for when values are checked, so that a section imports nothing of it.

    Attributes:
        module: dotted, without the package's name: as an import it would be code that every reader of the section runs on.
        attribute: a mapping of names, or a function that raises OspoError for a name that it does not know.
        without: names that are not allowed here.
    """

    module: str
    attribute: str
    without: tuple[str, ...] = ()

    def found(self) -> Any:
        """Return the mapping or function, its module imported now."""
        return getattr(importlib.import_module(f"{__name__.partition('.')[0]}.{self.module}"), self.attribute)

    def __iter__(self) -> Any:
        return (name for name in self.found() if name not in self.without)


def group(kind: type, when: str) -> Any:
    """Declare settings that one mode alone reads; `when` as of `parameter`."""
    return dataclasses.field(default_factory=kind, metadata={"when": when})


def parameter(
    default: Any,
    meaning: str,
    *,
    choices: Iterable[str] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str = "",
    parser: Registered | None = None,
    open_with: str = "",
    when: str = "",
) -> Any:
    """Declare a parameter: default, one-line meaning, and what values are allowed.

    Args:
        default: its value where a project is begun.
        meaning: what is said of it in params.yaml.
        choices: names of a registry; where they are fixed, the field's type is a `Literal` instead.
        minimum: smallest value.
        maximum: largest value.
        pattern: regular expression of the whole text, which the meaning tells.
        parser: function that raises OspoError for a text that is not allowed, which the meaning tells.
        open_with: a parameter of the same section that adds choices where it is not empty; the stage checks these.
        when: the mode that reads it, if not every one does: `teacher: judgments`, `level: word or phrase`, `lora_rank not 0`, `own_reward
            given`; of the same section, or of another by its dotted name; several joined by `, or where `. `unread` says so where the mode
            is another.
    """
    metadata = {
        "meaning": meaning, "choices": choices, "minimum": minimum, "maximum": maximum, "pattern": pattern, "parser": parser,
        "open_with": open_with, "when": when,
    }  # fmt: skip
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)

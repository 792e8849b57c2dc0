"""How a parameter is declared."""

from __future__ import annotations

import dataclasses
from typing import Any


def parameter(
    default: Any,
    meaning: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    pattern: str = "",
    open_with: str = "",
) -> Any:
    """Declare a parameter: default, one-line meaning, and what values are allowed (bounds inclusive; a pattern that the meaning tells).

    `open_with` names a parameter of the same section that adds choices where it is not empty; the stage checks these.
    """
    metadata = {"meaning": meaning, "choices": choices, "minimum": minimum, "maximum": maximum, "pattern": pattern, "open_with": open_with}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)

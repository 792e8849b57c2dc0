"""Section store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class Store:
    """Values of texts that are kept beside the tables (docs/store.md); changes no result, so that no stage runs again for it."""

    values: Literal["auto", "always", "never"] = parameter(
        "auto", "which values are stored and looked up: auto (of retrievers that take longer than a look-up), always or never"
    )
    products: int = parameter(0, "retrieved products that are stored with each value, best first", minimum=0, maximum=1000)

"""Section store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class Store:
    """Values of texts that are kept beside the tables (docs/store.md); changes no result, so that no stage runs again for it."""

    values: Literal["auto", "always", "never"] = parameter(
        "auto", "which values are kept and looked up: auto (of engines that cost more than a look-up), always or never"
    )
    products: int = parameter(0, "first retrieved products that are kept with each value", minimum=0, maximum=1000)

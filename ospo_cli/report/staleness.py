"""What a result outside the graph was computed from, by content, and whether that is still so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ospo_cli.layout import Layout
from ospo_cli.tables.files import sha256_of

Values = Mapping[str, Mapping[str, Any]]  # section of params.yaml -> name -> value


def fingerprints(layout: Layout, values: Values, paths: Sequence[Path], sections: Sequence[str]) -> dict[str, str]:
    """Return name -> SHA-256 of files and folders (`data/…`, below the project's folder) and of parameters (`params.yaml: section`).

    Args:
        layout: the project.
        values: its parameters.
        paths: files or folders; one that is not there is `absent`.
        sections: sections of params.yaml, or `section.name`.
    """
    found = {path.relative_to(layout.root).as_posix(): sha256_of(path) for path in paths}
    for section in sections:
        name, _, field = section.partition(".")
        value = values[name][field] if field else values[name]
        found[f"params.yaml: {section}"] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return found


def changed(layout: Layout, values: Values, stored: Mapping[str, str]) -> list[str]:
    """Return the names whose content is not what it was, in order."""
    names = [name for name in stored if name.startswith("params.yaml: ")]
    paths = [layout.root / name for name in stored if name not in names]
    known = {f"{section}.{field}" for section, fields in values.items() for field in fields} | set(values)
    sections = [name.removeprefix("params.yaml: ") for name in names]
    now = fingerprints(layout, values, paths, [section for section in sections if section in known])
    return sorted(name for name, content in stored.items() if now.get(name) != content)

"""Which stages `dvc repro` would skip, read from dvc.lock: DVC itself is not needed, and nothing of it is run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from ospo_cli.graph import dvc
from ospo_cli.graph.code import of_project
from ospo_cli.graph.declared import Node


class DvcLock:
    """What DVC wrote down of its last runs; where dvc.lock is missing or cannot be read, it made nothing.

    A stage is current as DVC sees it: the same command, dependencies, parameters and outputs, by content.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        content = _read_yaml(root / "dvc.lock")
        self._stages: dict[str, Any] = content.get("stages") or {}
        self._known: dict[str, str] = {}
        self._params = _read_yaml(root / "params.yaml")
        self._code = of_project(root)

    def is_current(self, wanted: Node) -> bool:
        """Tell whether the stage's outputs are there, made of what is there now."""
        locked = self._stages.get(wanted.label)
        if not isinstance(locked, dict) or locked.get("cmd") != wanted.command:
            return False
        try:
            dependencies, outputs = ({each["path"]: each["md5"] for each in locked.get(kind, ())} for kind in ("deps", "outs"))
        except (AttributeError, KeyError, TypeError):
            return False
        if set(dependencies) != set(dvc.stage_of(wanted).get("deps", ())) or not set(wanted.outputs) <= set(outputs):
            return False
        # The code as it is now, not as code.yaml has it: `dvc repro` writes that anew before it looks at a stage.
        code = {f"stages.{wanted.stage}": self._code.hash(wanted)}
        return locked.get("params") == {"params.yaml": {name: self._value(name) for name in wanted.sections}, dvc.CODE: code} and all(
            self._hash(path) == md5 for path, md5 in (dependencies | outputs).items()
        )

    def is_output(self, wanted: Node, path: str) -> bool:
        """Tell whether a file is as DVC wrote it down when it last ran the stage, or brought its results back."""
        locked = self._stages.get(wanted.label)
        outputs = locked.get("outs") if isinstance(locked, dict) else None
        known = {(each.get("path"), each.get("md5")) for each in outputs or () if isinstance(each, dict)}
        return (path, self._hash(path)) in known

    def _value(self, name: str) -> Any:
        found: Any = self._params
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def _hash(self, path: str) -> str:
        if path not in self._known:
            self._known[path] = _hash(self.root / path)
        return self._known[path]


def _hash(path: Path) -> str:
    # As DVC does: of a folder, the hash of the list of its files and their hashes.
    if path.is_dir():
        files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file() and file.suffix != ".tmp")
        listed = [{"md5": _hash(path / file), "relpath": file.as_posix()} for file in sorted(files, key=lambda file: file.as_posix())]
        return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    if not path.is_file():
        return "absent"
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}

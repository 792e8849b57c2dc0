"""What each stage's result was made from: manifests, which tell whether it would be made anew."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError
from ospo_cli.graph import code
from ospo_cli.graph.declared import Node
from ospo_cli.graph.dvc_lock import DvcLock
from ospo_cli.graph.nodes import planned
from ospo_cli.layout import Layout
from ospo_cli.params.whole import Params, to_mapping
from ospo_cli.tables import files, sealed

PRUNED = "manifests/pruned.json"  # below data/


def section_values(wanted: Node, params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of the sections, or single parameters, that a stage depends on."""
    values = {}
    for section in wanted.sections:
        name, _, field = section.partition(".")
        values[section] = params[name][field] if field else params[name]
    return values


class Records:
    """The manifests of a project, and SHA-256 of its files, folders and code, each read once."""

    def __init__(self, layout: Layout, params: Params) -> None:
        self.layout, self.params, self.values = layout, params, to_mapping(params)
        self.known: dict[str, str] = {}
        self.code = code.of_project(layout.root)

    @cached_property
    def dvc(self) -> DvcLock:
        return DvcLock(self.layout.root)

    @cached_property
    def pruned(self) -> dict[str, str]:
        """Hashes of what `ospo prune` has deleted: what was made from it is as current as it was."""
        record = self.layout.root / "data" / PRUNED
        return files.read_json(record) if record.is_file() else {}

    def of(self, path: str) -> str:
        """Return the hash of a file or folder of the project."""
        if path not in self.known:
            found = files.sha256_of(self.layout.root / path)
            self.known[path] = self.pruned.get(path, found) if found == files.ABSENT else found
        return self.known[path]

    def key(self, wanted: Node) -> str:
        """Return the hash of all that a stage's result depends on: its inputs, parameters and code."""
        inputs = {path: self.of(path) for path in (*wanted.inputs, *wanted.optional)}
        content = {"inputs": inputs, "params": section_values(wanted, self.values), "code": self.code.hash(wanted)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def keep(self, wanted: Node, key: str) -> None:
        """Write the manifest of a stage that has run; `key` is that from before."""
        written = (*wanted.outputs, *wanted.metrics)
        for path in written:
            self.known.pop(path, None)
        content = {"key": key, "command": wanted.command, "hashes": {path: self.of(path) for path in written}}
        files.write_json(self._manifest(wanted), content)

    def is_current(self, wanted: Node, say: bool = False) -> bool:
        """Tell whether a stage's outputs are what it wrote, from what is there now; `say`: name a damaged one on stderr."""
        content = self._made(wanted)
        if content.get("key") != self.key(wanted):
            return False
        for path in (*wanted.outputs, *wanted.metrics):
            now = self.of(path)
            if now == files.ABSENT:
                return False
            # Metrics hold durations: those of another run of the same stage, which DVC may have brought back, are as good.
            if now != content["hashes"].get(path) and not (path in wanted.metrics and self.dvc.is_output(wanted, path)):
                if say:
                    sealed.say_damaged(Path(path), f"`{wanted.command}` runs again")
                return False
        return True

    def name_doubtful(self, wanted: Node) -> None:
        """Say on stderr which inputs are not what their stage wrote, or would be written anew: the stage is run by hand and reads them as
        they are. Only the stages that made its own inputs are asked; `ospo run --dry-run` asks all."""
        makers = {path: made for made in planned(self.params, wanted.iteration) for path in made.outputs}
        for made in dict.fromkeys(makers[path] for path in wanted.inputs if path in makers):
            content = self._made(made)
            read = [path for path in wanted.inputs if path in made.outputs]
            changed = [path for path in read if content and content["hashes"].get(path) != self.of(path)]
            if changed:
                sys.stderr.write(f"{wanted.command}: {changed[0]} is not what `{made.command}` wrote; it is read as it is\n")
            elif content and content["key"] != self.key(made):
                since = f"`{made.command}` would run again, its inputs, parameters or code changed"
                sys.stderr.write(f"{wanted.command}: {since}; read as it is\n")

    def _manifest(self, wanted: Node) -> Path:
        return self.layout.data / "manifests" / f"{wanted.label}.json"

    def _made(self, wanted: Node) -> dict[str, Any]:
        """Return what a stage's manifest says: the key of what it was made from, hashes of what it wrote; empty where it says nothing."""
        try:
            content: dict[str, Any] = files.read_json(self._manifest(wanted))
        except OspoError:
            return {}
        return content if isinstance(content.get("hashes"), dict) else {}

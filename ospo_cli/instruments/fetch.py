"""Fetch a policy or an encoder: out of a package, from the hub, from a folder, or from a GGUF file, into a folder of safetensors."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ospo_cli.errors import OspoError
from ospo_cli.executors import hub
from ospo_cli.layout import Layout
from ospo_cli.policies import pretrained
from ospo_cli.policies.folder import check_folder, copy_weights
from ospo_cli.retrievers.dense import packaged
from ospo_cli.retrievers.dense.transformer_encoder import checked_config
from ospo_cli.tables import files

# Beside the weights: where they come from, what was changed, and hashes.
ORIGIN = "fetched.json"


@dataclass(frozen=True)
class Kind:
    """What is fetched.

    Attributes:
        name: policy or encoder.
        packaged: names that stand for something in a package.
        write_packaged: name, folder to fill, folder that keeps downloads → card.
        check: raises where a folder is not one.
        model: class of transformers that reads its GGUF file.
        place: folder of the project it goes to by default.
    """

    name: str
    packaged: Collection[str]
    write_packaged: Callable[[str, Path, Path], dict[str, Any]]
    check: Callable[[Path], object]
    model: str
    place: str


POLICY = Kind("policy", pretrained.PACKAGED, pretrained.write_packaged, check_folder, "AutoModelForCausalLM", "pretrained")
ENCODER = Kind("encoder", packaged.ENCODERS, packaged.write, checked_config, "AutoModel", "encoders")


def execute(layout: Layout, kind: Kind, source: str, revision: str | None = None, to: Path | None = None) -> dict[str, Any]:
    """Write a policy's or an encoder's folder, whole or not at all; return its card, the folder, and the seconds that it took.

    Args:
        layout: of the project.
        kind: POLICY or ENCODER.
        source: a name of `kind.packaged`, a GGUF file, a folder (with a slash), or ORG/NAME of the hub.
        revision: commit of the hub's repository.
        to: folder to write; by default data/pretrained/NAME or data/encoders/NAME.

    Raises:
        OspoError: there is no such source, or it cannot be used.
    """
    began = time.monotonic()
    path = Path(source)
    name = source if source in kind.packaged else path.stem if path.suffix.lower() == ".gguf" else path.resolve().name
    folder = to if to is not None else layout.data / kind.place / name
    stage = layout.cache / "fetched" / f"{name}-{(revision or 'package')[:12]}"
    if source in kind.packaged:
        with files.replacing_folder(folder) as temporary:
            card = kind.write_packaged(source, temporary, stage)
            _finish(temporary, card | {"name": name})
        shutil.rmtree(stage, ignore_errors=True)
    elif path.suffix.lower() == ".gguf":
        with files.replacing_folder(folder) as temporary:
            card = pretrained.write_gguf(path, temporary, kind.model)
            _finish(temporary, card | {"kind": kind.name, "name": name})
    elif revision is None and "/" in source and path.is_dir():
        card = _copied(kind, path, folder, {"kind": kind.name, "name": name, "origin": f"folder {name}"})
    elif hub.is_name(source):
        hashes = hub.download(source, revision, stage, f"fetch-{kind.name}")
        card = _copied(kind, stage, folder, {"kind": kind.name, "name": name, "origin": source, "revision": revision, "sha256": hashes})
        shutil.rmtree(stage, ignore_errors=True)
    else:
        raise OspoError(
            f"fetch-{kind.name}",
            f"no such {kind.name}",
            found=source,
            expected=f"{', '.join(kind.packaged)}, ORG/NAME with --revision, a folder such as ./NAME, or a file .gguf",
        )
    return card | {"folder": str(folder), "seconds": time.monotonic() - began}


def _copied(kind: Kind, source: Path, folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Check a folder, then copy what a policy or an encoder is made of."""
    kind.check(source)
    with files.replacing_folder(folder) as temporary:
        copy_weights(source, temporary)
        pooling = source / "1_Pooling" / "config.json"
        if pooling.is_file():
            (temporary / "1_Pooling").mkdir()
            shutil.copyfile(pooling, temporary / "1_Pooling" / "config.json")
        if "revision" in card or not (temporary / ORIGIN).is_file():
            _finish(temporary, card)
    return card


def _finish(folder: Path, card: dict[str, Any]) -> None:
    files.write_json(folder / ORIGIN, card, ensure_ascii=False)

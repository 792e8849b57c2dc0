"""What a model's folder may hold: weights as safetensors, no pickle and no code of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ospo_cli.errors import OspoError
from ospo_cli.tables.files import read_json

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def check(folder: Path, names: Sequence[str], weights: Sequence[str], error: type[OspoError], kind: str, remedy: str | None = None) -> None:
    """Raise `error` where a folder has no safetensors, or asks for code of its own.

    Args:
        folder: the model's.
        names: all files in it.
        weights: those that are safetensors of the model.
        error: kind of error.
        kind: what the folder is of, for the message.
        remedy: where weights are absent.
    """
    if not weights:
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise error(
                folder,
                "weights in pickle form are refused: loading them can run any code",
                found=", ".join(pickles),
                expected="*.safetensors",
                remedy="convert them with safetensors where you trust them",
            )
        raise error(folder, f"{kind} folder without weights", found=", ".join(names), expected="*.safetensors", remedy=remedy)
    for name in ("config.json", "tokenizer_config.json"):
        if name in names and "auto_map" in read_json(folder / name):
            raise error(
                folder / name,
                "asks for code from its own folder (auto_map), which is never run",
                expected="a model type that transformers knows",
            )

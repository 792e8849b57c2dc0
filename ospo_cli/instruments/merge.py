"""Merge an adapter policy into its base: one folder of full weights that needs neither peft nor the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ospo_cli.errors import PolicyError
from ospo_cli.layout import Layout
from ospo_cli.tables import files


def execute(layout: Layout, iteration: int, to: Path | None = None) -> dict[str, Any]:
    """Write the merged policy of an iteration into `to`, by default data/merged/K; return its card and where it lies."""
    folder = to if to is not None else layout.data / "merged" / f"{iteration:03d}"
    made_by = f"ospo update --iter {iteration}" if iteration else "ospo warm-start"
    return merge(layout.policy(iteration), folder, layout.root, made_by)


def merge(source: Path, folder: Path, project: Path, made_by: str = "") -> dict[str, Any]:
    """Write an adapter folder's merged weights, tokenizer and a card that names what they were made from.

    Raises:
        PolicyError: the folder holds no adapter, or its base is missing or another one.
    """
    from ospo_cli.policies import folder as folders
    from ospo_cli.policies import lora

    folders.check_folder(source, made_by)
    if not (source / lora.CONFIGURATION).is_file():
        raise PolicyError(source, "is no adapter, there is nothing to merge", found="full weights", expected=lora.CONFIGURATION)
    if folder.exists() and any(folder.iterdir()):
        raise PolicyError(folder, "is not an empty folder", remedy="give a new folder; nothing was written")
    model, card = lora.load_adapter(source, project, trainable=False)
    merged = {
        "kind": "merged",
        "base": card["base"],
        "base_sha256": card["base_sha256"],
        "adapter_sha256": folders.file_hash(source / lora.WEIGHTS),
        "lora": card["lora"],
    }
    with files.replacing_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        folders.copy_tokenizer(source, temporary)
        files.write_json(temporary / folders.CARD, merged, ensure_ascii=False)
    return merged | {"folder": str(folder)}

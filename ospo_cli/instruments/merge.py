"""One folder of full weights that needs neither peft, nor a base, nor a project: an adapter is merged into its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ospo_cli.errors import PolicyError
from ospo_cli.layout import Layout
from ospo_cli.rewriting import setup
from ospo_cli.rewriting.chosen import verdict_on
from ospo_cli.tables import files


def execute(layout: Layout, iteration: int, to: Path | None = None, asked: setup.Setup | None = None) -> dict[str, Any]:
    """Write the policy of an iteration into `to`, by default data/merged/K; return what it was made from, and where it lies."""
    folder = to if to is not None else layout.data / "merged" / f"{iteration:03d}"
    made_by = f"ospo update --iter {iteration}" if iteration else "ospo warm-start"
    verdict = verdict_on(layout.policy(iteration), layout)
    return merge(layout.policy(iteration), folder, layout.root, made_by, asked, verdict)


def merge(
    source: Path,
    folder: Path,
    project: Path,
    made_by: str = "",
    asked: setup.Setup | None = None,
    verdict: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write a policy's weights, an adapter's merged into its base, tokenizer and a card that names what they were made from.

    Args:
        source: policy folder.
        folder: absent or empty.
        project: folder that an adapter's base is relative to.
        made_by: command that makes `source`.
        asked: how the policy is asked, for `ospo rewrite` and `ospo serve`; None writes no card for them.
        verdict: what the evaluation says of it, which the card carries along.

    Raises:
        PolicyError: there is no such policy, or its base is missing or another one; or `folder` is not empty.
    """
    from ospo_cli.policies import folder as folders
    from ospo_cli.policies import lora, opening

    folders.check_folder(source, made_by)
    if folder.exists() and any(folder.iterdir()):
        raise PolicyError(folder, "is not an empty folder", remedy="give a new folder; nothing was written")
    if not lora.is_adapter(source):
        with files.replacing_folder(folder) as temporary:
            folders.copy_weights(source, temporary)
            _write_setup(temporary, asked, verdict)
        return {"kind": "copied", "policy_sha256": folders.content_hash(folder), "folder": str(folder)}
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
        opening.record(temporary, opening.read_policy(temporary).declared)
        _write_setup(temporary, asked, verdict)
    return merged | {"folder": str(folder)}


def _write_setup(folder: Path, asked: setup.Setup | None, verdict: Mapping[str, str] | None) -> None:
    if asked is not None:
        setup.write_card(folder, asked, verdict)

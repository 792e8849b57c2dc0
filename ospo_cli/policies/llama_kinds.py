"""Which models are plain decoders of Llama's kind: those that sampling has a decoder of its own for."""

from __future__ import annotations

from typing import Any

import torch

from ospo_cli.policies.fused_adapter import bare, is_plain
from ospo_cli.policies.plain_llama import PlainLlama

_KINDS = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPES = ("default", "linear", "llama3")  # others change their angles with the length of the row


def fits(model: Any) -> bool:
    """Tell whether a model is plain layers of a known kind, with or without plain adapters, rotary positions, no sliding window."""
    if isinstance(model, PlainLlama):
        return True
    model = bare(model)
    if type(model).__name__ not in _KINDS or not type(model).__module__.startswith("transformers.models."):
        return False
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    linear = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    return (
        rope.get("rope_type", "default") in _ROPES
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and all(type(module) is torch.nn.Linear or is_plain(module) for module in linear)
    )

"""Section policy."""

from __future__ import annotations

from dataclasses import dataclass

from ospo_cli.params.declare import parameter


@dataclass(frozen=True)
class Policy:
    """The language model."""

    base: str = parameter("config", "config (a new small model from the sizes below) or a pretrained folder in the Hugging Face layout")
    hidden_size: int = parameter(128, "width of the residual stream (base: config)", minimum=8, maximum=8192, when="base: config")
    intermediate_size: int = parameter(
        384, "width of the feed-forward layers (base: config)", minimum=8, maximum=65536, when="base: config"
    )
    layers: int = parameter(3, "transformer layers (base: config)", minimum=1, maximum=200, when="base: config")
    heads: int = parameter(4, "attention heads (base: config)", minimum=1, when="base: config")
    vocabulary_size: int = parameter(
        1024,
        "entries of the byte-level BPE trained on the prepared text (base: config)",
        minimum=300,
        maximum=1_000_000,
        when="base: config",
    )
    lora_rank: int = parameter(0, "rank of the LoRA adapter; 0 trains the full weights", minimum=0, maximum=4096)
    lora_alpha: float = parameter(16.0, "scale of the LoRA adapter", minimum=0, when="lora_rank not 0")
    lora_dropout: float = parameter(0.0, "dropout of the LoRA adapter", minimum=0, maximum=0.9, when="lora_rank not 0")
    load_in_4bit: bool = parameter(False, "QLoRA: the base's weights in 4 bits under the adapter while it trains (package bitsandbytes)")
    threads: int = parameter(1, "threads of torch; changes the last bits of the weights", minimum=1, maximum=1024)

"""The plain Llama decoder without transformers, whose import takes longer than an iteration of a small policy.

Parameters have transformers' names, and each operation is the one that transformers' LlamaForCausalLM does, in its order: log-probabilities
and gradients are equal to the bit. Whatever is not plain (grouped keys, other rotary positions, biases, 16 bits, shards) is left to it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ospo_cli.errors import OspoError
from ospo_cli.tables.files import read_json

WEIGHTS = "model.safetensors"
_CONFIGURATIONS = ("config.json", "generation_config.json")
# What a configuration must say for the code below to be the model.
_PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "dtype": "float32",
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
}
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "max_position_embeddings",
)  # fmt: skip
_OTHERS = (
    "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
    "transformers_version", "use_cache",
)  # fmt: skip


def fits(config: dict[str, Any]) -> bool:
    """Tell whether a model folder's configuration is that of a `PlainLlama`; a setting that is not known here is a reason not to."""
    rope = config.get("rope_parameters")
    return (
        set(config) == {*_PLAIN, *_SIZES, *_OTHERS}
        and all(config[name] == value for name, value in _PLAIN.items())
        and all(type(config[name]) is int and config[name] > 0 for name in _SIZES)
        and config["num_key_value_heads"] == config["num_attention_heads"]
        and isinstance(rope, dict)
        and set(rope) == {"rope_theta", "rope_type"}
        and rope["rope_type"] == "default"
        and config["head_dim"] % 2 == 0
    )


def read(folder: Path) -> PlainLlama | None:
    """Return the model of a folder in evaluation mode; None where transformers is to read it, or to say what is wrong with it."""
    try:
        config = read_json(folder / "config.json")
        if not fits(config) or len(list(folder.glob("model*.safetensors"))) != 1:
            return None
        weights = load_file(folder / WEIGHTS)
    except (OspoError, SafetensorError, OSError):
        return None
    model = PlainLlama(config)
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    if {name: weight.shape for name, weight in weights.items()} != shapes or any(w.dtype != torch.float32 for w in weights.values()):
        return None
    for name, weight in weights.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, nn.Parameter(weight))
    model.tie()
    model.model.rotary_emb = Rotary(config["head_dim"], config["rope_parameters"]["rope_theta"])
    return model.eval()


class Linear(nn.Linear):
    """A linear layer whose weights come from a file: none are drawn."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Embedding(nn.Embedding):
    """An embedding whose weights come from a file: none are drawn."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class Configuration(SimpleNamespace):
    """The settings of config.json as attributes."""

    def get_text_config(self) -> Configuration:
        """Return the settings of the text model: there is no other."""
        return self


class PlainLlama(nn.Module):
    """A Llama decoder and its output embedding, as `read` makes it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = Configuration(**config)
        self.model = Decoder(config)
        self.lm_head = Linear(config["hidden_size"], config["vocab_size"], bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the output embedding the input embedding, where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def get_decoder(self) -> Decoder:
        """Return the part that gives hidden states."""
        return self.model

    def get_output_embeddings(self) -> Linear:
        """Return the layer from hidden states to logits."""
        return self.lm_head

    def forward(self, input_ids: torch.Tensor, **places: Any) -> SimpleNamespace:
        """Return `logits` [rows, width, vocabulary]; arguments as those of `Decoder`."""
        return SimpleNamespace(logits=self.lm_head(self.model(input_ids, **places).last_hidden_state))

    def save(self, source: Path, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights and configuration as transformers does.

        Args:
            source: the folder that the model was read from.
            folder: where to.
            weights: by name, where the model does not hold them whole.
        """
        whole = {name: weight.detach() if weights is None else weights[name] for name, weight in self.named_parameters()}
        save_file({name: weight.cpu().contiguous() for name, weight in whole.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        for name in _CONFIGURATIONS:
            if source != folder and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)


class Decoder(nn.Module):
    """Token embedding, layers and the last norm; `is_recomputed` has the backward pass compute each layer again."""

    rotary_emb: Rotary

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        # With its index the filling token's embedding gets no gradient, which is transformers' way although that token also ends answers.
        self.embed_tokens = Embedding(config["vocab_size"], config["hidden_size"], config["pad_token_id"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Norm(config["hidden_size"], config["rms_norm_eps"])
        self.is_recomputed = False

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        """Return `last_hidden_state` [rows, width, hidden].

        Args:
            input_ids: [rows, width].
            position_ids: [rows, width]; None: 0, 1, … in every row.
            attention_mask: [rows, 1, width, width] bool, True where a token may look; None: at itself and what stands before it.
            use_cache: there is none.
        """
        rows, width = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(width, device=input_ids.device)[None]
        elif attention_mask is None and bool((position_ids.diff(dim=-1) != 1).any()):
            # Filling: transformers then gives a mask in place of the causal kernel, whose sums differ in their last bits.
            attention_mask = torch.ones((width, width), dtype=torch.bool, device=input_ids.device).tril().expand(rows, 1, width, width)
        hidden = self.embed_tokens(input_ids)
        cos, sin = self.rotary_emb(hidden, position_ids)
        places = (cos[:, None], sin[:, None], attention_mask)
        for layer in self.layers:
            if self.is_recomputed and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, *places, use_reentrant=False)
            else:
                hidden = layer(hidden, *places)
        return SimpleNamespace(last_hidden_state=self.norm(hidden))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn = Attention(config["hidden_size"], config["num_attention_heads"], config["head_dim"])
        self.mlp = FeedForward(config["hidden_size"], config["intermediate_size"])
        self.input_layernorm = Norm(config["hidden_size"], config["rms_norm_eps"])
        self.post_attention_layernorm = Norm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin, mask)
        found: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return found


class Attention(nn.Module):
    """Heads with rotary positions."""

    def __init__(self, hidden: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj, self.k_proj, self.v_proj = (Linear(hidden, heads * head_dim, bias=False) for _ in range(3))
        self.o_proj = Linear(heads * head_dim, hidden, bias=False)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        query, key, value = (project(hidden).view(shape).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        query, key = (query * cos) + (_turned(query) * sin), (key * cos) + (_turned(key) * sin)
        is_causal = mask is None and hidden.shape[1] > 1
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=0.0, scale=self.head_dim**-0.5, is_causal=is_causal
        )
        projected: torch.Tensor = self.o_proj(found.transpose(1, 2).reshape(*hidden.shape[:-1], -1))
        return projected


class FeedForward(nn.Module):
    """A gated layer and the way back."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (Linear(hidden, intermediate, bias=False) for _ in range(2))
        self.down_proj = Linear(intermediate, hidden, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))
        return found


class Norm(nn.Module):
    """Division by the root mean square, in float32, and a weight."""

    def __init__(self, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(hidden)), epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        exact = hidden.to(torch.float32)
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * exact.to(hidden.dtype)


class Rotary(nn.Module):
    """Cosines and sines of the rotary positions."""

    frequencies: torch.Tensor

    def __init__(self, head_dim: int, base: float) -> None:
        super().__init__()
        frequencies = 1.0 / (base ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, like: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin [rows, width, head width] in the format of `like`."""
        half = position_ids[..., None].float() * self.frequencies.to(like.device)
        angles = torch.cat((half, half), dim=-1)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _turned(heads: torch.Tensor) -> torch.Tensor:
    half = heads.shape[-1] // 2
    return torch.cat((-heads[..., half:], heads[..., :half]), dim=-1)

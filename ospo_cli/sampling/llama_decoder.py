"""Key/value cache and forward passes of Llama-type models, for sampling: fused and packed weights, no padding mask, common prefix once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from ospo_cli.policies.fused_adapter import bare, merged_weight
from ospo_cli.policies.llama_kinds import fits as fits

Linear = Callable[[torch.Tensor], torch.Tensor]

_BLOCK = 8  # places of a prompt that are read together
# Widths of the attention to earlier places: multiples of 16 from 32 on. Then appended places (of probability 0) change no sum's order.
_LANES, _LEAST = 16, 32


class LlamaDecoder:
    """Decodes rows that may share what they have in common.

    A row's token at position p lies at place p of its cache, whatever else is in the batch: no sum over a row depends on its neighbours'
    lengths. Weights are copied (adapters merged in, fused, packed for the CPU's matrix kernels) when the decoder is made; later training
    is not seen.
    """

    def __init__(self, model: Any) -> None:
        self.model = model = bare(model)
        config = model.config
        self.kv_heads, self.heads = config.num_key_value_heads, config.num_attention_heads
        layers = model.model.layers
        self.head_width = layers[0].self_attn.head_dim
        self.layers = [self._layer(layer) for layer in layers]
        self.norm, self.epsilon = model.model.norm.weight, config.rms_norm_eps
        self.embedding = model.model.embed_tokens.weight
        self.head = linear([model.lm_head])
        self.clear()

    def _layer(self, layer: Any) -> dict[str, Any]:
        attention, mlp = layer.self_attn, layer.mlp
        return {
            "qkv": linear([attention.q_proj, attention.k_proj, attention.v_proj]),
            "out": linear([attention.o_proj]),
            "gate_up": linear([mlp.gate_proj, mlp.up_proj]),
            "down": linear([mlp.down_proj]),
            "act": mlp.act_fn,
            "before": layer.input_layernorm.weight,
            "between": layer.post_attention_layernorm.weight,
            "head_norms": (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None,
        }

    def prefill(
        self, prompts: Sequence[Sequence[int]], pad: int, device: torch.device, max_new_tokens: int, most_rows: int
    ) -> torch.Tensor:
        """Read the prompts, what all begin with once; return the logits [prompts, vocabulary] of the first new token.

        The cache has room for so many new tokens and for most_rows rows, which later `select`s may reach.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = int(lengths.max())
        capacity = _rounded(width + max_new_tokens)
        self.filled = _rounded(width)
        places = torch.arange(capacity, device=device)[None]
        self.cos, self.sin = (table[0, :, None] for table in self.model.model.rotary_emb(self.embedding[:1], places))
        shape = (len(self.layers), 2, max(most_rows, len(prompts)), self.kv_heads, capacity, self.head_width)
        self.cache = torch.empty(shape, dtype=self.embedding.dtype, device=device)
        # Zeros: what is masked is multiplied all the same, and chance contents may be NaN.
        self.cache[:, :, : len(prompts), :, : self.filled] = 0.0
        shared = _common(prompts) // _BLOCK * _BLOCK if len(prompts) > 1 else 0
        if shared:
            self._read(torch.tensor([list(prompts[0][:shared])], device=device), 0)
            self.cache[:, :, 1 : len(prompts), :, :shared] = self.cache[:, :, :1, :, :shared]
        # Filling stands on the right, where no token of the row looks; it is overwritten as the row grows.
        rest = torch.tensor([[*prompt[shared:], *[pad] * (width - len(prompt))] for prompt in prompts], device=device)
        hidden = self._read(rest, shared)
        self.position = lengths - 1
        return self.head(self._norm(hidden[torch.arange(len(prompts), device=device), lengths - 1 - shared], self.norm))

    def select(self, rows: torch.Tensor) -> None:
        """Make row i a copy of row rows[i]; a row that others are copied from may not be overwritten itself."""
        moved = torch.nonzero(rows != torch.arange(len(rows), device=rows.device))[:, 0]
        if len(moved):
            for part in self.cache.view(-1, *self.cache.shape[2:]):
                part[moved, :, : self.filled] = part[rows[moved], :, : self.filled]
        self.position = self.position[rows]

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append one token per row; return the logits [rows, vocabulary] of the next."""
        self.position = self.position + 1
        rows = torch.arange(len(token), device=token.device)
        width = _rounded(int(self.position.max()) + 1)
        if width > self.filled:
            self.cache[:, :, : len(rows), :, self.filled : width] = 0.0
            self.filled = width
        unseen = torch.arange(width, device=token.device)[None] > self.position[:, None]
        mask = torch.zeros(unseen.shape, dtype=self.embedding.dtype, device=token.device).masked_fill_(unseen, float("-inf"))
        mask = mask[:, None, None]
        cos, sin = self.cos[self.position], self.sin[self.position]

        def attend(index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache[index, :, : len(rows)]
            keys[rows, :, self.position], values[rows, :, self.position] = key, value
            query = query.view(len(rows), self.kv_heads, -1, self.head_width) * self.head_width**-0.5
            scores = torch.matmul(query, keys[:, :, :width].transpose(2, 3)).add_(mask)
            return torch.matmul(torch.softmax(scores, -1), values[:, :, :width]).view(len(rows), -1)

        hidden = self._layers(self.embedding[token], cos, sin, attend)
        return self.head(self._norm(hidden, self.norm))

    def clear(self) -> None:
        """Forget the batch."""
        self.cache = self.position = self.cos = self.sin = torch.empty(0)
        self.filled = 0

    def _read(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        """Read tokens [rows, width] at places from `start` on; return the hidden states [rows, width, hidden]."""
        rows, width = ids.shape
        end = start + width
        cos, sin = (table[start:end].repeat(rows, 1, 1) for table in (self.cos, self.sin))

        def attend(index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            keys, values = self.cache[index, :, :rows]
            keys[:, :, start:end], values[:, :, start:end] = (
                part.view(rows, width, self.kv_heads, -1).transpose(1, 2) for part in (key, value)
            )
            query = query.view(rows, width, self.kv_heads, -1, self.head_width).transpose(1, 2) * self.head_width**-0.5
            query = functional.pad(query, (0, 0, 0, 0, 0, -width % _BLOCK))
            found = []
            for first in range(start, end, _BLOCK):
                # A block of places has one shape whatever is read before or after it: the order of its sums is the same.
                block = query[:, :, first - start : first - start + _BLOCK]
                seen = first + _BLOCK
                scores = torch.matmul(block.flatten(2, 3), keys[:, :, :seen].transpose(2, 3)).view(*block.shape[:4], seen)
                ahead = torch.ones((_BLOCK, seen), dtype=torch.bool, device=ids.device).triu(first + 1)
                scores.masked_fill_(ahead[:, None], float("-inf"))
                found.append(torch.matmul(torch.softmax(scores, -1).flatten(2, 3), values[:, :, :seen]).view(block.shape))
            return torch.cat(found, 2)[:, :, :width].transpose(1, 2).reshape(rows * width, -1)

        return self._layers(self.embedding[ids.view(-1)], cos, sin, attend).view(rows, width, -1)

    def _layers(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Return hidden states [tokens, hidden] after all layers; cos and sin are [tokens, 1, head width]."""
        half, turned = self.head_width // 2, self.heads + self.kv_heads
        signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        for index, layer in enumerate(self.layers):
            heads = layer["qkv"](self._norm(hidden, layer["before"])).view(len(hidden), -1, self.head_width)
            both = heads[:, :turned]
            if layer["head_norms"]:
                query, key = layer["head_norms"]
                both = torch.cat([self._norm(both[:, : self.heads], query), self._norm(both[:, self.heads :], key)], 1)
            both = (both * cos).addcmul_(torch.roll(both, half, -1), signed)
            found = attend(index, both[:, : self.heads], both[:, self.heads :], heads[:, turned:])
            hidden = hidden + layer["out"](found)
            gate, up = layer["gate_up"](self._norm(hidden, layer["between"])).chunk(2, -1)
            hidden = hidden + layer["down"](layer["act"](gate).mul_(up))
        return hidden

    def _norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self.epsilon)


def linear(modules: Sequence[torch.nn.Linear]) -> Linear:
    """Return one function for linear layers that read the same input, outputs side by side.

    On a CPU the weights are packed for oneDNN: 1.2 to 3 times faster than a plain product at few rows, where packing at each call costs.
    """
    weight = torch.cat([merged_weight(module) for module in modules])
    biases = [module.bias.detach() for module in modules if module.bias is not None]
    if biases and len(biases) < len(modules):
        biases = [module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias.detach() for module in modules]
    bias = torch.cat(biases) if biases else None
    packs = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and packs:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)

        def product(inputs: torch.Tensor) -> torch.Tensor:
            if len(inputs) == 1:  # has a kernel of its own, whose sums run in another order than those of a row among others
                return product(inputs.expand(2, -1))[:1]
            found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
            return found

        return product
    return lambda inputs: functional.linear(inputs, weight, bias)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many ids all prompts begin with, one less than the shortest at most."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    most = min(len(prompt) for prompt in prompts) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


def _rounded(places: int) -> int:
    return max(_LEAST, -(-places // _LANES) * _LANES)

"""A key/value cache with room for the whole completion: appending a token writes in place."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in buffers [rows, heads, capacity, width].

    transformers' DynamicLayer concatenates at every token, which copies the whole cache: half of the time of a small model.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append; return views of all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, width = key_states.shape[0], key_states.shape[1], key_states.shape[-1]
            self.key_buffer = key_states.new_empty((rows, heads, self.capacity, width))
            self.value_buffer = value_states.new_empty((rows, heads, self.capacity, value_states.shape[-1]))
            self.length = 0
        start: int = self.length
        self.length = start + key_states.shape[-2]
        self.key_buffer[:, :, start : self.length] = key_states
        self.value_buffer[:, :, start : self.length] = value_states
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep (or repeat) rows."""
        self.key_buffer = self.key_buffer.index_select(0, indices)
        self.value_buffer = self.value_buffer.index_select(0, indices)
        self._show()

    def _show(self) -> None:
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]


def roomy_cache(config: Any, capacity: int) -> DynamicCache:
    """Return a cache for a model; layers of another kind than plain attention (sliding windows, state spaces) stay transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache

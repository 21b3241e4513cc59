"""A key-value cache for decoding that grows in place; apart from `decoding` because it needs transformers at import."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


def growing_cache() -> Cache:
    """An empty one, for any number of layers."""
    return Cache(layer_class_to_replicate=GrowingLayer)


class GrowingLayer(CacheLayerMixin):
    """One layer's keys and values in a buffer with room to spare.

    `DynamicCache` copies the whole prefix for every token that is drawn, a fourth of the time of a decoding step.
    """

    is_sliding = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty buffers of the right shape."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._keys, self._values = key_states[:, :, :0], value_states[:, :, :0]
        self._length, self.is_initialized = 0, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends, and gives views of all that is held, both [B, heads, length, size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._length, self._length + key_states.shape[2]
        if end > self._keys.shape[2]:
            self._keys, self._values = (_enlarged(held, start, end) for held in (self._keys, self._values))
        self._keys[:, :, start:end], self._values[:, :, start:end] = key_states, value_states
        self._length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some of the examples."""
        self._keys, self._values = self._keys[indices], self._values[indices]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys a mask for so many queries covers, and from which on."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """How many keys are held."""
        return self._length if self.is_initialized else 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def _enlarged(held: Tensor, filled: int, needed: int) -> Tensor:
    room = held.new_empty(*held.shape[:2], needed + max(needed // 4, 64), held.shape[3])
    room[:, :, :filled] = held[:, :, :filled]
    return room

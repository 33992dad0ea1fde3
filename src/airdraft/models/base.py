"""What a language model is to airdraft: a forward with a cache that can be rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class LanguageModel(Protocol):
    """A causal language model, on the device (draft) or at the edge (target)."""

    name: str
    vocab_size: int
    max_context: int
    """Most positions a sequence may hold."""
    eos_ids: tuple[int, ...]
    """Tokens that end a text."""

    def new_cache(self) -> Any:
        """An empty key-value cache for one sequence. Opaque to everybody but the model."""
        ...

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """Roll `cache` back to its first `keep` positions, feed `tokens`, return the last `rows` rows of logits.

        Row i of the result scores the token that follows `tokens[len(tokens) - rows + i]`.
        Afterwards the cache holds `keep + len(tokens)` positions.

        Returns: float32 [rows, vocab_size]; `rows` may be 0 (a prefill whose logits nobody needs).
        Raises: `ModelError` if `keep` exceeds what the cache holds, `tokens` is empty, `rows > len(tokens)`,
        or the sequence would exceed `max_context`.
        """
        ...

"""What a model is to airdraft: on the device a forward that rolls back, at the edge many of them in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import AirdraftError, ModelError

FloatArray = NDArray[np.float32]


class LanguageModel(Protocol):
    """A causal language model that runs one sequence at a time: the draft on the device."""

    name: str
    vocab_size: int
    max_context: int
    """Most positions a sequence may hold."""
    eos_ids: tuple[int, ...]
    """Tokens that end a text."""

    def new_cache(self) -> Any:
        """An empty key-value cache for one sequence. Opaque to everybody but the model; freed when it is dropped."""
        ...

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """Roll `cache` back to its first `keep` positions, feed `tokens`, return the last `rows` rows of logits.

        Row i of the result scores the token that follows `tokens[len(tokens) - rows + i]`.
        Afterwards the cache holds `keep + len(tokens)` positions.

        Returns: float32 [rows, vocab_size]; `rows` may be 0 (a prefill whose logits nobody needs).
        Raises: `ModelError` if `keep` exceeds what the cache holds, `tokens` is empty, `rows > len(tokens)`,
        or the sequence would exceed `max_context`. The cache is then as it was.
        """
        ...


@dataclass(frozen=True)
class Part:
    """One sequence's share of a call to a `TargetEngine`; the fields are the arguments of `LanguageModel.forward`."""

    cache: Any
    keep: int
    tokens: Sequence[int]
    rows: int


class TargetEngine(Protocol):
    """A causal language model that runs many sequences in one call: the target at the edge."""

    name: str
    vocab_size: int
    max_context: int
    eos_ids: tuple[int, ...]
    top_k: int | None
    """None: rows are whole. A number: they hold log-probabilities of that many of the most likely tokens, and
    -inf for all others."""
    max_rollback: int | None
    """Most positions that `keep` may take back; None: any number."""
    max_batch: int
    """Most parts in one call."""
    max_calls: int
    """Most calls at once, each from a thread of its own."""
    max_caches: int | None
    """Most caches that may exist at once; None: as many as memory holds."""
    max_positions: int | None
    """Most positions that all caches may hold together; None: as many as memory holds."""
    position_bytes: int | None
    """Of the keys and values of one position; None: not known."""

    def new_cache(self) -> Any:
        """See `LanguageModel.new_cache`."""
        ...

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """Run every part, as `LanguageModel.forward` would. No cache occurs twice.

        Returns: for each part its rows, or the error that leaves its cache as it was; one part's error is no other's.
        """
        ...


class OneByOne:
    """A `TargetEngine` over a `LanguageModel`: each call runs one sequence."""

    top_k: int | None = None
    max_rollback: int | None = None
    max_batch = 1
    max_calls = 1
    max_caches: int | None = None
    max_positions: int | None = None
    position_bytes: int | None = None

    def __init__(self, model: LanguageModel) -> None:
        self.name = model.name
        self.vocab_size = model.vocab_size
        self.max_context = model.max_context
        self.eos_ids = model.eos_ids
        self.new_cache = model.new_cache
        self._model = model

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        found: list[FloatArray | AirdraftError] = []
        for part in batch:
            try:
                found.append(self._model.forward(part.cache, part.keep, part.tokens, part.rows))
            except AirdraftError as error:
                found.append(error.with_traceback(None))  # which would hold on to the cache
        return found


def check(model: LanguageModel | TargetEngine, held: int, keep: int, tokens: Sequence[int], rows: int) -> None:
    """What every engine refuses. `held`: positions in the cache. Raises: `ModelError`, see `LanguageModel.forward`."""
    n = len(tokens)
    if not 0 <= keep <= held:
        raise ModelError(f"cannot keep {keep} positions of a cache of {held}; feed the tokens again")
    if n == 0:
        raise ModelError("a forward needs at least one token; feed the last one again with keep one less")
    if not 0 <= rows <= n:
        raise ModelError(f"{n} tokens give 0 to {n} rows, not {rows}; ask for fewer or feed more tokens")
    if keep + n > model.max_context:
        raise ModelError(
            f"{keep + n} positions exceed the {model.max_context} of {model.name}; shorten the prompt or the answer"
        )
    # A negative id would wrap around in an embedding and score another token without a word.
    if min(tokens) < 0 or max(tokens) >= model.vocab_size:
        raise ModelError(f"a token id is outside 0 to {model.vocab_size - 1}; use the tokenizer of {model.name}")

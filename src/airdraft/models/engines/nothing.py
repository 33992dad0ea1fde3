"""The draft of a device without a draft model: it holds no position, so the target writes every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from airdraft.errors import ModelError

NONE = "none"
"""The name of this draft."""


class NoDraft:
    """A `LanguageModel` whose context has no room for a token. Nobody runs it."""

    name = NONE
    max_context = 0
    eos_ids: tuple[int, ...] = ()

    def __init__(self, vocab_size: int) -> None:
        """`vocab_size`: of the tokenizer that is there all the same."""
        self.vocab_size = vocab_size

    def new_cache(self) -> None:
        """Nothing to hold."""

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> NoReturn:
        """Raises: `ModelError`, always."""
        raise ModelError("there is no draft model to run; name one, --draft MODEL")

"""The target that an edge serves, and the limits of one connection."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.connection import HEARTBEAT_S
from airdraft.core.messages import MAX_FRAME
from airdraft.core.sampling import SamplingParams
from airdraft.errors import BadParameterError


@dataclass(frozen=True)
class Target:
    """The model that an edge serves."""

    software: str
    model: str
    tokenizer: bytes
    vocab_size: int
    max_context: int
    eos_ids: tuple[int, ...]
    top_k: int | None = None
    """Number of most likely tokens that its rows hold; None: all."""
    digest: bytes = b""
    """As `target` in `Welcome`."""
    exactness: tuple[float | None, ...] = ()
    """As in `Welcome`."""
    trees: bool = False
    """Whether its forwards may have `parents` and `picks`."""
    doubt: float = 0.0
    """Nats by which rounding may move scores apart on another branch of a tree than the first."""
    private: bool = False
    """As in `Welcome`."""
    guides: str = ""
    """As in `Welcome`."""

    def check(self, params: SamplingParams, logprobs: int | None = None) -> None:
        """Check that texts with these parameters can be exact under any scheme, and that `logprobs` are available.

        A row without the unlikely tokens fully determines a distribution cut to fewer tokens. It does not determine any
        other, whose sum is unknown. Raises: `BadParameterError`.
        """
        if self.top_k is not None and (logprobs or 0) > self.top_k:
            raise BadParameterError(
                f"logprobs is {logprobs}, and the engine of {self.model} gives only its {self.top_k} most likely "
                f"tokens; ask for at most {self.top_k}",
                field="logprobs",
            )
        if self.top_k is not None and params.temperature != 0 and not 1 <= params.top_k <= self.top_k:
            raise BadParameterError(
                f"top-k is {params.top_k}, and the engine of {self.model} gives only its {self.top_k} most likely "
                f"tokens, so the text would not be exact; give top-k 1 to {self.top_k}, or temperature 0",
                field="top_k",
            )


@dataclass(frozen=True)
class Limits:
    """The limits of one connection."""

    max_frame: int = MAX_FRAME
    max_draft: int = 32
    max_sessions: int = 16
    heartbeat_s: float = HEARTBEAT_S

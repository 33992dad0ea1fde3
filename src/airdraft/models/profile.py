"""Compute profiles: a small model made as slow as a large one on real hardware, so that timing means something."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import Brancher, Copier, FloatArray, LanguageModel, Part, TargetEngine, info_of

EDGE_DRAFT = 0.1
"""Time of a forward of an edge's own draft model, as a share of its target's: an assumption."""


@dataclass(frozen=True)
class Profile:
    """How long forwards take on the hardware it imitates, in seconds; 0 leaves a model at its own speed."""

    draft_s: float
    target_s: float
    description: str

    @property
    def edge_draft_s(self) -> float:
        """A forward of the edge's own draft model, if it has one."""
        return EDGE_DRAFT * self.target_s


PROFILES = {
    "none": Profile(0.0, 0.0, "both models at their own speed"),
    "phone-8b": Profile(0.015, 0.030, "a phone that drafts a token in 15 ms, an edge that verifies with 8B in 30 ms"),
    "laptop-8b": Profile(0.005, 0.030, "a laptop that drafts a token in 5 ms, an edge that verifies with 8B in 30 ms"),
    "phone-70b": Profile(0.010, 0.060, "a phone that drafts a token in 10 ms, an edge that verifies with 70B in 60 ms"),
}


def profile(name: str) -> Profile:
    """The profile called `name`. Raises `ModelError` if there is none."""
    try:
        return PROFILES[name]
    except KeyError:
        raise ModelError(f"no profile {name!r}; there are {', '.join(PROFILES)}") from None


class Paced:
    """A `LanguageModel` whose forwards each take at least `seconds`, whatever they feed. It blocks its thread."""

    def __init__(self, model: LanguageModel, seconds: float) -> None:
        """Raises `ModelError` if `seconds` is negative or no number."""
        self.name = model.name
        self.vocab_size = model.vocab_size
        self.max_context = model.max_context
        self.eos_ids = model.eos_ids
        self.new_cache = model.new_cache
        if isinstance(model, Copier):
            self.copy = model.copy
        self._model = model
        self._seconds = _pace(seconds)
        self.trees = isinstance(model, Brancher) and model.trees
        self.info = info_of(model)

    def branch(self, part: Part) -> FloatArray:
        """See `Brancher.branch`, and `forward`."""
        deadline = time.perf_counter() + self._seconds
        logits: FloatArray = self._model.branch(part)  # type: ignore[attr-defined]
        _sleep_until(deadline)
        return logits

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. Returns no earlier than the pace allows; an error comes at once."""
        deadline = time.perf_counter() + self._seconds
        logits = self._model.forward(cache, keep, tokens, rows)
        _sleep_until(deadline)
        return logits


class PacedEngine:
    """A `TargetEngine` whose calls each take at least `seconds`, whatever is in the batch: on the hardware imitated
    a batch of a few texts costs about as much as one of them.
    """

    def __init__(self, engine: TargetEngine, seconds: float) -> None:
        """Raises `ModelError` if `seconds` is negative or no number."""
        self.info = engine.info
        self.new_cache = engine.new_cache
        if isinstance(engine, Copier):
            self.copy = engine.copy
        self._engine = engine
        self._seconds = _pace(seconds)

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        deadline = time.perf_counter() + self._seconds
        found = self._engine.verify(batch)
        _sleep_until(deadline)
        return found


def _pace(seconds: float) -> float:
    if not 0 <= seconds < float("inf"):
        raise ModelError(f"a forward cannot take {seconds} s; give 0 or more seconds")
    return seconds


def _sleep_until(deadline: float) -> None:
    while (left := deadline - time.perf_counter()) > 0:  # a sleep may end early by the clock it is measured with
        time.sleep(left)

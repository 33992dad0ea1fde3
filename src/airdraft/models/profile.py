"""Compute profiles: a small model made as slow as a large one on real hardware, so that timing means something."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, LanguageModel


@dataclass(frozen=True)
class Profile:
    """How long forwards take on the hardware it imitates, in seconds; 0 leaves a model at its own speed."""

    draft_s: float
    target_s: float
    description: str


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
    """A `LanguageModel` whose forwards each take at least `seconds_per_forward`, whatever they feed.

    It blocks its thread, as a forward does. Forwards in several threads run side by side, each at its own pace:
    on the hardware imitated they would share one batch, which costs about one forward.
    """

    def __init__(self, model: LanguageModel, seconds_per_forward: float) -> None:
        """Raises `ModelError` if `seconds_per_forward` is negative or no number."""
        if not 0 <= seconds_per_forward < float("inf"):
            raise ModelError(f"a forward cannot take {seconds_per_forward} s; give 0 or more seconds")
        self.name = model.name
        self.vocab_size = model.vocab_size
        self.max_context = model.max_context
        self.eos_ids = model.eos_ids
        self._model = model
        self._seconds = seconds_per_forward

    def new_cache(self) -> Any:
        """An empty cache of the model itself."""
        return self._model.new_cache()

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. Returns no earlier than the pace allows; an error comes at once."""
        deadline = time.perf_counter() + self._seconds
        logits = self._model.forward(cache, keep, tokens, rows)
        while (left := deadline - time.perf_counter()) > 0:  # a sleep may end early by the clock it is measured with
            time.sleep(left)
        return logits

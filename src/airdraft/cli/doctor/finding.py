"""What `airdraft doctor` looks at, what it knows so far, and what it finds."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from airdraft import local
from airdraft.core.messages import Welcome
from airdraft.core.sampling import SamplingParams
from airdraft.device.probe import Probe
from airdraft.models.base import LanguageModel
from airdraft.models.fit import Fit
from airdraft.models.text import Tokenizer

OK, LOOK, BAD, SKIPPED = "ok", "look", "bad", "skipped"
"""Verdicts: all is well; it works, and might be better; it does not work; it could not be looked at."""
VERIFIED = 5
"""Rows of a verification that is timed."""
HELD, WARM, TIMED = 64, 3, 15
"""Positions before forwards that are timed, and the forwards before those, and those."""
TOKENS, TEXTS_S = 48, 20.0
"""Most tokens of a text, and the time after which no other is begun."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    verdict: str
    says: str
    remedy: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    draft: str
    draft_engine: str | None
    target: str | None
    """None: the edge's own, which is asked there."""
    engine: str | None
    edge: str | None
    token: str | None
    trust: ssl.SSLContext | None
    link: local.Link | None
    """The user's own link, if given."""
    prompts: Callable[[Tokenizer], list[list[int]]]
    params: SamplingParams
    seed: int
    fit: Fit
    """What is asked of the engine that runs the target here."""
    draft_fit: Fit


@dataclass(frozen=True)
class Visit:
    """What an edge told and wrote."""

    welcome: Welcome
    probe: Probe
    texts: list[list[int]]


@dataclass
class Known:
    """What earlier checks leave for later ones."""

    tokenizer: Tokenizer
    fits: bool = True
    visit: Visit | None = None
    draft: LanguageModel | None = None
    target: LanguageModel | None = None
    draft_s: float | None = None
    one_s: float | None = None
    """A target forward for one token."""
    verify_s: float | None = None
    """The same for `VERIFIED`."""
    acceptance: float | None = None


def forward_s(model: LanguageModel, width: int = 1) -> float:
    """Median seconds of a forward for `width` tokens and their rows, some tokens into a text."""
    cache, held = model.new_cache(), min(HELD, model.max_context - width)
    model.forward(cache, 0, [0] * held, 0)
    seconds = []
    for _ in range(WARM + TIMED):
        began_s = time.perf_counter()
        model.forward(cache, held, [0] * width, width)
        seconds.append(time.perf_counter() - began_s)
    return median(seconds[WARM:])


def finite(value: float) -> float | None:
    """Return a value for JSON, which has no infinity: None."""
    return value if math.isfinite(value) else None

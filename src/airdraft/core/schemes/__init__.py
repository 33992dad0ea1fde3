"""The schemes by name. One protocol, one row each."""

from __future__ import annotations

from collections.abc import Callable

from airdraft.core.messages import SchemeSpec
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes.base import Context, Drafted, Ruling, Scheme
from airdraft.core.schemes.coupled import Coupled, Server, Stream
from airdraft.core.schemes.dense import Dense
from airdraft.core.schemes.split import Split
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError

SCHEMES: dict[str, Callable[[Context], Scheme]] = {
    "server": Server,
    "dense": Dense,
    "topk": TopK,
    "split": Split,
    "coupled": Coupled,
    "stream": Stream,
}

RACES = ("off", "idle", "always")

DEVICE, EDGE = 1, 2
"""The two sides, which draw from independent streams of one seed."""


def make(spec: SchemeSpec, params: SamplingParams, seed: int, vocab_size: int, side: int) -> Scheme:
    """A scheme for one session on one side, `DEVICE` or `EDGE`.

    Raises: `BadParameterError` naming an unknown scheme or an option out of range.
    """
    if spec.name not in SCHEMES:
        raise BadParameterError(f"scheme {spec.name!r} is unknown; choose one of {', '.join(SCHEMES)}", field="scheme")
    if not 1 <= spec.k < 1 << 63:
        raise BadParameterError(
            f"k is {spec.k}; give the number of tokens to transmit, at least 1, below 2^63", field="k"
        )
    if not 1 <= spec.bits <= 24:
        raise BadParameterError(f"bits is {spec.bits}; give 1 to 24 bits a probability", field="bits")
    if spec.downlink not in ("row", "candidates"):
        raise BadParameterError(f"downlink is {spec.downlink!r}; choose row or candidates", field="downlink")
    if spec.race not in RACES:
        raise BadParameterError(f"race is {spec.race!r}; choose one of {', '.join(RACES)}", field="race")
    return SCHEMES[spec.name](Context(spec, params, seed, vocab_size, side))


__all__ = ["DEVICE", "EDGE", "RACES", "SCHEMES", "Context", "Drafted", "Ruling", "Scheme", "make"]

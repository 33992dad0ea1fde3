"""What a policy is told, and what it decides: the facts of a session, the bytes of a scheme, and a mode."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from airdraft.core import schemes
from airdraft.core.messages import Draft, SchemeSpec, Tokens, Verdict, encode
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes.base import Drafted
from airdraft.errors import BadParameterError

WEBSOCKET_UP_BYTES, WEBSOCKET_DOWN_BYTES = 6, 2
"""Header of a short WebSocket message (RFC 6455 §5.2); a client's is masked."""

MOST_VOCAB = 1 << 22
"""Far above any model's: the largest have some 260,000 tokens."""

# A session like any other: some hundred tokens in, with a digest that takes its full five bytes.
_SESSION, _SEQ, _POSITION, _DIGEST, _COUNT = 1, 200, 600, 0xFFFFFFFF, 4


@dataclass(frozen=True)
class Facts:
    """What is known, or assumed, about one session."""

    draft_s: float
    """A forward of the draft model, in seconds, above 0."""
    verify_s: float
    """A forward of the target, for one token or a few drafts alike, above 0."""
    rtt_s: float
    """Round trip of an empty packet; half of it is spent in each direction."""
    uplink_bps: float
    """Device to edge, bits a second; inf for no limit."""
    downlink_bps: float
    """Edge to device."""
    acceptance: float
    """α, the chance that a drafted token which is judged is accepted; taken as the same and independent for all."""
    streamed: float | None = None
    """Tokens that a forward of the target gave lately while drafts were streamed and the edge raced: 1 if they were in
    vain. None: not known."""

    def __post_init__(self) -> None:
        for name in ("draft_s", "verify_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # NaN lands here too
                raise BadParameterError(f"{name} is {value:g}; give a finite time above 0 s")
        if not 0 <= self.rtt_s < math.inf:
            raise BadParameterError(f"rtt_s is {self.rtt_s:g}; give a finite round trip of 0 s or more")
        for name in ("uplink_bps", "downlink_bps"):
            value = getattr(self, name)
            if not value > 0:
                raise BadParameterError(f"{name} is {value:g}; give a rate above 0 in bits a second, or inf")
        if not 0 <= self.acceptance <= 1:
            raise BadParameterError(f"acceptance is {self.acceptance:g}; give a probability, 0 to 1")

    def rounded(self) -> Facts:
        """What predictions rest on, to two digits, acceptance to 0.02: near enough, and what was predicted once may
        serve again."""
        return Facts(
            draft_s=_two_digits(self.draft_s),
            verify_s=_two_digits(self.verify_s),
            rtt_s=_two_digits(self.rtt_s),
            uplink_bps=_two_digits(self.uplink_bps),
            downlink_bps=_two_digits(self.downlink_bps),
            acceptance=round(50 * self.acceptance) / 50,
        )


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


@dataclass(frozen=True)
class Wire:
    """What a scheme puts on the link."""

    scheme: str
    packet_bytes: int
    """Uplink cost of a packet of drafts apart from the drafts: every header, and our frame."""
    draft_bits: int
    """What each draft adds."""
    answer_bytes: int
    """Downlink cost of what answers a packet (rounds), or tells what a forward committed (`stream`, `server`)."""
    reject_bytes: int = 0
    """What a rejection adds to the answer (`split`)."""

    def packet_bits(self, drafts: int) -> int:
        """Uplink bits of a packet of so many drafts; the body is padded to a byte."""
        return 8 * (self.packet_bytes + math.ceil(self.draft_bits * drafts / 8))

    @property
    def answer_bits(self) -> int:
        """Downlink bits of an answer without a rejection."""
        return 8 * self.answer_bytes


@dataclass(frozen=True)
class Mode:
    """What is to be done. `server` needs no more than its name."""

    scheme: str
    length: int = 0
    """Rounds: tokens drafted before the edge is asked (γ). `stream`: the window, how many tokens beyond the committed
    length it knows of the device may draft. 0: not decided yet."""
    race: str = "always"
    """`stream`: whether the edge decodes a token itself while no draft is at hand: `off`, `idle` or `always`."""
    first: int = 1
    """`stream`: tokens in the first packet after a mismatch."""
    then: int = 1
    """`stream`: tokens in each packet that follows."""

    def __post_init__(self) -> None:
        if self.length < 0:
            raise BadParameterError(f"the draft length of {self.scheme} is {self.length}; give 0 or more")
        if self.race not in schemes.RACES:
            raise BadParameterError(f"race is {self.race!r}; choose one of {', '.join(schemes.RACES)}")
        if min(self.first, self.then) < 1:
            raise BadParameterError(f"packets of {self.first} and {self.then} tokens; give at least 1 each")

    def __str__(self) -> str:
        if self.scheme == "server":
            return "server"
        if self.scheme != "stream":
            return f"{self.scheme}, draft length {self.length}"
        return f"stream, race {self.race}, window {self.length}, packets of {self.first} then {self.then}"


@functools.lru_cache(maxsize=64)
def wire(scheme: str, vocab_size: int, k: int = 64, bits: int = 16, header_bytes: int = 40) -> Wire:
    """What `scheme` puts on the link, measured by encoding messages as a session sends them.

    Args:
        vocab_size: V, shared by draft and target model.
        k, bits: of `topk` and `split`, as in `SchemeSpec`. `split` sends the target's whole row, without truncation.
        header_bytes: below the WebSocket, a packet: 40 for TCP over IPv4, 0 to count as the programs do. Counted once,
            also where a dense row is cut into many segments.
    Raises: `BadParameterError` naming an unknown scheme or a number out of range.
    """
    if not 2 <= vocab_size <= MOST_VOCAB:  # rows of it are made here
        raise BadParameterError(f"vocab-size is {vocab_size}; give the number of tokens, 2 to {MOST_VOCAB}")
    if header_bytes < 0:
        raise BadParameterError(f"header-bytes is {header_bytes}; give 0 or more")
    rounds = scheme not in ("server", "stream")
    # Without rounds the body is that of `coupled`.
    spec = SchemeSpec(scheme if rounds else "coupled", k, bits)
    made = schemes.make(spec, SamplingParams(), 0, vocab_size, schemes.EDGE)
    draft = Draft(_SESSION, _SEQ, _POSITION, _POSITION, _DIGEST, _COUNT, b"")
    answer = (
        Verdict(_SESSION, _SEQ, _COUNT, vocab_size - 1, _POSITION, _DIGEST)
        if rounds
        else Tokens(_SESSION, _POSITION, (vocab_size - 1,), _DIGEST)
    )
    answer_bytes = len(encode(answer))
    reject_bytes = 0
    if scheme == "split":
        logits = np.zeros((2, vocab_size))
        logits[0, 0] = -np.inf  # the draft below cannot be accepted
        ruling = made.verify([Drafted(0, np.array([0]), np.array([1]), 1.0)], logits, 0)
        verdict = Verdict(_SESSION, _SEQ, ruling.accepted, ruling.token, _POSITION, _DIGEST, ruling.extra)
        reject_bytes = len(encode(verdict)) - answer_bytes
    return Wire(
        scheme,
        len(encode(draft)) + WEBSOCKET_UP_BYTES + header_bytes,
        made.draft_bits,
        answer_bytes + WEBSOCKET_DOWN_BYTES + header_bytes,
        reject_bytes,
    )

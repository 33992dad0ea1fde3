"""The bytes that a scheme puts on the link."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from airdraft.core import schemes
from airdraft.core.law import Law, Place
from airdraft.core.messages import Draft, SchemeSpec, Tokens, Verdict, encode
from airdraft.core.sampling import SamplingParams
from airdraft.core.schemes import Drafted, Drafts
from airdraft.errors import BadParameterError

WEBSOCKET_UP_BYTES, WEBSOCKET_DOWN_BYTES = 6, 2
"""Size of a short WebSocket message's header (RFC 6455 §5.2). A client's is masked."""

MOST_VOCAB = 1 << 22
"""Size of the largest vocabulary allowed. The largest models have about 260,000 tokens."""

# A typical session, some hundred tokens in, with a digest of the full five bytes.
_SESSION, _SEQ, _POSITION, _DIGEST, _COUNT = 1, 200, 600, 0xFFFFFFFF, 4


@dataclass(frozen=True)
class Wire:
    """The cost of a scheme's messages on the link."""

    scheme: str
    packet_bytes: int
    """Uplink cost of a packet of drafts without the drafts: all headers and our frame."""
    draft_bits: int
    """Bits that each draft adds."""
    answer_bytes: int
    """Downlink cost of the message that answers a packet (rounds) or reports a commit (without rounds)."""
    reject_bytes: int = 0
    """Bytes that a rejection adds to the answer (`split`)."""

    @property
    def traits(self) -> schemes.Traits:
        """The scheme's traits. Raises: `BadParameterError` if the scheme is unknown."""
        return schemes.traits(self.scheme)

    def packet_bits(self, drafts: int) -> int:
        """Return the uplink bits of a packet of `drafts`. The body is padded to a byte."""
        return 8 * (self.packet_bytes + math.ceil(self.draft_bits * drafts / 8))

    @property
    def answer_bits(self) -> int:
        """Downlink bits of an answer without a rejection."""
        return 8 * self.answer_bytes


def wire(
    scheme: str, vocab_size: int, k: int = 64, bits: int = 16, header_bytes: int = 40, resolution: int = 240
) -> Wire:
    """Measure the bytes of `scheme`, as `wire_of` does, with these options of `topk`, `lattice` and `split`."""
    return wire_of(SchemeSpec(scheme, k, bits, resolution=resolution), vocab_size, header_bytes)


@functools.lru_cache(maxsize=64)
def wire_of(spec: SchemeSpec, vocab_size: int, header_bytes: int = 40) -> Wire:
    """Measure the bytes of a scheme on the link, by encoding messages as a session sends them.

    Args:
        spec: the scheme and its options. Of a distribution that is cut, the most is counted. `split` sends the
            target's whole row.
        vocab_size: V, shared by draft and target model.
        header_bytes: headers of a packet below the WebSocket: 40 for TCP over IPv4, 0 to count as the programs do. They
            count once, even if a dense row takes many segments.
    Raises: `BadParameterError` for an unknown scheme or a number out of range.
    """
    if not 2 <= vocab_size <= MOST_VOCAB:  # rows of this size are made here
        raise BadParameterError(f"vocab-size is {vocab_size}; give the number of tokens, 2 to {MOST_VOCAB}")
    if header_bytes < 0:
        raise BadParameterError(f"header-bytes is {header_bytes}; give 0 or more")
    traits = schemes.traits(spec.name)
    made = schemes.make(spec, Law(SamplingParams(), 0, vocab_size), schemes.EDGE)
    draft = Draft(_SESSION, _SEQ, _POSITION, _POSITION, _DIGEST, _COUNT, b"")
    answer = (
        Verdict(_SESSION, _SEQ, _COUNT, vocab_size - 1, _POSITION, _DIGEST)
        if traits.rounds
        else Tokens(_SESSION, _POSITION, (vocab_size - 1,), _DIGEST)
    )
    answer_bytes = len(encode(answer))
    reject_bytes = 0
    if traits.recovers_on == schemes.DEVICE:
        logits = np.zeros((2, vocab_size))
        logits[0, 0] = -np.inf  # the draft below cannot be accepted
        ruling = made.verify(Drafts((Drafted(0, np.array([0]), np.array([1]), 1.0),)), logits, Place(0))
        verdict = Verdict(_SESSION, _SEQ, ruling.accepted, ruling.token, _POSITION, _DIGEST, ruling.extra)
        reject_bytes = len(encode(verdict)) - answer_bytes
    return Wire(
        spec.name,
        len(encode(draft)) + WEBSOCKET_UP_BYTES + header_bytes,
        made.draft_bits,
        answer_bytes + WEBSOCKET_DOWN_BYTES + header_bytes,
        reject_bytes,
    )

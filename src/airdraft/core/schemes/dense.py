"""`dense`: the device sends the whole draft distribution in half precision. The textbook baseline (DSD)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter
from airdraft.core.law import Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.schemes.base import EDGE, Context, Drafted, Drafts, Traits
from airdraft.core.schemes.rejection import Rejection, check_verify
from airdraft.errors import Code, RemoteProtocolError

_LARGEST = 0x7BFF
"""The bits of the largest finite number in half precision. Those of infinity, NaN and negative numbers are larger."""


class Dense(Rejection):
    """Body: the ids, `id_width` bits each; then V weights of 16 bits (IEEE 754 half precision) for each draft."""

    traits: ClassVar = Traits(
        rounds=True, drafts=True, exact="distribution", recovers_on=EDGE, takes_ids=False, races=False, published=True,
        options=("verify",),
    )  # fmt: skip

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.draft_bits = self._id_width + 16 * self._vocab_size

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_verify(spec)

    def quantise(self, probs: FloatArray, at: Place) -> tuple[IntArray, FloatArray]:
        """Round to half precision. Tokens that underflow are neither sent nor drawn; the rest is renormalised."""
        return np.arange(self._vocab_size), probs.astype(np.float16).astype(np.float64)

    def pack(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        out = BitWriter()
        out.write(drafts.tokens, self._id_width)
        for draft in drafts.said:
            out.write(draft.row()[1].astype(np.float16).view(np.uint16), 16)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        data = BitReader(body)
        tokens = data.read(count, self._id_width)
        rows = data.read(count * self._vocab_size, 16, np.uint16).reshape(count, self._vocab_size)
        data.finish()
        ids = np.arange(self._vocab_size)
        said = []
        for token, row in zip(tokens.tolist(), rows, strict=True):
            if token >= self._vocab_size or row.max() > _LARGEST:
                raise RemoteProtocolError(Code.GARBAGE, "a draft names no token, or its row holds no probabilities")
            if row[token] == 0:
                raise RemoteProtocolError(Code.GARBAGE, f"token {token} was drafted at probability 0")
            weights = row.view(np.float16)
            said.append(Drafted(token, ids, weights, float(weights.astype(np.float64).sum())))
        return Drafts(tuple(said))

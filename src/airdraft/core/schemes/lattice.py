"""`lattice`: the draft distribution as one number, a point of a lattice (Quantize-and-Sample, and its sparse form SQS).

The draft distribution is cut to its K most likely tokens, renormalised, rounded to integers that sum to `resolution`,
and only then sampled: the edge knows the exact distribution of the token, so rejection sampling with it is exact. With
K no less than the vocabulary nothing is cut. Both the set of tokens and their weights are sent by enumeration, in the
fewest bits that a code of one length can have (arXiv 2507.00605; 2510.09942).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, id_width
from airdraft.core.counting import log2_comb, members, rank, rank_weights, weights_of, width
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes.base import Context, Drafted, Drafts, check_k
from airdraft.core.schemes.rejection import check_verify
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError, Code, RemoteProtocolError

MOST_RESOLUTION = 1024
"""Largest sum of the weights."""
MOST_BITS = 3072
"""Most bits of one draft's distribution. Numbers of this length take some 5 ms to decode, longer ones far more."""

BODY_BITS = 1 << 15
"""Most bits of a body, which take some 50 ms to decode: 11 drafts at V 4,096 and resolution 720, 24 at 240."""


class Lattice(TopK):
    """Body, bit-packed: for each draft the number of its set of K ids, the number of their weights in
    ⌈log2 C(V, K)⌉ and ⌈log2 C(resolution + K - 1, K - 1)⌉ bits, and the drafted token's index among the ids."""

    traits: ClassVar = replace(TopK.traits, options=("k", "resolution", "verify"), body_bits=BODY_BITS)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        vocab_size, k, total = self._vocab_size, self._k, context.spec.resolution
        # An estimate first: the exact numbers could be gigantic.
        if log2_comb(vocab_size, k) + log2_comb(total + k - 1, total) > MOST_BITS:
            raise BadParameterError(
                f"k {k} and resolution {total} make a draft of more than {MOST_BITS} bits with {vocab_size} tokens; "
                "give a smaller k or resolution",
                field="k",
            )
        self._total = total
        self._sets, self._points = math.comb(vocab_size, k), math.comb(total + k - 1, total)
        self._widths = width(self._sets), width(self._points), id_width(k)
        self.draft_bits = sum(self._widths)

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_k(spec)
        check_verify(spec)
        if not 1 <= spec.resolution <= MOST_RESOLUTION:
            raise BadParameterError(
                f"resolution is {spec.resolution}; give the sum of the integer weights, 1 to {MOST_RESOLUTION}",
                field="resolution",
            )

    def pack(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        out = BitWriter()
        for draft in drafts.said:
            ids, weights = draft.row()
            index = int(np.searchsorted(ids, draft.token))
            for number, bits in zip((rank(ids), rank_weights(weights), index), self._widths, strict=True):
                out.write_long(number, bits)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        data, said = BitReader(body), []
        for _ in range(count):
            chosen, point, index = (int(data.read(1, bits, object)[0]) for bits in self._widths)
            if chosen >= self._sets or point >= self._points or index >= self._k:
                raise RemoteProtocolError(Code.GARBAGE, "a draft's distribution is beyond the last of the lattice")
            ids = members(chosen, self._vocab_size, self._k)
            weights = weights_of(point, self._k, self._total)
            if not weights[index]:
                raise RemoteProtocolError(Code.GARBAGE, f"token {ids[index]} was drafted at probability 0")
            said.append(Drafted(int(ids[index]), ids, weights, float(self._total)))
        data.finish()
        return Drafts(tuple(said))

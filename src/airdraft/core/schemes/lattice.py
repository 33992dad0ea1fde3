"""`lattice`: the draft distribution as one number, a point of a lattice (Quantize-and-Sample, and its sparse form SQS).

The draft distribution is cut to its K most likely tokens, renormalised, rounded to integers that sum to `resolution`,
and only then sampled: the edge knows the exact distribution of the token, so rejection sampling with it is exact. With
K no less than the vocabulary nothing is cut. Both the set of tokens and their weights are sent by enumeration, in the
fewest bits that a code of one length can have (arXiv 2507.00605; 2510.09942). With `cut` `conformal`, K is chosen for
each draft by online conformal prediction (C-SQS, 2510.09942).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, id_width
from airdraft.core.counting import log2_comb, members, rank, rank_weights, weights_of, width
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes.base import Context, Drafted, Drafts, check_k
from airdraft.core.schemes.cuts import check_cut
from airdraft.core.schemes.rejection import check_verify
from airdraft.core.schemes.topk import TopK
from airdraft.errors import BadParameterError, Code, RemoteProtocolError

MOST_RESOLUTION = 1024
"""Largest sum of the weights."""
MOST_BITS = 3072
"""Most bits of one draft's distribution. Numbers of this length take some 5 ms to decode, longer ones far more."""

BODY_BITS = 1 << 15
"""Most bits of a body, which take some 50 ms to decode: 11 drafts at V 4,096 and resolution 720, 24 at 240."""


@dataclass(frozen=True)
class _Counts:
    """How many distributions of K tokens there are."""

    sets: int
    """Of their ids."""
    points: int
    """Of their weights."""
    widths: tuple[int, int, int]
    """Bits of a set's number, of a point's, and of the index of one of the tokens."""


class Lattice(TopK):
    """Body, bit-packed: for each draft, if a cut leaves fewer than k tokens, their number less one; the number of its
    set of K ids, the number of their weights in ⌈log2 C(V, K)⌉ and ⌈log2 C(resolution + K - 1, K - 1)⌉ bits; and the
    drafted token's index among the ids."""

    traits: ClassVar = replace(TopK.traits, options=("k", "resolution", "verify", "mass", "cut"), body_bits=BODY_BITS)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        vocab_size, k, total = self._vocab_size, self._k, context.spec.resolution
        widest = min(k, max(1, vocab_size // 2)) if self._cut else k  # the set of ids that takes most bits
        # An estimate first: the exact numbers could be gigantic.
        if log2_comb(vocab_size, widest) + log2_comb(total + k - 1, total) > MOST_BITS:
            raise BadParameterError(
                f"k {k} and resolution {total} make a draft of more than {MOST_BITS} bits with {vocab_size} tokens; "
                "give a smaller k or resolution",
                field="k",
            )
        self._total, self._known = total, dict[int, _Counts]()
        self.draft_bits = self._size_width + self._counts(widest).widths[0] + sum(self._counts(k).widths[1:])

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_k(spec)
        check_verify(spec)
        check_cut(spec)
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
            numbers = rank(ids), rank_weights(weights), int(np.searchsorted(ids, draft.token))
            if self._cut:
                out.write([ids.size - 1], self._size_width)
            for number, bits in zip(numbers, self._counts(ids.size).widths, strict=True):
                out.write_long(number, bits)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        data, said = BitReader(body), []
        for _ in range(count):
            k = 1 + int(data.read(1, self._size_width)[0]) if self._cut else self._k
            if k > self._k:
                raise RemoteProtocolError(Code.GARBAGE, f"a draft's distribution has {k} tokens, more than {self._k}")
            counts = self._counts(k)
            chosen, point, index = (int(data.read(1, bits, object)[0]) for bits in counts.widths)
            if chosen >= counts.sets or point >= counts.points or index >= k:
                raise RemoteProtocolError(Code.GARBAGE, "a draft's distribution is beyond the last of the lattice")
            ids = members(chosen, self._vocab_size, k)
            weights = weights_of(point, k, self._total)
            if not weights[index]:
                raise RemoteProtocolError(Code.GARBAGE, f"token {ids[index]} was drafted at probability 0")
            said.append(Drafted(int(ids[index]), ids, weights, float(self._total)))
        data.finish()
        return Drafts(tuple(said))

    def _counts(self, k: int) -> _Counts:
        if k not in self._known:
            sets, points = math.comb(self._vocab_size, k), math.comb(self._total + k - 1, self._total)
            self._known[k] = _Counts(sets, points, (width(sets), width(points), id_width(k)))
        return self._known[k]

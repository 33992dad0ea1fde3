"""`topk`: the device sends the K most likely draft tokens (TK-SLT's sparse transmission) with integer weights.

The draft distribution is cut to its K most likely tokens, renormalised, rounded to integers of `bits` bits that sum
to 2**bits - 1, and only then sampled. So the edge knows the exact distribution of the token.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, lattice
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.schemes.base import EDGE, Context, Drafted, Drafts, Traits, check_bits, check_k
from airdraft.core.schemes.rejection import Rejection, check_verify
from airdraft.errors import Code, RemoteProtocolError


class TopK(Rejection):
    """Body, bit-packed: all ids; for each draft K ids, ascending; for each draft their K weights.

    As published, it always sends K pairs, though a peaked distribution has fewer tokens with any weight.
    """

    traits: ClassVar = Traits(
        rounds=True,
        drafts=True,
        exact="distribution",
        recovers_on=EDGE,
        takes_ids=False,
        races=False,
        published=True,
        options=("k", "bits", "verify"),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._k = min(context.spec.k, self._vocab_size)
        self._bits = context.spec.bits
        self._total = (1 << self._bits) - 1
        self.draft_bits = self._id_width + self._k * (self._id_width + self._bits)

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_k(spec)
        check_bits(spec)
        check_verify(spec)

    def quantise(self, probs: FloatArray) -> tuple[IntArray, IntArray]:
        """Round the K most likely tokens, of equals the lower id, to a lattice."""
        kth = np.partition(probs, -self._k)[-self._k]
        above, ties = np.flatnonzero(probs > kth), np.flatnonzero(probs == kth)
        top = np.sort(np.concatenate([above, ties[: self._k - above.size]]))
        return top, lattice(probs[top] / probs[top].sum(), self._total)

    def pack(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        out = BitWriter()
        out.write(drafts.tokens, self._id_width)
        for draft in drafts.said:
            out.write(draft.row()[0], self._id_width)
        for draft in drafts.said:
            out.write(draft.row()[1], self._bits)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        data = BitReader(body)
        tokens = data.read(count, self._id_width)
        supports = data.read(count * self._k, self._id_width, np.uint32).reshape(count, self._k)
        weights = data.read(count * self._k, self._bits, np.uint32).reshape(count, self._k)
        data.finish()
        said = []
        for token, ids, weight in zip(tokens.tolist(), supports, weights, strict=True):
            in_order = ids[-1] < self._vocab_size and bool((ids[1:] > ids[:-1]).all())
            if not in_order or not weight[ids == token].any() or weight.sum() != self._total:
                raise RemoteProtocolError(Code.GARBAGE, f"token {token}'s sparse distribution is malformed")
            said.append(Drafted(token, ids, weight, float(self._total)))
        return Drafts(tuple(said))

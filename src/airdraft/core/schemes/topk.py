"""`topk`: the device sends the likeliest draft tokens with integer weights (sparse transmission of TK-SLT and TSLT).

The draft distribution is cut to its K most likely tokens, or to fewer that hold a share of it (`cuts.py`),
renormalised, rounded to integers of `bits` bits that sum to 2**bits - 1, and only then sampled. So the edge knows the
exact distribution of the token (arXiv 2509.04576). Several candidates may be sampled for a position (`candidates.py`;
arXiv 2512.16273).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, id_width, lattice
from airdraft.core.law import Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.schemes.base import EDGE, Context, Drafted, Drafts, Traits, check_bits, check_k
from airdraft.core.schemes.candidates import check_candidates
from airdraft.core.schemes.cuts import check_cut, cut_of, top
from airdraft.core.schemes.rejection import Rejection, check_verify
from airdraft.errors import Code, RemoteProtocolError


class TopK(Rejection):
    """Body, bit-packed: for each draft the ids of its candidates; if a cut leaves fewer than K tokens, for each draft
    their number less one; for each draft the tokens' ids, ascending; for each draft their weights.

    As published, it always sends K pairs unless it is told to cut, though a peaked distribution has fewer tokens with
    any weight. A draft with fewer candidates repeats its first.
    """

    traits: ClassVar = Traits(
        rounds=True, drafts=True, exact="distribution", recovers_on=EDGE, takes_ids=False, races=False, published=True,
        options=("k", "bits", "verify", "mass", "cut", "candidates"),
    )  # fmt: skip

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._k = min(context.spec.k, self._vocab_size)
        self._bits = context.spec.bits
        self._total = (1 << self._bits) - 1
        self._cut = cut_of(context.spec, self._k)
        self._size_width = id_width(self._k) if self._cut else 0
        if "candidates" in self.traits.options:
            self.candidates = context.spec.candidates
        self.draft_bits = self.candidates * self._id_width + self._size_width + self._k * (self._id_width + self._bits)

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_k(spec)
        check_bits(spec)
        check_verify(spec)
        check_cut(spec)
        check_candidates(spec)

    def quantise(self, probs: FloatArray, at: Place) -> tuple[IntArray, IntArray]:
        """Round the most likely tokens to a lattice."""
        ids = top(probs, self._cut.size(probs, at) if self._cut else self._k)
        return ids, lattice(probs[ids] / probs[ids].sum(), self._total)

    def pack(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        out, rows = BitWriter(), [draft.row() for draft in drafts.said]
        for draft in drafts.said:
            tokens = (draft.token, *draft.others)
            out.write((*tokens, *(draft.token,) * (self.candidates - len(tokens))), self._id_width)
        if self._cut:
            out.write([ids.size - 1 for ids, _ in rows], self._size_width)
        for ids, _ in rows:
            out.write(ids, self._id_width)
        for _, weights in rows:
            out.write(weights, self._bits)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`."""
        data = BitReader(body)
        tokens = data.read(count * self.candidates, self._id_width).reshape(count, self.candidates).tolist()
        sizes = (data.read(count, self._size_width) + 1).tolist() if self._cut else [self._k] * count
        ends = np.cumsum(sizes)[:-1]
        supports = np.split(data.read(sum(sizes), self._id_width, np.uint32), ends)
        weights = np.split(data.read(sum(sizes), self._bits, np.uint32), ends)
        data.finish()
        said = []
        for (token, *more), ids, weight in zip(tokens, supports, weights, strict=False):
            others = more[: more.index(token)] if token in more else more  # the rest repeats the first
            tried, rest = (token, *others), more[len(others) :]
            in_order = ids.size <= self._k and ids[-1] < self._vocab_size and bool((ids[1:] > ids[:-1]).all())
            at = np.minimum(np.searchsorted(ids, tried), ids.size - 1)
            drawn = len(set(tried)) == len(tried) and bool((ids[at] == tried).all() and weight[at].all())
            if not (in_order and drawn) or set(rest) - {token} or weight.sum() != self._total:
                raise RemoteProtocolError(Code.GARBAGE, f"token {token}'s sparse distribution is malformed")
            said.append(Drafted(token, ids, weight, float(self._total), tuple(others)))
        return Drafts(tuple(said))

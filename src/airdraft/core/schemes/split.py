"""`split`: the edge accepts, the device recovers (DSSD's split verification).

The uplink carries each token and its draft probability, which is all that acceptance needs. After a rejection the
device, which has the draft's whole row, needs the target's side of the residual. The downlink has two forms:

`row`         the target's distribution itself (DSSD), in single precision and only where it is not zero. In half
              precision, as published, the recovered token would come from a rounded target.
`candidates`  independent draws y from the target, each with target_probs[y]; the device takes the first with
              u < max(0, 1 - draft_probs[y] / target_probs[y]). Taken ones are distributed as
              target_probs * max(0, 1 - draft_probs / target_probs), the residual. It takes 1/TV draws on average, and
              the device asks for more when a batch is used up. Each batch is eight times the last. When the row is
              cheaper, the edge sends the row, so a tiny TV does not cost a round trip for every eight draws.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from airdraft.core.bits import BitReader, BitWriter, lattice
from airdraft.core.law import Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.noise import FloatArray, IntArray
from airdraft.core.sampling import draws
from airdraft.core.schemes.base import DEVICE, Context, Drafted, Drafts, Ruling, Traits, check_bits
from airdraft.core.schemes.rejection import Rejection, draw_residual
from airdraft.errors import BadParameterError, Code, RemoteProtocolError

CANDIDATES = 8
"""Draws in the first batch, enough nine times in ten for a total variation of 0.25."""

_DRAWS, _SPARSE, _DENSE = 0, 1, 2
"""Contents of an `extra`: candidates, a row where it is not zero, or a whole row."""

DOWNLINKS = ("row", "candidates")
"""Forms of the downlink after a rejection."""


class Split(Rejection):
    """Body, bit-packed: all ids; all weights of `bits` bits, out of 2**bits - 1.

    `extra`, bit-packed: its kind in 2 bits (0 candidates, 1 a sparse row, 2 a dense row); unless dense, the number of
    ids in 32 bits, and the ids; then the target's probabilities in IEEE 754 single precision.
    """

    traits: ClassVar = Traits(
        rounds=True, drafts=True, exact="distribution", recovers_on=DEVICE, takes_ids=True, races=False, published=True,
        options=("bits", "downlink"),
    )  # fmt: skip

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._bits = context.spec.bits
        self._total = (1 << self._bits) - 1
        self.draft_bits = self._id_width + self._bits
        self._candidates = context.spec.downlink == "candidates"
        self._rejected: FloatArray | None = None  # the target's row, while the device may ask for more of it
        self._batch = CANDIDATES
        self._recovering: int | None = None  # the position of this side's random numbers, over all batches

    @staticmethod
    def check(spec: SchemeSpec) -> None:
        """See `Scheme.check`."""
        check_bits(spec)
        if spec.downlink not in DOWNLINKS:
            raise BadParameterError(f"downlink is {spec.downlink!r}; choose row or candidates", field="downlink")

    def quantise(self, probs: FloatArray, at: Place) -> tuple[IntArray, IntArray]:
        """Round the whole row to a lattice. It stays on the device."""
        weights = lattice(probs, self._total)
        ids = np.flatnonzero(weights)
        return ids, weights[ids]

    def pack(self, drafts: Drafts) -> bytes:
        """See `Scheme.encode`."""
        out = BitWriter()
        out.write(drafts.tokens, self._id_width)
        out.write([round(draft.prob() * self._total) for draft in drafts.said], self._bits)
        return out.bytes()

    def decode(self, count: int, body: bytes) -> Drafts:
        """See `Scheme.decode`. The edge knows the row only at the drafted token."""
        data = BitReader(body)
        tokens = data.read(count, self._id_width)
        weights = data.read(count, self._bits)
        data.finish()
        if count and (tokens.max() >= self._vocab_size or weights.min() < 1):
            raise RemoteProtocolError(Code.GARBAGE, "a draft names no token, or a probability of 0")
        said = (
            Drafted(int(token), np.array([token]), np.array([weight]), float(self._total))
            for token, weight in zip(tokens, weights, strict=True)
        )
        return Drafts(tuple(said))

    def replace(self, path: tuple[int, ...], target_probs: FloatArray, draft: Drafted) -> Ruling:
        """Leave the token to the device."""
        if not self._candidates:
            return Ruling(path, None, self._row(target_probs))
        self._rejected, self._batch = target_probs, CANDIDATES
        return Ruling(path, None, self._draws(target_probs, CANDIDATES))

    def more(self) -> bytes:
        """Send a larger batch of candidates, or in the end the row, which is always enough."""
        if self._rejected is None:
            raise RemoteProtocolError(Code.STATE, "the device asked for more than the target's row")
        self._batch *= 8
        if self._batch < np.count_nonzero(self._rejected):
            return self._draws(self._rejected, self._batch)
        row, self._rejected = self._row(self._rejected), None
        return row

    def recover(self, draft: Drafted, extra: bytes, at: Place) -> int | None:
        """See `Scheme.recover`."""
        if at.position != self._recovering:
            self._recovering, self._rng = at.position, self._coins(at, use=1)
        kind, ids, target_probs = self._decode_extra(extra)
        draft_row = np.zeros(self._vocab_size)
        draft_row[draft.ids] = draft.probs()
        if kind == _DRAWS:
            taken = self._rng.random(ids.size) * target_probs < target_probs - draft_row[ids]
            return int(ids[np.argmax(taken)]) if taken.any() else None
        row = np.zeros(self._vocab_size)
        row[ids] = target_probs
        return draw_residual(np.maximum(row - draft_row, 0.0), row, self._rng)

    def _row(self, target_probs: FloatArray) -> bytes:
        support = np.flatnonzero(target_probs)
        # A sparse row costs id_width more bits a token than a dense one.
        sparse = support.size * (32 + self._id_width) + 32 < target_probs.size * 32
        if sparse:
            return self._encode_extra(_SPARSE, support, target_probs[support])
        return self._encode_extra(_DENSE, None, target_probs)

    def _draws(self, target_probs: FloatArray, count: int) -> bytes:
        ids = draws(target_probs, count, self._rng)
        return self._encode_extra(_DRAWS, ids, target_probs[ids])

    def _encode_extra(self, kind: int, ids: IntArray | None, target_probs: FloatArray) -> bytes:
        out = BitWriter()
        out.write([kind], 2)
        if ids is not None:
            out.write([ids.size], 32)
            out.write(ids, self._id_width)
        out.write(target_probs.astype(np.float32).view(np.uint32), 32)
        return out.bytes()

    def _decode_extra(self, extra: bytes) -> tuple[int, IntArray, FloatArray]:
        data = BitReader(extra)
        kind = int(data.read(1, 2)[0])
        if kind == _DENSE:
            ids = np.arange(self._vocab_size)
        else:
            count = int(data.read(1, 32)[0])
            if count > max(self._vocab_size, CANDIDATES):
                raise RemoteProtocolError(Code.GARBAGE, f"a residual of {count} ids is longer than the vocabulary")
            ids = data.read(count, self._id_width)
        probs = data.read(ids.size, 32, np.uint32).view(np.float32)
        data.finish()
        fits = kind <= _DENSE and ids.size > 0 and ids.max() < self._vocab_size
        # Checked before the cast, which warns of a signalling NaN.
        if not (fits and np.isfinite(probs).all() and (probs >= 0).all() and probs.any()):
            raise RemoteProtocolError(Code.GARBAGE, "the target's side of a residual is malformed")
        return kind, ids, probs.astype(np.float64)

"""Replays a recording through both machines: schemes whose choices are the recorded ones, and models that do nothing.

Messages keep their real sizes: a replayed `topk` body is as long as a real one, though only its ids say anything.
Under the schemes that send probabilities a draft is accepted with the recorded probability, by coins tossed once for
each position, so that every link and every draft length meets the same luck. Options that a recording says nothing of
need their own chances (`luck.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from airdraft.core import schemes
from airdraft.core.bits import pack, unpack
from airdraft.core.law import Law, Place
from airdraft.core.messages import SchemeSpec
from airdraft.core.schemes import DEVICE, Context, Drafted, Drafts, Guess, Ruling
from airdraft.core.schemes.coupled import BELIEVED, Coupled
from airdraft.core.schemes.split import CANDIDATES
from airdraft.errors import AirdraftError, BadParameterError, ModelError
from airdraft.lab.record import RecordedText, Recording
from airdraft.lab.virtual.branches import Branches
from airdraft.lab.virtual.luck import Luck
from airdraft.models.base import FloatArray, Part


class Blank:
    """A language model whose logits say nothing: what it would have chosen is recorded."""

    name = "replay"
    eos_ids: tuple[int, ...] = ()  # texts end where the recorded ones do, by their length
    max_context = 1 << 20

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._rows: dict[int, FloatArray] = {}

    def new_cache(self) -> list[int]:
        """The number of cached positions, so that a machine that loses count is found out."""
        return [0]

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`. All entries are zeros."""
        if keep > cache[0] or not tokens or rows > len(tokens):
            raise ModelError(f"a forward keeps {keep} of {cache[0]} positions and asks {rows} rows of {len(tokens)}")
        cache[0] = keep + len(tokens)
        if rows not in self._rows:
            self._rows[rows] = np.zeros((rows, self.vocab_size), np.float32)
        return self._rows[rows]

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. It runs trees."""
        return [self.forward(part.cache, part.keep + len(part.picks), part.tokens, part.rows) for part in batch]


@dataclass(frozen=True)
class _Line:
    """The choices of one scheme along one text."""

    prompt_length: int
    target: list[int]
    draft: list[int]
    draws: list[int]
    """How many draws from the target it takes until one replaces a rejected draft (`split`, downlink `candidates`)."""
    other: list[int] = field(default_factory=list)
    """The second candidate, where there are several."""
    bits: list[int] = field(default_factory=list)
    """Bits of a draft at each position, where they differ."""

    @cached_property
    def wrong(self) -> list[int]:
        """For each position the next where the draft is wrong, or else the last one, which is never drafted."""
        found, last = list[int](), len(self.target) - 1
        for at in reversed(range(last + 1)):
            last = at if self.draft[at] != self.target[at] else last
            found.append(last)
        return found[::-1]


@dataclass(frozen=True)
class _Placed(Drafted):
    """A draft that knows where it stands in the text."""

    index: int = 0
    """Counted from the text's first token."""


Likely = Callable[[np.ndarray, int], Sequence[tuple[int, float]]]


class _Told(Law):
    """A law that chooses the recorded tokens, whatever the rows hold, and finds other likely ones by them."""

    def __init__(self, law: Law, line: _Line, side: int, likely: Likely | None) -> None:
        super().__init__(law.params, law.seed, law.vocab_size)
        self._start, self._tokens = line.prompt_length, line.draft if side == DEVICE else line.target
        self._likely = likely

    def choose(self, row: np.ndarray, at: Place) -> int:
        return self._tokens[at.position - self._start]

    def likely(self, row: np.ndarray, at: Place, most: int) -> list[tuple[int, float]]:
        return [(self.choose(row, at), BELIEVED)] if self._likely is None else list(self._likely(row, most))


class Replay:
    """The recorded texts as schemes. A request's seed is the number of its text."""

    def __init__(
        self,
        recording: Recording,
        seed: int = 0,
        oracle: bool = False,
        branches: Branches | None = None,
        lucks: Mapping[SchemeSpec, Sequence[Luck]] | None = None,
    ) -> None:
        """`seed` tosses the coins of rejection sampling. `oracle`: every draft is accepted. `branches`: what is drafted
        off the texts; None: what is drafted behind a wrong draft is as good as behind the right one. `lucks`: what
        drafts meet under schemes with these options; under others it is as recorded.
        """
        self.recording, self._branches = recording, branches
        self.model = Blank(recording.vocab_size) if branches is None else branches.nodes
        """The model of both sides."""
        lucks = lucks or {}
        keys: list[str | SchemeSpec] = ["coupled", *_PADDED, *lucks]
        self._lines: dict[str | SchemeSpec, list[_Line]] = {key: [] for key in keys}
        self._coins = np.random.default_rng([seed, 1])
        for number, text in enumerate(recording.texts):
            coins = self._coins.random(len(text.tokens))
            matches = [True] * len(text.tokens) if oracle else text.matches
            misses = np.maximum(1 - np.array(text.accept), 1e-9)  # a draw passes with chance TV
            draws = np.random.default_rng([seed, 2, number]).geometric(misses).tolist()
            again = np.random.default_rng([seed, 3, number]).random(len(text.tokens))
            self._lines["coupled"].append(_line(text, matches, recording.vocab_size, draws))
            for name in _PADDED:
                chances = text.chances(schemes.traits(name).options)
                self._lines[name].append(_line(text, coins < np.array(chances), recording.vocab_size, draws))
            for spec, each in lucks.items():
                luck = each[number]
                line = _line(text, coins < np.array(luck.accept), recording.vocab_size, draws)
                other = _line(text, again < np.array(luck.other), recording.vocab_size, draws).draft
                self._lines[spec].append(replace(line, other=other, bits=luck.bits))

    def rounds(self, scheme: str, length: int) -> int:
        """Count the rounds that all texts take with drafts of `length`: a draft's luck depends on its position only."""
        count = 0
        for line in self._lines[scheme if scheme in _PADDED else "coupled"]:
            at, wrong = 0, line.wrong
            while at < len(wrong):
                at = 1 + min(at + length, wrong[at])
                count += 1
        return count

    def _likely(self, number: int) -> Likely | None:
        """What a row of `model` says of what follows a branch of a text."""
        return None if self._branches is None else partial(self._branches.behind, number)

    def _line_of(self, spec: SchemeSpec, number: int) -> _Line:
        if spec in self._lines:
            return self._lines[spec][number]
        options = schemes.traits(spec.name).options
        if (spec.mass < 1 and "mass" in options) or (spec.candidates > 1 and "candidates" in options):
            raise BadParameterError(f"the recording says nothing of the options of {spec}; find their luck first")
        return self._lines[spec.name if spec.name in _PADDED else "coupled"][number]

    def make(self, spec: SchemeSpec, law: Law, side: int) -> schemes.Scheme:
        """Instead of `schemes.make`."""
        traits = schemes.traits(spec.name)
        if spec.verify != "token":
            raise BadParameterError("a recording tells the chance of each draft, and not of blocks; give verify token")
        line = self._line_of(spec, law.seed)
        told = _Told(law, line, side, self._likely(law.seed) if side == DEVICE else None)
        real = schemes.make(spec, told, side)
        if traits.exact == "text":
            return real
        padded = _PADDED[spec.name](Context(spec, told, side), line, real.draft_bits)
        if traits.recovers_on == DEVICE:
            padded.support = max(self.recording.texts[law.seed].support)
            padded.draws_first = spec.downlink == "candidates"
        return padded


def _line(text: RecordedText, matches: Any, vocab_size: int, draws: list[int]) -> _Line:
    draft = [token if match else (token + 1) % vocab_size for token, match in zip(text.tokens, matches, strict=True)]
    return _Line(text.prompt_length, text.tokens, draft, draws)


def _row_bytes(support: int, vocab_size: int, id_width: int) -> int:
    """`split`: a target's row with so many tokens, dense or sparse, whichever is shorter."""
    sparse = 34 + support * (32 + id_width)
    return -(-min(sparse, 2 + 32 * vocab_size) // 8)


class _Padded(Coupled):
    """A scheme that sends probabilities: as many bytes, of which only the ids mean anything."""

    support = 0
    """`split`: tokens in the row that it sends down. 0: the edge recovers, and sends nothing."""
    draws_first = False
    """`split`: whether it sends draws from that row first."""

    def __init__(self, context: Context, line: _Line, draft_bits: int) -> None:
        super().__init__(context)
        self._line, self.draft_bits = line, draft_bits
        self.candidates = context.spec.candidates if "candidates" in self.traits.options else 1
        self._batch = CANDIDATES  # draws in the next `extra`
        self._recovering, self._seen = -1, 0  # on the device: a position, and the draws for it so far

    def draw(self, guess: Guess, at: Place) -> Drafted:
        token, index = super().draw(guess, at).token, at.position - self._line.prompt_length
        return _Placed(token, others=self._others(token, index), index=index)

    def _others(self, token: int, index: int) -> tuple[int, ...]:
        """Further candidates: the one that the line has, and tokens that nobody chooses."""
        if self.candidates == 1:
            return ()
        vocab, right = self._law.vocab_size, self._line.target[index]
        wrong = [(right + 1 + step) % vocab for step in range(self.candidates + 1)]
        others = [self._line.other[index], *wrong] if token != right else wrong
        return tuple(dict.fromkeys(each for each in others if each != token))[: self.candidates - 1]

    def encode(self, drafts: Drafts) -> bytes:
        ids = [token for draft in drafts.said for token in (draft.token, *draft.others)]
        bits = sum(self._bits_of(draft) for draft in drafts.said)
        return pack(ids, self._law.vocab_size).ljust(-(-bits // 8), b"\0")

    def _bits_of(self, draft: Drafted) -> int:
        return self._line.bits[draft.index] if self._line.bits and isinstance(draft, _Placed) else self.draft_bits

    def decode(self, count: int, body: bytes) -> Drafts:
        ids = count * self.candidates
        tokens = unpack(body[: -(-self._id_width * ids // 8)], ids, self._law.vocab_size)
        every = [tokens[at : at + self.candidates] for at in range(0, ids, self.candidates)]
        return Drafts(tuple(Drafted(first, others=tuple(others)) for first, *others in every))

    def verify(self, drafts: Drafts, rows: np.ndarray, at: Place) -> Ruling:
        ruling = super().verify(drafts, rows, at)
        if self.support and ruling.accepted < len(drafts):
            self._batch = CANDIDATES
            return Ruling(ruling.path, None, self._extra())
        return ruling

    def more(self) -> bytes:
        self._batch *= 8
        return self._extra()

    def recover(self, draft: Drafted, extra: bytes, at: Place) -> int | None:
        index = at.position - self._line.prompt_length
        if self._recovering != index:
            self._recovering, self._seen, self._batch = index, 0, CANDIDATES
        is_row = self._is_row
        self._seen, self._batch = self._seen + self._batch, 8 * self._batch
        return self._line.target[index] if is_row or self._seen >= self._line.draws[index] else None

    @property
    def _is_row(self) -> bool:
        """Whether the next `extra` is the row: with `draws_first` not before it is shorter than so many draws."""
        return not self.draws_first or (self._batch > CANDIDATES and self._batch >= self.support)

    def _extra(self) -> bytes:
        if self._is_row:
            return bytes(_row_bytes(self.support, self._law.vocab_size, self._id_width))
        return bytes(-(-(34 + self._batch * (32 + self._id_width)) // 8))


_PADDED: dict[str, type[_Padded]] = {
    name: type("_Padded", (_Padded,), {"traits": schemes.traits(name)}) for name in schemes.named(exact="distribution")
}

"""The state of a grammar after some text, over one llguidance matcher that moves between the states asked about.

Where the grammar leaves one run of bytes only, it is written in the tokenizer's own tokens: those are forced, although
others would spell the same bytes. So the tokens of a text are those that the model was trained on.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from airdraft.core.law import Guide
from airdraft.errors import Code, GuideError, RemoteProtocolError

if TYPE_CHECKING:
    from llguidance import LLMatcher

KEPT = 64
"""Masks that a text keeps."""


def panicked(error: BaseException) -> bool:
    """Whether this is a panic in llguidance, which is no `Exception`: who catches those alone would be ended by it."""
    return type(error).__name__ == "PanicException"


class Ended(Guide):
    """The state after the token that ended a text, behind which everything is allowed, as nothing is written."""

    forced: int | None = None

    def allowed(self) -> NDArray[np.bool_] | None:
        """See `Guide.allowed`."""
        return None

    def after(self, token: int) -> Guide:
        """See `Guide.after`."""
        return self


class GrammarWalk:
    """The way of one matcher through the states of one text. Any thread may ask; one is answered at a time.

    The matcher never rolls back: in llguidance 1.9 masks after that may depend on where it has been, and then two sides
    would not agree on what is allowed. A copy that has only ever gone on takes its place.
    """

    def __init__(self, grammar: LLMatcher, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`grammar`: a matcher before the first token, which is copied, and stays there."""
        self.vocab_size, self.eos_ids = vocab_size, tuple(eos_ids)
        self.lock = threading.RLock()
        self._ends = np.zeros(vocab_size, np.bool_)
        self._ends[list(eos_ids)] = True
        self._grammar, self._matcher, self._trail = grammar, grammar.deep_copy(), grammar.deep_copy()
        self._masks: OrderedDict[State, np.ndarray] = OrderedDict()  # bits, of the states asked about last
        self._at = self._trail_at = self.begin = State(self, None, -1)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One turn with the matcher. A panic in it ends this text alone, with an error that can be told."""
        with self.lock:
            try:
                yield
            except BaseException as error:
                if not panicked(error):
                    raise
                why = " ".join(str(error).split())[:200]
                self._at = self._trail_at = self.begin
                self._matcher, self._trail = self._grammar.deep_copy(), self._grammar.deep_copy()
                raise GuideError(f"the guide breaks its reader ({why}); ask for another") from error

    def go(self, state: State) -> None:
        """Move the matcher to a state."""
        here, path = self._at, list[int]()
        back, ahead = here, state
        while back is not ahead:
            if back.depth >= ahead.depth and back.parent is not None:
                back = back.parent
            elif ahead.parent is not None:
                path.append(ahead.token)
                ahead = ahead.parent
        if here is not back:
            self._matcher = self._behind(back)
        if path:
            self._matcher.consume_tokens(path[::-1])
        self._at = state
        self._check()

    def _behind(self, state: State) -> LLMatcher:
        """Return a matcher at a state. One that trails behind the text is brought up to it, and copied."""
        path, at = list[int](), state
        while at is not self._trail_at and at.parent is not None:
            path.append(at.token)
            at = at.parent
        if at is not self._trail_at:  # the trail is on another branch, or ahead
            self._trail = self._grammar.deep_copy()
        if path:
            self._trail.consume_tokens(path[::-1])
        self._trail_at = state
        return self._trail.deep_copy()

    def next(self, state: State, token: int) -> Guide:
        """Return the state after a token."""
        with self._turn():
            self.go(state)
            if token in self.eos_ids:
                if self._matcher.is_accepting():
                    return Ended()
            elif self._matcher.try_consume_tokens([token]) == 1:
                self._at = State(self, state, token)
                return self._at
            self._check()
        raise RemoteProtocolError(Code.STATE, f"token {token} came where the text's guide does not allow it")

    def only(self, state: State) -> int | None:
        """Return the forced token of a state; None: there are several."""
        with self._turn():
            self.go(state)
            accepts = self._matcher.is_accepting()
            if accepts and self._matcher.is_stopped():
                return self.eos_ids[0] if len(self.eos_ids) == 1 else None
            run = [] if accepts else self._matcher.compute_ff_tokens()
            self._check()
            if run and run[0] not in self.eos_ids:  # which would end the text in its midst
                return int(run[0])
            bits = self._bits(state)
            if int(np.bitwise_count(bits).sum()) + accepts * len(self.eos_ids) != 1:
                return None
            return int(np.flatnonzero(self.mask(state))[0])

    def mask(self, state: State) -> NDArray[np.bool_]:
        """Return the tokens that a state allows, [vocab], without regard to forced runs."""
        with self._turn():
            bits = self._bits(state)
            mask = np.unpackbits(bits, count=self.vocab_size, bitorder="little").view(np.bool_)
            self.go(state)
            if self._matcher.is_accepting():
                mask |= self._ends
        if not mask.any():
            raise GuideError("the guide allows nothing where the text has come; mend the guide")
        return mask

    def _bits(self, state: State) -> np.ndarray:
        """Return the tokens of a state but the end, as bits in bytes."""
        found = self._masks.get(state)
        if found is None:
            self.go(state)
            if self._matcher.is_stopped():
                found = np.zeros(-(-self.vocab_size // 32) * 4, np.uint8)
            else:
                found = np.frombuffer(self._matcher.compute_bitmask(), np.uint8).copy()
            self._check()
            for token in self.eos_ids:  # the end is told by whether the grammar is complete
                found[token >> 3] &= ~np.uint8(1 << (token & 7))
            self._masks[state] = found
            if len(self._masks) > KEPT:
                self._masks.popitem(last=False)
        else:
            self._masks.move_to_end(state)
        return found

    def _check(self) -> None:
        """Raise `GuideError` if the matcher has given up, which it does within its limits."""
        if self._matcher.is_error():
            why = " ".join(self._matcher.get_error().replace("<non-verbose/>", "").split())[:200]
            raise GuideError(f"the guide is too much for its reader ({why}); ask for a simpler one")


_UNKNOWN = -1


class State(Guide):
    """A `Guide`: the grammar after the tokens on the way from its first state."""

    __slots__ = ("_forced", "_walk", "depth", "parent", "token")

    def __init__(self, walk: GrammarWalk, parent: State | None, token: int) -> None:
        self._walk, self.parent, self.token = walk, parent, token
        self.depth: int = 0 if parent is None else parent.depth + 1
        self._forced: int | None = _UNKNOWN

    @property
    def forced(self) -> int | None:
        """See `Guide.forced`."""
        if self._forced == _UNKNOWN:
            self._forced = self._walk.only(self)
        return self._forced

    def allowed(self) -> NDArray[np.bool_]:
        """See `Guide.allowed`."""
        if self.forced is None:
            return self._walk.mask(self)
        mask = np.zeros(self._walk.vocab_size, np.bool_)
        mask[self.forced] = True
        return mask

    def after(self, token: int) -> Guide:
        """See `Guide.after`."""
        return self._walk.next(self, token)

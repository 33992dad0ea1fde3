"""The caches of all texts of one engine: made, shared, kept and taken.

A text begins with what another of its tenant's holds, and is fed the rest. `memory` decides who loses a cache, and
`prefixes` who can begin with whose.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from airdraft.errors import AirdraftError, BadParameterError
from airdraft.models.base import Chooser, Copier, Erasable, Part, Roomy, TargetEngine
from airdraft.scheduler.choices import choice_of, wanted_of
from airdraft.scheduler.elsewhere import LEAST, Coming, Elsewhere
from airdraft.scheduler.memory import Memory
from airdraft.scheduler.prefixes import BLOCK, Prefixes
from airdraft.scheduler.turns import Origin, Owner, Sequenced, Share, Turn

_log = logging.getLogger(__package__)

KEPT_BYTES = 1 << 26
"""Of the keys and values of texts that are over, kept for those that begin alike, where nobody says."""
_POSITION_BYTES = 1 << 15
"""Of a position, where an engine does not tell."""
_TAKEN = 4 * BLOCK
"""A text that goes on after all but so many positions of one that is over takes its cache; else it gets a copy."""


class Caches:
    """Which text holds which cache."""

    def __init__(self, engine: TargetEngine, max_positions: int | None = None, kept_bytes: int = KEPT_BYTES) -> None:
        """
        Args:
            max_positions: in all caches together, if the engine does not hold fewer.
            kept_bytes: of texts that are over, but for the last of them; 0: nothing is kept of any.
        """
        info = engine.info
        kept = kept_bytes // (info.position_bytes or _POSITION_BYTES)
        most = min(filter(None, (info.max_positions, max_positions)), default=None)
        self._memory = Memory(info.max_caches, most, kept, rooms=info.rooms)
        self._engine = engine
        # An engine that runs calls side by side is a server elsewhere, which keeps prefixes by itself.
        self._copier = engine if isinstance(engine, Copier) and info.max_calls == 1 else None
        self._chooses = info.chooses and info.top_k is None and isinstance(engine, Chooser)
        self._prefixes = Prefixes()
        self.evictions = 0
        """Caches taken from texts that were still being written."""
        self.reused = 0
        """Tokens that were not fed, as another text had been fed them."""
        self.elsewhere: Elsewhere | None = None
        """From where prompts may come; None: all are computed here."""
        self.wake: Callable[[], None] = lambda: None
        """Told when something has come for which a prompt waits."""
        self.fetched = 0
        """Tokens that were not fed, as their keys and values came from elsewhere."""
        self._coming: dict[Sequenced, Coming | None] = {}

    def text(self, owner: Owner, now_s: float, private: int | None = None) -> Sequenced:
        """A text that rests since `now_s`; see `Sequenced` for the rest. Raises: as `check`."""
        self.check(private)
        return Sequenced(owner, rested_s=now_s, private=private)

    def check(self, private: int | None) -> None:
        """Raise `BadParameterError` for a text with a private part, if the engine cannot overwrite what it leaves."""
        if private is not None and not self._engine.info.erases:
            what = f"the engine of {self._engine.info.name} overwrites no keys and values"
            raise BadParameterError(f"{what}, so it takes no private parts; take onnx or hf, or mark none", "private")

    @property
    def positions(self) -> int:
        """Key-value positions held."""
        return self._memory.positions

    def held(self, owner: Owner, tokens: Sequence[int]) -> int:
        """Tokens of a text that its prefill need not feed, were it to begin now. The last two give the first rows."""
        found = self._prefixes.start(Sequenced(owner), tokens, lambda _: False)
        return 0 if found is None or self._copier is None else min(found.common, len(tokens) - 2)

    def begin(self, turn: Turn, now: int) -> Turn | None:
        """Let a text begin with what another holds, which is thereby used in call `now`, and go on with what has come
        from elsewhere.

        Returns: the turn, or None: it waits for a text that is being fed the same, or for what comes.
        """
        began = self._begun(turn, now)
        return began if began is None or self.elsewhere is None else self._spliced(began, self.elsewhere)

    def _spliced(self, turn: Turn, elsewhere: Elsewhere) -> Turn | None:
        text, tokens = turn.text, turn.tokens
        end = len(text.public(tokens[: len(tokens) - turn.scored]))
        at = turn.origin.length if turn.origin else text.cached
        if turn.lineage.parents or (text.lineage and text.lineage.parents):  # what comes is a chain
            return turn
        if end - at < LEAST or (turn.origin is None and text.tokens[:at] != tokens[:at]):
            return turn
        if text not in self._coming:
            self._coming[text] = elsewhere.ask(tokens[:end], at, self.wake)
        coming = self._coming[text]
        step = None if coming is None else coming.step(at)
        if step is None:
            return turn
        return None if step.waits else turn._replace(step=step)

    def _begun(self, turn: Turn, now: int) -> Turn | None:
        """Let a text without a cache begin with what another holds, see `begin`."""
        text = turn.text
        # What picks refer to is not there any more: the text is fed again as a whole.
        if self._copier is None or text.cache is not None or turn.forward.picks:
            return turn
        lineage, tokens = turn.lineage, turn.tokens
        if len(tokens) <= BLOCK:
            return turn
        chain = text.public(tokens[: lineage.trunk])
        self._prefixes.add(text, chain)  # so that later ones can wait for it
        found = self._prefixes.start(text, chain, lambda other: other.asked < turn.arrival)
        if found is None or found.text.cache is None:
            return None if found else turn
        source, held = found.text, min(found.common, len(tokens) - turn.scored)
        source.used, origin = now, Origin(found.text, held)
        share = Share(text, turn.arrival, tokens, held, len(tokens), turn.forward.rows, origin)
        fits = self._memory.room(share, ()) is not None
        # A copy needs room beside the other; where there is none, it changes hands.
        if source.over and (source.cached - held <= _TAKEN or not fits):
            cache = source.cache
            self._free(source)
            text.cache, text.tokens, text.cached, text.lineage = cache, tokens, held, lineage
            self._memory.hold(text)
            self._reuse(text, held)
            return turn
        return turn._replace(origin=origin) if fits else turn

    def _reuse(self, text: Sequenced, tokens: int) -> None:
        text.reused += tokens
        self.reused += tokens

    def has_room(self, share: Share, batch: Sequence[Share]) -> bool:
        """See that a text has a cache and there is room in it, if need be by taking those of others.

        Raises: what the engine does if it makes no cache.
        """
        evicted = self._memory.room(share, batch)
        if evicted is None:
            return False
        for text in evicted:
            self.evictions += not text.over
            self._free(text)
        if share.text.cache is None:
            if share.origin is None:
                share.text.cache = self._engine.new_cache()
            self._memory.hold(share.text)
        return True

    def part(self, share: Share) -> Part:
        """What the engine is to run, in its own thread."""
        splice = share.splice
        start = at = share.start if splice is None else splice.start
        if share.origin is not None and self._copier is not None:
            source = share.origin.text.cache
            try:
                share.text.cache = None if source is None else self._copier.copy(source, start)
            except AirdraftError as error:
                _log.warning("a prompt is read again: %s", error)
            if share.text.cache is None:
                share.text.cache, start = self._engine.new_cache(), 0
        if splice is not None and start == at:
            try:
                splice.put(share.text.cache)
            except AirdraftError as error:
                _log.warning("a prompt is computed: %s", error)
            else:
                start = share.start
                share.text.reused += splice.end - splice.start
                self.fetched += splice.end - splice.start
        if share.text.private is not None and isinstance(share.text.cache, Erasable):
            share.text.cache.private = True
        tokens, lineage = share.tokens[start : share.end], share.lineage
        parents = None if lineage is None else lineage.fed(start, share.end)
        keep, asked = start - len(share.picks), share.forward
        choice = choice_of(asked) if asked is not None and self._chooses else None
        wanted = wanted_of(asked) if asked is not None and choice is None else ()
        return Part(share.text.cache, keep, tokens, share.rows, parents, share.picks, choice, wanted)

    def settle(self, share: Share, *, failed: bool, keeps: bool) -> None:
        """Note that a share was run. Texts of it that are over meanwhile end, see `end`."""
        self._fed(share, failed=failed)
        for text in share.texts:
            text.running = False
            if text.over:
                self.end(text, keeps=keeps)

    def _fed(self, share: Share, *, failed: bool) -> None:
        text = share.text
        if failed:
            text.cached = min(text.cached, share.start - len(share.picks))  # behind that may be anything
            if text.cache is None:  # none could be made
                self._free(text)
            return
        text.tokens, text.cached, text.lineage = share.tokens, share.end, share.lineage
        if share.origin is not None:
            self._reuse(text, share.origin.length)
        if share.is_last:
            self._ended(text)

    def end(self, text: Sequenced, *, keeps: bool) -> None:
        """A text is over. Its cache is kept for others that begin alike, if worth it."""
        self._ended(text)
        if self._copier is None or text.cache is None or not keeps:
            self._free(text)
            return
        _erase(text)
        text.cached = min(text.cached, text.cache.length)  # less where a call failed
        if text.lineage is not None:
            text.cached = min(text.cached, text.lineage.trunk)  # nobody begins with a tree
        if text.cached < BLOCK:
            self._free(text)
            return
        text.on_call = None
        if isinstance(text.cache, Roomy):
            text.cache.rest()
        self._prefixes.add(text, text.tokens[: text.cached])
        for each in self._memory.excess():
            self._free(each)

    def _ended(self, text: Sequenced) -> None:
        """Nothing more needs to come for a text."""
        coming = self._coming.pop(text, None)
        if coming is not None:
            coming.close()

    def _free(self, text: Sequenced) -> None:
        self._ended(text)
        self._prefixes.remove(text)
        _erase(text)
        self._memory.free(text)
        text.reused = 0  # what it had is fed again


def _erase(text: Sequenced) -> None:
    """Overwrite what a text that needs its cache no longer has from its first private token on."""
    if text.private is not None and isinstance(text.cache, Erasable):
        text.cache.erase(min(text.private, text.cache.length))

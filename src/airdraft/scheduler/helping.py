"""An edge's own draft model, in a scheduler of its own: it drafts for all texts, as many in a call as wait for it."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

from airdraft.core.edge.proposing import MOST_TIMED, SMOOTHING
from airdraft.core.events import Forward
from airdraft.errors import AirdraftError
from airdraft.models.base import FloatArray, TargetEngine
from airdraft.scheduler.loop import Scheduler
from airdraft.scheduler.turns import Call, Owner, Sequenced

_log = logging.getLogger(__package__)


class Helping:
    """The draft model of an edge."""

    def __init__(self, engine: TargetEngine) -> None:
        self.scheduler = Scheduler(engine, "draft")
        self.scheduler.on_call = self._called
        self.draft_s = 0.0
        """Duration of a call for one token of each text, in seconds; 0 if not known."""
        self._owners: WeakKeyDictionary[Owner, Owner] = WeakKeyDictionary()

    @property
    def context(self) -> int:
        """Most positions of a text that it holds."""
        return self.scheduler.engine.info.max_context

    def owner(self, client: Owner) -> Owner:
        """Return who a client of the target's engine is here: turns are as fair, and counted by themselves."""
        if client.tenant is None:
            return self._owners.setdefault(client, Owner())
        return Owner(self.owner(client.tenant))

    def _called(self, call: Call) -> None:
        if call.tokens <= MOST_TIMED * call.texts:
            known = self.draft_s
            self.draft_s = known + SMOOTHING * (call.seconds - known) if known else call.seconds


class Helped:
    """The texts of one connection, as that model sees them."""

    def __init__(self, helping: Helping | None, owner: Owner) -> None:
        """`owner`: the connection's, at the target's engine."""
        self._scheduler = None if helping is None else helping.scheduler
        self._owner = owner if helping is None else helping.owner(owner)
        self._texts: dict[int, Sequenced] = {}

    async def row(self, forward: Forward, private: int | None = None) -> FloatArray | None:
        """Run a forward. Returns: float32 [1, vocab]; None if that failed, which costs speed and is logged.

        private: see `Sequenced.private`.
        """
        if self._scheduler is None:
            return None
        try:
            text = self._texts.get(forward.session)
            if text is None or text.over:
                text = self._texts[forward.session] = self._scheduler.open(self._owner, private)
            return await self._scheduler.run(text, lambda: forward)
        except AirdraftError as error:
            _log.warning("session %d goes on without the edge's draft model: %s", forward.session, error)
            self.drop(forward.session)
            return None

    def drop(self, session: int | None = None) -> None:
        """Forget the text of a session, or all of them."""
        for number in list(self._texts) if session is None else [session]:
            if (text := self._texts.pop(number, None)) is not None and self._scheduler is not None:
                self._scheduler.drop(text)

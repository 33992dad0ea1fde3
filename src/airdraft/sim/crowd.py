"""Many devices and one edge in virtual time: two real machines for each, and one engine, whose calls hold many texts.

A call takes all forwards that have gathered while the last one ran, spare ones last, as many as it holds. Those of
the edge's own draft model are calls of their own, on the same engine, and go first. How long a call takes follows from
the number of its texts and of its rows. As in `virtual`, sockets and the Python that moves the bytes take no time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Committed, Event, Failed, Finished, Forward
from airdraft.core.messages import websocket_header
from airdraft.core.request import Request
from airdraft.errors import RefusedError
from airdraft.link.base import LinkModel, Pipe
from airdraft.models.base import LanguageModel

Takes = Callable[[bool, int, int], float]
"""Seconds of a call: whether it is of the edge's own draft model, its texts, and the tokens fed of all of them."""


@dataclass
class CrowdText:
    """A text of the crowd, with times in seconds of the virtual clock."""

    number: int
    """Its request's seed."""
    began_s: float
    ended_s: float = math.inf
    tokens: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    """For each token, seconds since the device had its predecessor; the first counts from the text's start."""


@dataclass
class _Side:
    """One machine of a user."""

    machine: DeviceMachine | EdgeMachine
    pipe: Pipe
    models: tuple[LanguageModel, LanguageModel]
    """The one it runs, and the edge's own draft model."""
    caches: dict[tuple[int, bool], Any] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    free_s: float = 0.0
    tick_s: float = math.inf

    def rows(self, forward: Forward) -> Any:
        """Run a forward."""
        own = forward.draft
        model, key = self.models[own], (forward.session, own)
        cache = self.caches.get(key)
        if cache is None:
            cache = self.caches[key] = model.new_cache()
        return model.forward(cache, forward.keep, forward.tokens, forward.rows)


@dataclass
class _User:
    device: _Side
    edge: _Side
    todo: Callable[[], Request]
    text: CrowdText
    last_s: float = 0.0


class Crowd:
    """Users who write one text after another over one edge."""

    def __init__(
        self,
        pairs: Sequence[tuple[DeviceMachine, EdgeMachine]],
        models: tuple[LanguageModel, LanguageModel],
        link: LinkModel,
        draft_s: float,
        takes: Takes,
        most: int,
        todo: Callable[[int], Callable[[], Request]],
        stagger_s: float = 1.0,
    ) -> None:
        """
        Args:
            pairs: for each user the machines of device and edge, made at time 0.
            models: the draft and the target, whoever runs them.
            draft_s: of a forward of a device's draft model.
            takes: see `Takes`.
            most: texts in one call.
            todo: makes what gives a user's requests, one after the other.
            stagger_s: within which the users begin.
        """
        self.now, self.busy_s, self.drafting_s = 0.0, 0.0, 0.0
        """The clock; seconds for which the engine was busy, and thereof with the edge's own draft model."""
        self.drafted = 0
        """Forwards of all devices' draft models."""
        self.calls: list[tuple[int, int]] = []
        """Texts and tokens fed of each of the target's calls."""
        self.written: list[CrowdText] = []
        self.tokens = 0
        """Committed tokens of all texts."""
        self._draft_s, self._takes, self._most = draft_s, takes, most
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._waiting: dict[tuple[int, int], Forward] = {}  # by user and session, in the order of their coming
        self._running = False
        draft, target = models
        self._users = [
            _User(
                _Side(device, link.uplink(), (draft, draft)), _Side(edge, link.downlink(), (target, draft)),
                todo(number), CrowdText(0, 0.0),
            )
            for number, (device, edge) in enumerate(pairs)
        ]  # fmt: skip
        for number in range(len(pairs)):
            self._at(stagger_s * number / len(pairs), self._greet, number)

    def run(self, until_s: float) -> None:
        """Let time pass. Raises: `RefusedError` if a text or a connection ends early."""
        while self._events and self._events[0][0] <= until_s:
            self.now, _, act, given = heapq.heappop(self._events)
            act(*given)
        self.now = until_s

    def _at(self, time_s: float, act: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), act, given))

    def _greet(self, number: int) -> None:
        user = self._users[number]
        self._flush(number, user.edge)
        self._flush(number, user.device)

    def _begin(self, number: int) -> None:
        user = self._users[number]
        machine = user.device.machine
        if isinstance(machine, DeviceMachine):
            request = user.todo()
            user.text, user.last_s = CrowdText(request.seed, self.now), self.now
            self._serve(number, user.device, machine.open(request, self.now)[1])

    def _serve(self, number: int, side: _Side, events: Sequence[Event]) -> None:
        user = self._users[number]
        here = side is user.device
        for event in events:
            if isinstance(event, Forward):
                if here:
                    start_s = max(self.now, side.free_s)
                    side.free_s = start_s + self._draft_s
                    self.drafted += 1
                    self._at(side.free_s, self._drafted, number, event)
                else:
                    self._waiting[number, event.session] = event
            elif isinstance(event, Failed):
                raise RefusedError(event.code, event.message)
            elif isinstance(event, Finished):
                side.ended.add(event.session)
                for key in [key for key in side.caches if key[0] == event.session]:
                    del side.caches[key]
                if here:
                    user.text.ended_s = self.now
                    self.written.append(user.text)
                    self._at(self.now, self._begin, number)
                else:
                    self._waiting.pop((number, event.session), None)
            elif isinstance(event, Committed) and here:
                self.tokens += len(event.tokens)
                user.text.tokens += event.tokens
                user.text.waits_s += [self.now - user.last_s, *[0.0] * (len(event.tokens) - 1)]
                user.last_s = self.now
        self._flush(number, side)
        self._call()

    def _drafted(self, number: int, forward: Forward) -> None:
        side = self._users[number].device
        if forward.session not in side.ended:
            self._serve(number, side, side.machine.forwarded(forward.session, side.rows(forward), self.now))

    def _call(self) -> None:
        """Start a call of the engine, if it is free and something waits. It begins when all of this moment has come."""
        if not self._running and self._waiting:
            self._running = True
            self._at(self.now, self._start)

    def _start(self) -> None:
        latest = {key: self._users[key[0]].edge.machine.latest(each) for key, each in self._waiting.items()}
        if not latest:
            self._running = False
            return
        own = any(each.draft for each in latest.values())  # short ones first: what they draft joins the next call
        chosen = sorted((key for key, each in latest.items() if each.draft == own), key=lambda key: latest[key].spare)
        batch = [(key, latest[key]) for key in chosen[: self._most]]
        for key, _ in batch:
            del self._waiting[key]
        fed = sum(len(forward.tokens) for _, forward in batch)
        took_s = self._takes(own, len(batch), fed)
        self.busy_s += took_s
        if own:
            self.drafting_s += took_s
        else:
            self.calls.append((len(batch), fed))
        self._at(self.now + took_s, self._settle, batch)

    def _settle(self, batch: Sequence[tuple[tuple[int, int], Forward]]) -> None:
        self._running = False
        for (number, session), forward in batch:
            side = self._users[number].edge
            if session not in side.ended:
                self._serve(number, side, side.machine.forwarded(session, side.rows(forward), self.now))
        self._call()

    def _flush(self, number: int, side: _Side) -> None:
        data, here = side.machine.take(), side is self._users[number].device
        due_s = side.machine.deadline()
        if due_s is not None and not self.now < side.tick_s <= due_s:
            side.tick_s = due_s
            self._at(due_s, self._tick, number, side)
        if data:
            nbytes = len(data) + websocket_header(len(data), here)
            self._at(side.pipe.send(self.now, nbytes), self._receive, number, not here, data)

    def _tick(self, number: int, side: _Side) -> None:
        if self.now >= side.tick_s:
            side.tick_s = math.inf
            self._serve(number, side, side.machine.tick(self.now))

    def _receive(self, number: int, here: bool, data: bytes) -> None:
        user = self._users[number]
        side = user.device if here else user.edge
        greeted = here and isinstance(side.machine, DeviceMachine) and side.machine.ready
        self._serve(number, side, side.machine.receive(data, self.now))
        if here and not greeted and isinstance(side.machine, DeviceMachine) and side.machine.ready:
            side.machine.measure(self.now)
            self._flush(number, side)
            self._at(self.now + 0.5, self._begin, number)

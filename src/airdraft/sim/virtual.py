"""Both machines in virtual time, over any link and at any compute speed. The clock jumps from event to event.

The real machines run, so every message, byte and decision is real. Only the time that forwards and bytes take is
computed. The one approximation is that sockets, and the Python that moves the bytes, take no time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine
from airdraft.core.events import Committed, Compile, Event, Failed, Finished, Forward
from airdraft.core.law import Guide, Read
from airdraft.core.messages import websocket_header
from airdraft.core.request import Counts, Request
from airdraft.errors import LinkError, RefusedError
from airdraft.link.base import LinkModel, Pipe
from airdraft.models.base import LanguageModel
from airdraft.sim.running import run

Side = Literal["device", "edge"]


@dataclass(frozen=True)
class Compute:
    """Duration of a forward in seconds, for any number of tokens."""

    draft_s: float
    verify_s: float
    edge_draft_s: float = 0.0
    """Of the edge's own draft model, which shares the processor with the target."""
    widening: float = 1.0
    """Duration of the device's draft forward at several places of a tree, in those at one."""
    read_s: float = 0.0
    """Of reading a text's guide at the edge, beside the forwards."""

    def takes_s(self, side: Side, forward: Forward, now: float) -> float:
        """Return the duration of a forward that starts now, in seconds."""
        if side == "device":
            return self.draft_s * (self.widening if forward.rows > 1 else 1.0)
        return self.edge_draft_s if forward.draft else self.verify_s


@dataclass(frozen=True)
class Span:
    """A stretch of time: a forward (lanes `device` and `edge`) or a flight (`uplink` and `downlink`)."""

    lane: str
    start_s: float
    end_s: float
    forward: Forward | None = None
    nbytes: int = 0
    """Size of a flight, without headers."""


@dataclass
class VirtualText:
    """The result of one request, with times in seconds of the virtual clock."""

    began_s: float
    ended_s: float = 0.0
    tokens: list[int] = field(default_factory=list)
    commits: list[tuple[float, Committed]] = field(default_factory=list)
    reason: str = ""
    counts: Counts = field(default_factory=Counts)


def _ignore(event: Event) -> None:
    pass


class _Side:
    """A machine, its model, and its outgoing pipe."""

    def __init__(self, name: Side, machine: DeviceMachine | EdgeMachine, model: LanguageModel, pipe: Pipe) -> None:
        self.name = name
        self.machine = machine
        self.model = model
        self.pipe = pipe
        self.caches: dict[tuple[int, bool], Any] = {}  # by session, and whether the edge's own draft model's
        self.ended: set[int] = set()  # ended sessions with a forward still under way
        self.free_s = 0.0
        self.busy_s = 0.0
        self.sending_s = 0.0
        self.deadline_s = math.inf


class Virtual:
    """A device and an edge, joined by a link under one clock. They write one text at a time."""

    def __init__(
        self,
        device: DeviceMachine,
        edge: EdgeMachine,
        draft: LanguageModel,
        target: LanguageModel,
        link: LinkModel,
        compute: Compute,
        spans: list[Span] | None = None,
        *,
        began_s: float = 0.0,
        faults: Sequence[tuple[float, Callable[[Virtual], None]]] = (),
        helping: LanguageModel | None = None,
        read: Read | None = None,
    ) -> None:
        """Both machines must have been made at time `began_s`. `spans` is filled if given.

        helping: the edge's own draft model; None: its forwards fail.
        faults: the faults of this connection and their times. Each may `tear` it, or end it by raising an error, which
            the call that lets time pass then raises.
        read: reads guides on both sides; None: texts have none.
        Raises: `RefusedError` if the two sides do not shake hands.
        """
        self.now = began_s
        self._device = _Side("device", device, draft, link.uplink())
        self._edge = _Side("edge", edge, target, link.downlink())
        self._compute, self._helping, self._unhelped = compute, helping, edge.unhelped
        self._read, self._guided, self._eos_ids = read, edge.guided, target.eos_ids
        self._spans = spans
        self._todo: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self._text: VirtualText | None = None
        self._on_event: Callable[[Event], None] = _ignore
        self._torn: tuple[Side, float, LinkError] | None = None
        for at_s, befall in faults:
            self._at(max(began_s, at_s), befall, self)
        self._flush(self._edge)
        self._flush(self._device)
        self._run(lambda: device.ready)
        device.measure(self.now)
        self._flush(self._device)

    @property
    def busy_s(self) -> dict[str, float]:
        """Seconds for which each resource was busy."""
        return {
            "draft": self._device.busy_s,
            "target": self._edge.busy_s,
            "uplink": self._device.sending_s,
            "downlink": self._edge.sending_s,
        }

    @property
    def sent_bytes(self) -> tuple[int, int]:
        """Bytes on the uplink and on the downlink, all headers included."""
        return self._device.pipe.sent_bytes, self._edge.pipe.sent_bytes

    def rest(self, seconds: float) -> None:
        """Let time pass without a text."""
        until_s = self.now + seconds
        self._at(until_s, lambda: None)
        self._run(lambda: self.now >= until_s)

    def tear(self, side: Side, share: float, error: LinkError) -> None:
        """Deliver only this share (0 to 1) of the next bytes on their way to `side`, then end the connection."""
        self._torn = side, share, error

    def write(self, request: Request, on_event: Callable[[Event], None] = _ignore) -> VirtualText:
        """Serve one request to its end. `on_event` gets the device machine's events as they happen.

        Raises: `RefusedError` with the code and message of an early end of the session or connection.
        """
        text = self._text = VirtualText(self.now, counts=request.counts)
        self._on_event = on_event
        machine = self._device.machine
        if not isinstance(machine, DeviceMachine):
            raise TypeError("the device's side holds another machine")
        read, spec = self._read, request.guide
        guide = None if read is None or spec is None else read(spec, self._eos_ids)
        _, events = machine.open(request, self.now, guide)
        self._serve(self._device, events)
        self._run(lambda: bool(text.reason))
        return text

    def _run(self, done: Callable[[], bool]) -> None:
        while not done():
            tick_s = min(self._device.deadline_s, self._edge.deadline_s)
            if self._todo and self._todo[0][0] <= tick_s:
                self.now, _, act, given = heapq.heappop(self._todo)
                act(*given)
            elif tick_s < math.inf:
                self.now = max(self.now, tick_s)
                for side in (self._device, self._edge):
                    self._serve(side, side.machine.tick(self.now))
            else:
                raise LinkError("both machines are idle and the text is not done")

    def _at(self, time_s: float, act: Callable[..., None], *given: Any) -> None:
        heapq.heappush(self._todo, (time_s, next(self._order), act, given))

    def _serve(self, side: _Side, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Forward):
                if side.free_s <= self.now:
                    self._start(side, event)
                else:
                    self._at(side.free_s, self._start, side, event)
                continue
            if isinstance(event, Compile) and self._read is not None:
                guide = self._read(event.spec, event.eos_ids)
                self._at(self.now + self._compute.read_s, self._have_read, event.session, guide)
            if side is self._device:
                self._on_event(event)
                if isinstance(event, Failed):
                    raise RefusedError(event.code, event.message)
            if isinstance(event, Failed | Finished) and event.session is not None:
                for draft in (False, True):
                    side.caches.pop((event.session, draft), None)
                side.ended.add(event.session)
            if isinstance(event, Finished):
                if side is self._device and self._text is not None:
                    self._text.reason, self._text.ended_s = event.reason, self.now
            elif isinstance(event, Committed) and self._text is not None:
                self._text.commits.append((self.now, event))
                self._text.tokens += event.tokens
        self._flush(side)

    def _have_read(self, session: int, guide: Guide) -> None:
        self._serve(self._edge, self._guided(session, guide, self.now))

    def _start(self, side: _Side, forward: Forward) -> None:
        if side.free_s > self.now:  # another forward came first
            self._at(side.free_s, self._start, side, forward)
            return
        if forward.session in side.ended:
            return
        forward = side.machine.latest(forward)
        took_s = self._compute.takes_s(side.name, forward, self.now)
        side.free_s = self.now + took_s
        side.busy_s += took_s
        if self._spans is not None:
            self._spans.append(Span(side.name, self.now, side.free_s, forward))
        self._at(side.free_s, self._finish, side, forward)

    def _finish(self, side: _Side, forward: Forward) -> None:
        if forward.session in side.ended:
            return
        key, model = (forward.session, forward.draft), self._helping if forward.draft else side.model
        if model is None:
            self._serve(side, self._unhelped(forward.session, self.now))
            return
        cache = side.caches.get(key)
        if cache is None:
            cache = side.caches[key] = model.new_cache()
        logits = run(model, cache, forward)
        self._serve(side, side.machine.forwarded(forward.session, logits, self.now))

    def _flush(self, side: _Side) -> None:
        data = side.machine.take()
        deadline_s = side.machine.deadline()
        side.deadline_s = math.inf if deadline_s is None else deadline_s
        if not data:
            return
        other = self._edge if side is self._device else self._device
        nbytes = len(data) + websocket_header(len(data), side is self._device)
        before_s = max(self.now, side.pipe.free_at_s)
        arrival_s = side.pipe.send(self.now, nbytes)
        side.sending_s += side.pipe.free_at_s - before_s
        if self._spans is not None:
            lane = "uplink" if side is self._device else "downlink"
            self._spans.append(Span(lane, self.now, arrival_s, nbytes=len(data)))
        self._at(arrival_s, self._receive, other, data)

    def _receive(self, side: _Side, data: bytes) -> None:
        if self._torn is not None and self._torn[0] == side.name:
            _, share, error = self._torn
            self._serve(side, side.machine.receive(data[: int(share * len(data))], self.now))
            raise error
        self._serve(side, side.machine.receive(data, self.now))

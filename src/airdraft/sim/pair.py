"""A device and an edge, joined by a wire that loses nothing and takes no time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from airdraft.control.machine import device_machine
from airdraft.core.device import DeviceMachine
from airdraft.core.edge import EdgeMachine, Help, Limits, Propose, Target, nobody
from airdraft.core.events import Committed, Compile, Event, Failed, Finished, Forward
from airdraft.core.law import Read
from airdraft.core.messages import VERSION, Hello
from airdraft.core.request import Counts, Request
from airdraft.errors import RefusedError
from airdraft.models.base import LanguageModel
from airdraft.sim.running import run


@dataclass
class PairText:
    """The result of one request."""

    tokens: list[int] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)
    reason: str = ""
    counts: Counts = field(default_factory=Counts)


class Pair:
    """Both machines and both models in one thread, which serves events in order."""

    def __init__(
        self,
        draft: LanguageModel,
        target: LanguageModel,
        *,
        limits: Limits | None = None,
        chunk: int = 1 << 30,
        propose: Propose = nobody,
        lookup: bool = False,
        trees: bool = False,
        help: Help | None = None,
        helping: LanguageModel | None = None,
        read: Read | None = None,
    ) -> None:
        """`chunk`: bytes that the wire carries at a time. `propose`, `help`: as for `EdgeMachine`, which runs `helping`
        as its own draft model; None: that fails. `lookup`: see `device_machine`. `trees`: whether both models run
        trees. `read`: reads guides on both sides."""
        tokenizer, context = bytes(16), target.max_context
        identity = Target(
            "airdraft", target.name, tokenizer, target.vocab_size, context, target.eos_ids, trees=trees,
            guides="the same" if read is not None else "",
        )  # fmt: skip
        self.edge = EdgeMachine(identity, limits or Limits(), now=0.0, propose=propose, help=help)
        hello = Hello(VERSION, "airdraft", draft.name, tokenizer, draft.vocab_size)
        self.device = device_machine(hello, draft.max_context, now=0.0, lookup=lookup, wide=trees)
        self._draft, self._target, self._helping, self._chunk = draft, target, helping, chunk
        self._read = read
        self._caches: dict[tuple[str, int, bool], object] = {}
        self._pump(PairText())

    def write(self, request: Request) -> PairText:
        """Serve one request to its end.

        Raises: `RefusedError` with the code and message of an early end of the session or connection.
        """
        text = PairText(counts=request.counts)
        read, spec = self._read, request.guide
        guide = read(spec, self._target.eos_ids) if read is not None and spec is not None else None
        _, events = self.device.open(request, 0.0, guide)
        self._pump(text, events)
        self._caches.clear()
        return text

    def _pump(self, text: PairText, events: list[Event] | None = None) -> None:
        todo: deque[tuple[str, Event]] = deque(("device", event) for event in events or [])
        while True:
            uplink, downlink = self.device.take(), self.edge.take()
            todo.extend(("edge", event) for event in self._carry(uplink, self.edge))
            todo.extend(("device", event) for event in self._carry(downlink, self.device))
            if uplink or downlink:
                continue
            if not todo:
                return
            side, event = todo.popleft()
            if isinstance(event, Forward):
                todo.extend((side, more) for more in self._forward(side, event))
            elif isinstance(event, Compile) and self._read is not None:
                guide = self._read(event.spec, event.eos_ids)
                todo.extend(("edge", more) for more in self.edge.guided(event.session, guide, 0.0))
            elif isinstance(event, Failed):
                raise RefusedError(event.code, event.message)
            elif side == "device" and isinstance(event, Committed):
                text.commits.append(event)
                text.tokens += event.tokens
            elif side == "device" and isinstance(event, Finished):
                text.reason = event.reason

    def _carry(self, data: bytes, to: DeviceMachine | EdgeMachine) -> list[Event]:
        events: list[Event] = []
        for at in range(0, len(data), self._chunk):
            events += to.receive(data[at : at + self._chunk], now=0.0)
        return events

    def _forward(self, side: str, event: Forward) -> list[Event]:
        machine, model = (self.device, self._draft) if side == "device" else (self.edge, self._target)
        if event.draft:
            if self._helping is None:
                return self.edge.unhelped(event.session, 0.0)
            model = self._helping
        key = (side, event.session, event.draft)
        if key not in self._caches:
            self._caches[key] = model.new_cache()
        event = machine.latest(event)
        logits = run(model, self._caches[key], event)
        return machine.forwarded(event.session, logits, now=0.0)

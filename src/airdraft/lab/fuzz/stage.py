"""A real edge in this process, a hostile peer in a thread, and what one turn of the edge's loop then costs.

Nobody else is served while a turn lasts, so the dearest turn is how long a hostile peer holds up its neighbours. It is
counted in CPU time of the loop's own thread: other threads and other processes do not count, the peer and the engine
among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import selectors
import socket
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import msgspec

from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import LinkError
from airdraft.lab.hostile.attacks import MESSAGE_BYTES
from airdraft.lab.hostile.floods import ANSWERED, FLOODS, Victim
from airdraft.lab.hostile.peer import CONTINUATION, PING, RawPeer, frame
from airdraft.models.base import TargetEngine
from airdraft.models.registry import load_target
from airdraft.models.text import Tokenizer
from airdraft.telemetry.trace import Traces

WHOLE, SOME = 4 << 20, 1 << 20
"""Bytes of a flood: in one message as long as a frame, or in small ones."""
SENDING_S = 1.0
"""Seconds after which a peer stops that the edge does not read, or reads slowly."""
POLL_S = 0.005


class Act(msgspec.Struct, frozen=True):
    """Something that a hostile peer does to an edge."""

    name: str
    wire: Callable[[Victim], Iterable[bytes]]
    """WebSocket frames after the greeting's."""
    reads: bool = True


def _flood(name: str, whole: bool = False, reads: bool = True) -> Act:
    """A flood in messages as long as our own sides make them, or in one `whole` message."""

    def wire(victim: Victim) -> Iterable[bytes]:
        most, data = (WHOLE if whole else SOME), bytearray()
        for chunk in FLOODS[name](victim):
            data += chunk
            if len(data) >= most:
                break
        size = most if whole else MESSAGE_BYTES
        return (frame(bytes(data[at : at + size])) for at in range(0, len(data), size))

    return Act(f"{name}{', in one message' if whole else ''}{'' if reads else ', never read'}", wire, reads)


def acts() -> list[Act]:
    """Everything that a hostile peer does."""
    empty, ping = frame(b"", CONTINUATION, final=False), frame(bytes(125), PING)
    return [
        *(_flood(name, whole) for name in FLOODS for whole in (False, True)),
        *(_flood(name, reads=False) for name in ANSWERED),
        Act("WebSocket pings, never read", lambda _: [ping] * (SOME // len(ping)), reads=False),
        Act("fragments without a byte", lambda _: [frame(b"", final=False), *[empty] * (SOME // len(empty))]),
    ]


@cache
def _target() -> tuple[TargetEngine, Tokenizer]:
    return load_target("target")


class Cost(msgspec.Struct, frozen=True):
    """What something took of the edge."""

    cpu_ms: float
    """CPU of the loop's thread in the dearest turn."""
    peak_bytes: int
    """Most memory at once, beyond what the edge takes without a peer. 0: not measured."""


class _Turns(selectors.DefaultSelector):
    """A selector that times the loop's turns: what happens between one call of `select` and the next is one."""

    def __init__(self) -> None:
        super().__init__()
        self.dearest_s = 0.0
        """CPU of the dearest turn since this was last set to 0."""
        self._began_s = time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        self.dearest_s = max(self.dearest_s, time.thread_time() - self._began_s)
        found = super().select(timeout)
        self._began_s = time.thread_time()
        return found


def cost(act: Act, memory: bool) -> Cost:
    """Try it on a fresh edge; CPU, or (it slows everything down) `memory`. Raises whatever the edge's loop raises."""
    turns = _Turns()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        return runner.run(_cost(act, memory, turns))


async def _cost(act: Act, memory: bool, turns: _Turns) -> Cost:
    engine, tokenizer = _target()
    victim = Victim(tokenizer.digest, tokenizer.vocab_size)
    wire = [frame(victim.hello), *act.wire(victim)]
    with tempfile.TemporaryDirectory() as folder:
        service = Service(traces=Traces(Path(folder), "edge"))
        async with EdgeServer(engine, tokenizer.digest, tokenizer.vocab_size, service=service) as server:
            await server.start("127.0.0.1", 0)
            tenant = server.tenant_of("")
            if tenant is None:
                raise LinkError("an edge without tokens lets nobody in")
            gc.collect()
            with _traced(memory) as peak:
                await asyncio.sleep(0)  # a turn of our own ends
                turns.dearest_s = 0.0
                await _attack(f"ws://127.0.0.1:{server.port}", wire, act.reads, lambda: tenant.connections > 0)
            return Cost(0.0 if memory else 1e3 * turns.dearest_s, peak[0])


@contextlib.contextmanager
def _traced(wanted: bool) -> Iterator[list[int]]:
    """Trace memory in the body, if it is wanted. Yields a list that then holds the peak, in bytes."""
    peak = [0]
    if not wanted:
        yield peak
        return
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


async def _attack(url: str, wire: Sequence[bytes], reads: bool, connected: Callable[[], bool]) -> None:
    """Send everything, or what can be sent in `SENDING_S`; let the edge work on it for as long; go without a word."""
    peer = await asyncio.to_thread(RawPeer, url)

    def send() -> None:
        with contextlib.suppress(OSError):  # the edge has ended the connection
            for data in wire:
                peer.socket.sendall(data)
            peer.socket.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    if reads:
        threading.Thread(target=peer.discard, daemon=True).start()
    for going_on in (sending.is_alive, connected):
        over_s = time.monotonic() + SENDING_S
        while going_on() and time.monotonic() < over_s:  # noqa: ASYNC110  no event tells
            await asyncio.sleep(POLL_S)
    peer.abort()
    await asyncio.to_thread(sending.join)

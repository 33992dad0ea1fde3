"""The edge's WebSocket server, around one target model."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve

from airdraft.core.edge import EdgeMachine, Help, Limits, Propose, Target, nobody
from airdraft.edge.access import Access, Tenant, anybody
from airdraft.edge.door import Door, Socket, peer_of
from airdraft.edge.guides import EdgeDriver
from airdraft.edge.watch import Watch
from airdraft.errors import Code, LinkError, RefusedError, why
from airdraft.listening import Listener, listen
from airdraft.models.base import TargetEngine
from airdraft.models.fit import kept_bytes
from airdraft.scheduler import Call, Helping, Scheduler
from airdraft.sockets import MESSAGE_BYTES, QUEUE
from airdraft.telemetry.logs import fields
from airdraft.telemetry.metrics import Metrics, Readings
from airdraft.telemetry.trace import Traces
from airdraft.transport import CLOSE_S, Driver, GuideReader
from airdraft.version import __version__

SWEEP_S = 5.0
"""Most seconds between two checks for idle texts and connections."""
DRAIN_LOOK_S = 0.02
"""Seconds between two checks whether all texts have ended."""
GOING_AWAY, SERVICE_RESTART = 1001, 1012  # RFC 6455 §7.4.1 and its registry

_log = logging.getLogger(__name__)

# A separate logger, because at DEBUG the library logs the headers of every handshake, with the token among them.
_wire = logging.getLogger("airdraft.websocket")
_wire.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Capacity:
    """Limits of the engine for all connections together. None: no limit."""

    texts: int | None = 1024
    """Most texts at once; more are refused."""
    batch: int | None = None
    """Most texts in one call."""
    positions: int | None = None
    """Most key-value positions at once. A text that loses its cache to another is fed again, not refused."""
    kept_bytes: int = field(default_factory=kept_bytes)
    """Of keys and values of ended texts, but for the last of them; 0: nothing is kept."""

    def scheduler(self, engine: TargetEngine) -> Scheduler:
        """A scheduler within these limits."""
        return Scheduler(
            engine, "target", max_batch=self.batch, max_positions=self.positions, max_texts=self.texts,
            kept_bytes=self.kept_bytes,
        )  # fmt: skip


@dataclass(frozen=True)
class Service:
    """The edge's settings for the network and telemetry."""

    tls: ssl.SSLContext | None = None
    """Context for wss://, which then replaces ws://."""
    access: Access | None = None
    """The tokens to accept; None: any device may connect."""
    connections: int | None = 1024
    """Most connections at once; more are refused."""
    handshake_s: float = 10.0
    """Time limit for the TLS handshake, and for the WebSocket's."""
    idle_s: float | None = 300.0
    """Seconds after which a text without progress ends, or a connection without a text. None: never."""
    traces: Traces | None = None
    propose: Propose = nobody
    """Makes the proposers of a text, see `EdgeMachine`."""
    learning: Callable[[], Propose] | None = None
    """Makes the same for one tenant, if proposers learn from one text for another; None: they do not."""
    helping: Helping | None = None
    """A draft model of the edge's own."""
    help: Help | None = None
    """Makes the helper of a text, which drafts with it."""
    reader: GuideReader | None = None
    """Reads the guides of texts; None: texts have none."""

    @property
    def guides(self) -> str:
        """As in `Welcome`."""
        return self.reader.name if self.reader is not None else ""

    @property
    def draft_s(self) -> float:
        """Duration of a forward of the edge's own draft model, in seconds; 0 if not known."""
        return self.helping.draft_s if self.helping is not None else 0.0

    def proposing(self, tenant: Tenant) -> Propose:
        """Return what makes the proposers of a tenant's texts."""
        if self.learning is None:
            return self.propose
        if tenant.propose is None:
            tenant.propose = self.learning()
        return tenant.propose


class EdgeServer:
    """Serves one target to any number of devices. A device's fault ends only its own session or connection."""

    def __init__(
        self,
        engine: TargetEngine,
        tokenizer: bytes,
        vocab_size: int,
        limits: Limits | None = None,
        capacity: Capacity | None = None,
        service: Service | None = None,
    ) -> None:
        """`tokenizer` and `vocab_size` are the digest and size of the vocabulary that the model was trained with."""
        limits, capacity, info = limits or Limits(), capacity or Capacity(), engine.info
        if info.max_rollback is not None:  # rejected drafts are rolled back
            limits = replace(limits, max_draft=min(limits.max_draft, info.max_rollback))
        self.limits, self.service = limits, service or Service()
        self.exactness = info.exactness.in_calls_of(capacity.batch)
        self.target = Target(
            f"airdraft {__version__}", info.name, tokenizer, vocab_size, info.max_context, info.eos_ids, info.top_k,
            info.digest, tuple(self.exactness.shares.values()), info.trees, info.doubt, info.erases,
            self.service.guides,
        )  # fmt: skip
        self.scheduler = capacity.scheduler(engine)
        self.metrics = Metrics(self._read)
        self.scheduler.on_call = partial(_called, self.metrics)
        self._anybody = anybody(0.0)
        self._door = Door(self.service.access, self._anybody, self.service.connections, self.metrics)
        self._live: dict[Socket, tuple[Driver, Watch]] = {}
        self._bytes_in = self._bytes_out = 0  # of closed connections
        self._servers: list[Server] = []  # one for each address
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Port 0 picks a free one, see `port`.

        Raises: `LinkError` if the address is not available.
        """
        try:
            self._servers = [await self._serve_on(listener) for listener in await listen(host, port)]
        except (OSError, UnicodeError) as error:
            raise LinkError(
                f"the edge cannot listen on {host}:{port} ({why(error)}); choose a free port, or port 0"
            ) from error
        if self.service.idle_s is not None:
            self._sweeper = asyncio.create_task(self._sweep(self.service.idle_s))

    async def _serve_on(self, listener: Listener) -> Server:
        return await serve(
            self._serve,
            sock=listener,
            ssl=self.service.tls,
            process_request=self._door.process_request,
            create_connection=Socket,
            origins=[None],  # web pages in a browser are not devices
            open_timeout=self.service.handshake_s,
            logger=_wire,
            server_header=None,
            compression=None,  # ids and probabilities do not compress well
            max_size=MESSAGE_BYTES,
            max_queue=QUEUE,
            ping_interval=None,  # the protocol has its own heartbeats
        )

    @property
    def port(self) -> int:
        """The port that devices connect to."""
        if not self._servers:
            raise LinkError("the edge is not listening; start it first")
        port: int = next(iter(self._servers[0].sockets)).getsockname()[1]
        return port

    def health(self) -> str | None:
        """Reason why new texts should go elsewhere; None: they may come."""
        return "draining" if self._door.closing else None if self._servers else "not listening"

    def reload(self) -> None:
        """Read the tokens again, and end connections whose token is gone.

        Raises: `BadParameterError` if the file has a mistake, and then keeps the old tokens.
        """
        if self.service.access is not None:
            self.service.access.reload(asyncio.get_running_loop().time())
        for socket, (driver, _) in list(self._live.items()):
            if socket.tenant is not None and socket.tenant.revoked:
                driver.fail(Code.REVOKED, "the token of this connection is no longer valid; connect with another")

    async def drain(self, seconds: float) -> None:
        """Refuse new texts, wait at most `seconds` for the open ones to end, then close.

        Devices are closed with code 1012, so they may go on elsewhere.
        """
        self._door.closing = True
        try:
            async with asyncio.timeout(seconds):
                while self._texts():  # noqa: ASYNC110 - a text without a connection does not signal its end
                    await asyncio.sleep(DRAIN_LOOK_S)
        except TimeoutError:
            _log.warning("%d texts were cut off: they took longer than the %g s allowed", self._texts(), seconds)
        await self.close()

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        code = SERVICE_RESTART if self._door.closing else GOING_AWAY
        if self._sweeper is not None:
            self._sweeper.cancel()
        servers, self._servers = self._servers, []
        closing = [asyncio.create_task(socket.close(code)) for socket in self._door.sockets]
        for server in servers:
            server.close()
        ends = [asyncio.create_task(server.wait_closed()) for server in servers]
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.shield(asyncio.gather(*ends))
        except TimeoutError:  # devices that do not read, or do not answer
            for socket in self._door.sockets:
                socket.transport.abort()
        await asyncio.gather(*closing, *ends)
        self.scheduler.close()
        if self.service.helping is not None:
            self.service.helping.scheduler.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def tenant_of(self, authorization: str) -> Tenant | None:
        """Return the tenant of an `Authorization` header, None if unknown. Without tokens there is only one tenant."""
        access = self.service.access
        return self._anybody if access is None else access.find(authorization)

    def admit(self, tenant: Tenant, watch: Watch) -> None:
        """Admit another text of a tenant. Its `Watch` counts its end. Raises: `RefusedError`."""
        if self._door.closing:
            raise RefusedError(Code.BUSY, "this edge is about to end; open the text at another, or here later")
        most = tenant.quotas.sessions
        if most is not None and tenant.sessions >= most:
            raise RefusedError(
                Code.QUOTA, f"{tenant.sessions} texts of this token are open; close one, or try again later"
            )
        tenant.sessions += 1
        watch.reserved += 1

    def watch(self, text: Callable[[int], Sequence[int]], peer: str, tenant: Tenant) -> Watch:
        """Make a `Watch` for a connection, or for any other writer that uses this engine.

        `text`: returns a session's prompt and committed tokens.
        """
        clock = asyncio.get_running_loop().time
        return Watch(text, peer, tenant, self.metrics, self.service.traces, clock)

    def _texts(self) -> int:
        """Count the open texts of all tenants, whether from devices or other writers."""
        return sum(tenant.sessions for tenant in (self._anybody, *(self.service.access or ())))

    def _speed(self, tenant: Tenant) -> float:
        """Return the duration of a forward in seconds, from any connection of the tenant; 0 if not known."""
        machines = [driver.machine for socket, (driver, _) in self._live.items() if socket.tenant is tenant]
        return next((machine.verify_s for machine in machines if machine.verify_s), tenant.verify_s)

    async def _serve(self, socket: ServerConnection) -> None:
        if not isinstance(socket, Socket) or socket.tenant is None:
            raise LinkError("a connection came through without being admitted")
        tenant, quotas, clock = socket.tenant, socket.tenant.quotas, asyncio.get_running_loop().time
        target = replace(self.target, max_context=min(self.target.max_context, quotas.context or 1 << 62))
        limits = replace(self.limits, max_sessions=min(self.limits.max_sessions, quotas.sessions or 1 << 30))
        service = self.service
        machine = EdgeMachine(
            target, limits, clock(), self._speed(tenant), propose=service.proposing(tenant), help=service.help,
            draft_s=service.draft_s,
        )  # fmt: skip
        peer = peer_of(socket)
        watch = self.watch(machine.text, peer, tenant)
        machine.admit = partial(self.admit, tenant, watch)
        machine.held = partial(self.scheduler.caches.held, tenant.owner)
        whole = self.target.top_k is None
        driver = EdgeDriver(service.reader, machine, socket, self.scheduler, watch, tenant, service.helping, whole)
        self._live[socket] = driver, watch
        _log.info("%s (%s) is connected", peer, tenant.name, extra=fields(peer=peer, tenant=tenant.name))
        try:
            await driver.run()
        finally:
            del self._live[socket]
            _log.info("%s (%s) is gone", peer, tenant.name, extra=fields(peer=peer, tenant=tenant.name))
            self._bytes_in += driver.bytes_in
            self._bytes_out += driver.bytes_out
            tenant.verify_s = machine.verify_s or tenant.verify_s

    async def _sweep(self, idle_s: float) -> None:
        """End texts and connections that have been idle for too long."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(idle_s / 4, SWEEP_S))
            since = clock() - idle_s
            for driver, watch in list(self._live.values()):
                # While a forward waits, the edge causes the delay.
                for number in [each for each in watch.idle(since) if not driver.waits(each)]:
                    driver.fail(
                        Code.IDLE, f"nothing was written for {idle_s:g} s; open the text again to go on", number
                    )
                if not watch.texts and watch.rested_s < since and not driver.machine.closed:
                    driver.fail(Code.IDLE, f"no text was open for {idle_s:g} s; connect again to write")

    def _read(self) -> Readings:
        drivers = [driver for driver, _ in self._live.values()]
        caches, bytes_each = self.scheduler.caches, self.scheduler.engine.info.position_bytes
        return Readings(
            received_bytes_total=self._bytes_in + sum(driver.bytes_in for driver in drivers),
            sent_bytes_total=self._bytes_out + sum(driver.bytes_out for driver in drivers),
            evictions_total=caches.evictions,
            prompt_tokens_fetched_total=caches.fetched,
            waiting_forwards=self.scheduler.waiting,
            kv_positions=caches.positions,
            kv_bytes=None if bytes_each is None else caches.positions * bytes_each,
            texts=self._texts(),
            connections=len(self._live),
        )


def _called(metrics: Metrics, call: Call) -> None:
    metrics.forward_s.observe(call.seconds)
    metrics.batch.observe(call.texts)

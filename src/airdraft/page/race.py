"""A race: the same prompt by two ways, each alone over its own emulated link, from this device to its edge."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from airdraft.api.errors import ApiError
from airdraft.control.auto import AUTO, way
from airdraft.core import schemes
from airdraft.core.logprobs import check_logprobs
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.client import EdgeConnection
from airdraft.device.cost import CostMeter
from airdraft.errors import BadParameterError
from airdraft.link.const import ConstLink
from airdraft.link.relay import Relay
from airdraft.telemetry.feed import LABEL, Feed

WAYS = (*schemes.SCHEMES, AUTO)
_Rate = Annotated[float, msgspec.Meta(gt=0, le=10_000)]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """What the page asks for."""

    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    ways: Annotated[list[str], msgspec.Meta(min_length=2, max_length=2)]
    uplink_mbps: _Rate
    downlink_mbps: _Rate
    rtt_ms: Annotated[float, msgspec.Meta(ge=0, le=10_000)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=500)] = 80
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.7
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] = 0


class Race:
    """Runs races, one at a time. Both ways run one after the other, so that neither takes time from the other."""

    def __init__(
        self,
        connect: Callable[[str], Awaitable[EdgeConnection]],
        edge: Callable[[], str | None],
        encode: Callable[[str], Sequence[int]],
        vocab_size: int,
        feed: Feed,
    ) -> None:
        """
        Args:
            connect: connects this device's draft model to an edge.
            edge: returns the URL of the edge in use; None: there is none.
            encode: turns what a person types into a prompt.
            feed: where the events of the race go.
        """
        self._connect, self._edge, self._encode, self._vocab_size = connect, edge, encode, vocab_size
        self._feed, self._turn, self._numbers = feed, asyncio.Lock(), itertools.count(1)
        self.spent = CostMeter()
        """What all races have cost this device."""

    async def run(self, asked: Asked) -> dict[str, Any]:
        """Write the prompt both ways. Returns: the names of both texts, whose events the feed has told.

        Raises: `ApiError` if a race runs already, for a way that is unknown, or an edge that the link cannot carry.
        """
        if unknown := [way for way in asked.ways if way not in WAYS]:
            raise ApiError(400, f"{unknown[0]!r} is no way to write; choose from {', '.join(WAYS)}", "ways")
        if self._turn.locked():
            raise ApiError(409, "a race runs already; wait for its end")
        host, port = self._address()
        prompt = await asyncio.to_thread(self._encode, asked.prompt)
        if not prompt:
            raise ApiError(400, "the prompt has no tokens; give some text", "prompt")
        async with self._turn:
            number = next(self._numbers)
            names = [f"race{number}/{lane}" for lane in range(2)]
            LABEL.set(f"warm-up{number}")
            for way in dict.fromkeys(asked.ways):  # both models have read the prompt when it begins
                async with self._linked(asked, host, port, free=True) as client:
                    await self._write(client, self._request(asked, way, prompt, 2))
            for name, way in zip(names, asked.ways, strict=True):
                LABEL.set(name)
                request = self._request(asked, way, prompt, asked.max_tokens)
                async with self._linked(asked, host, port) as client:
                    await self._write(client, request)
                    facts = client.facts()
                    self._feed.aside(
                        "readings", sent_bytes_total=client.bytes_out, received_bytes_total=client.bytes_in,
                        device_rtt_seconds=facts.rtt_s, device_acceptance_ratio=request.counts.acceptance_rate,
                    )  # fmt: skip
            return {"texts": names}

    def _address(self) -> tuple[str, int]:
        url = self._edge()
        if url is None:
            raise ApiError(503, "no edge is connected; start the race once there is one")
        parts = urlsplit(url)
        if parts.scheme != "ws":
            raise ApiError(400, f"the emulated link carries ws:// only, and the edge is at {url}; use a local edge")
        return parts.hostname or "", parts.port or 80

    @contextlib.asynccontextmanager
    async def _linked(self, asked: Asked, host: str, port: int, free: bool = False) -> AsyncIterator[EdgeConnection]:
        """A connection over the link that is asked for, or over one without limits."""
        link = ConstLink(asked.uplink_mbps * 1e6, asked.downlink_mbps * 1e6, asked.rtt_ms / 1e3)
        model = ConstLink(math.inf, math.inf, 0.0) if free else link
        async with (
            await Relay.start(model, "127.0.0.1", 0, host, port) as relay,
            await self._connect(f"ws://127.0.0.1:{relay.port}") as client,
        ):
            yield client

    def _request(self, asked: Asked, name: str, prompt: Sequence[int], most: int) -> Request:
        spec, policy = way(name, self._vocab_size)
        likely: int | None = 0  # the target's own chances, for who points at a token
        try:
            check_logprobs(likely, spec.name)
        except BadParameterError:
            likely = None
        params = SamplingParams(asked.temperature)
        return Request(prompt, spec, params, asked.seed, most, policy=policy, logprobs=likely)

    async def _write(self, client: EdgeConnection, request: Request) -> None:
        try:
            with self.spent.measuring(client):
                async with contextlib.aclosing(client.write(request)) as events:
                    async for _ in events:
                        pass
        finally:
            self.spent.counts = Counts.total((self.spent.counts, request.counts))

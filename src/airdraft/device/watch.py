"""Metrics of a device: its texts, counted and timed, its bytes, and what it knows of the link."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from airdraft.core.events import Committed
from airdraft.core.policy import Facts
from airdraft.core.request import Counts, Request
from airdraft.device.cost import Metered
from airdraft.device.writer import Corrected, Unverified, Writer, Written
from airdraft.errors import AirdraftError
from airdraft.telemetry.feed import Feed
from airdraft.telemetry.logs import fields
from airdraft.telemetry.metrics import DeviceReadings, TextMetrics
from airdraft.telemetry.trace import spelt

_log = logging.getLogger(__name__)


class Linked(Metered, Protocol):
    """A connection or a writer, which also knows its link."""

    def facts(self) -> Facts | None:
        """What is known of the link and the models at its ends; None while there is no edge."""
        ...


def of_link(link: Linked) -> dict[str, Any]:
    """The readings of a link in use, by their names in `DeviceReadings`."""
    facts = link.facts()
    return {
        "received_bytes_total": link.bytes_in,
        "sent_bytes_total": link.bytes_out,
        "device_rtt_seconds": facts.rtt_s if facts else None,
        "device_uplink_bits_per_second": facts.uplink_bps if facts else None,
        "device_downlink_bits_per_second": facts.downlink_bps if facts else None,
        "device_draft_seconds": facts.draft_s if facts else None,
        "device_verify_seconds": facts.verify_s if facts else None,
        "device_acceptance_ratio": facts.acceptance if facts else None,
    }


class MeteredWriter:
    """Writes texts over a writer and keeps metrics of them. Each request must have counts of its own."""

    def __init__(self, writer: Writer, feed: Feed | None = None) -> None:
        """`feed`: is told of what is shown before an edge has verified it."""
        self.metrics = TextMetrics(self._read)
        self._writer = writer
        self._open: dict[int, Counts] = {}
        self._over = Counts()
        self._numbers, self._feed = itertools.count(1), feed or Feed()

    async def write(self, request: Request) -> AsyncGenerator[Written, None]:
        """See `Writer.write`."""
        clock = asyncio.get_running_loop().time
        opened_s, commits = clock(), list[tuple[float, int]]()
        number, how = next(self._numbers), "finished"
        self._open[number] = request.counts
        try:
            async with contextlib.aclosing(self._writer.write(request)) as events:
                async for event in events:
                    if isinstance(event, Committed):
                        if not commits:
                            self.metrics.first_s.observe(clock() - opened_s)
                        commits.append((clock(), len(event.tokens)))
                    elif isinstance(event, Unverified | Corrected) and request.private is None:
                        self._show(event)
                    yield event
        except AirdraftError:
            how = "failed"
            raise
        finally:
            self._over = Counts.total((self._over, self._open.pop(number)))
            self.metrics.ended.labels(how).inc()
            about = fields(text=number, how=how, tokens=request.counts.committed, seconds=round(clock() - opened_s, 3))
            _log.info("text %d %s", number, how, extra=about)
            if len(commits) > 1:
                after = sum(tokens for _, tokens in commits[1:])
                self.metrics.token_s.observe((commits[-1][0] - commits[0][0]) / after)

    def _show(self, event: Unverified | Corrected) -> None:
        """Show a page what the draft model writes alone, or that it was wrong."""
        words = {}
        if isinstance(event, Unverified) and self._feed.spell is not None:
            words = {"pieces": spelt(self._feed.spell(), event.tokens)}
        name = "unverified" if isinstance(event, Unverified) else "corrected"
        self._feed.aside(name, position=event.position, count=len(event.tokens), **words)

    @property
    def counts(self) -> Counts:
        """The costs of all texts so far."""
        return Counts.total((self._over, *self._open.values()))

    def _read(self) -> DeviceReadings:
        writer, counts = self._writer, self.counts
        return DeviceReadings(
            tokens_committed_total=counts.committed,
            tokens_drafted_total=counts.drafted,
            tokens_accepted_total=counts.accepted,
            device_tokens_rejected_total=counts.rejected,
            tokens_raced_total=counts.raced,
            rounds_total=counts.forwards,
            prompt_tokens_fetched_total=writer.fetched,
            device_connects_total=writer.connects,
            device_moves_total=writer.moves,
            texts=len(self._open),
            device_connected=int(writer.edge is not None),
            **of_link(writer),
        )

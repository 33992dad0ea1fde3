"""Metrics of a device: its texts, counted and timed, its bytes, and what it knows of the link."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator

from airdraft.core.events import Committed
from airdraft.core.request import Counts, Request
from airdraft.device.writer import Writer, Written
from airdraft.errors import AirdraftError
from airdraft.telemetry.logs import fields
from airdraft.telemetry.metrics import DeviceReadings, TextMetrics

_log = logging.getLogger(__name__)


class MeteredWriter:
    """Writes texts over a writer and keeps metrics of them. Each request must have counts of its own."""

    def __init__(self, writer: Writer) -> None:
        self.metrics = TextMetrics(self._read)
        self._writer = writer
        self._open: dict[int, Counts] = {}
        self._over = Counts()
        self._numbers = itertools.count(1)

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

    def _read(self) -> DeviceReadings:
        writer, facts = self._writer, self._writer.facts()
        counts = Counts.total((self._over, *self._open.values()))
        return DeviceReadings(
            tokens_committed_total=counts.committed,
            tokens_drafted_total=counts.drafted,
            tokens_accepted_total=counts.accepted,
            device_tokens_rejected_total=counts.rejected,
            tokens_raced_total=counts.raced,
            rounds_total=counts.forwards,
            received_bytes_total=writer.bytes_in,
            sent_bytes_total=writer.bytes_out,
            prompt_tokens_fetched_total=writer.fetched,
            device_connects_total=writer.connects,
            device_moves_total=writer.moves,
            texts=len(self._open),
            device_connected=int(writer.edge is not None),
            device_rtt_seconds=facts.rtt_s if facts else None,
            device_uplink_bits_per_second=facts.uplink_bps if facts else None,
            device_downlink_bits_per_second=facts.downlink_bps if facts else None,
            device_draft_seconds=facts.draft_s if facts else None,
            device_verify_seconds=facts.verify_s if facts else None,
            device_acceptance_ratio=facts.acceptance if facts else None,
        )

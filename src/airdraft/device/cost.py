"""The cost of texts: time, forwards, rounds and bytes, and the figures people compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from airdraft.core.request import Counts


class Metered(Protocol):
    """A connection or a writer, which counts the bytes of its messages with their WebSocket headers."""

    @property
    def bytes_out(self) -> int:
        """Bytes sent so far."""
        ...

    @property
    def bytes_in(self) -> int:
        """Bytes received so far."""
        ...


@dataclass
class CostMeter:
    """Adds up the cost of any number of texts."""

    counts: Counts = field(default_factory=Counts)
    """Pass these to each `Request` to count."""
    seconds: float = 0.0
    uplink_bytes: int = 0
    """Everything sent: prompt, payload, protocol and WebSocket headers; no TCP/IP headers."""
    downlink_bytes: int = 0

    @contextmanager
    def measuring(self, link: Metered) -> Iterator[None]:
        """Add the time and the bytes of one text at a time over `link`."""
        began, out, back = time.perf_counter(), link.bytes_out, link.bytes_in
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began
            self.uplink_bytes += link.bytes_out - out
            self.downlink_bytes += link.bytes_in - back

    def figures(self) -> dict[str, float | None]:
        """Return totals, rates and ratios; a ratio is None if nothing was judged, or the target ran no forward.

        `mean_acceptance_length` is how many tokens a forward of the target commits, its own included: 1 for plain
        streaming, and more when drafts are accepted.
        """
        counts = self.counts
        bits = 8 / max(1, counts.committed)
        return {
            "tokens": counts.committed,
            "seconds": self.seconds,
            "tokens_per_s": counts.committed / self.seconds if self.seconds else None,
            "rounds": counts.rounds,
            "forwards": counts.forwards,
            "drafted": counts.drafted,
            "accepted": counts.accepted,
            "rejected": counts.rejected,
            "raced": counts.raced,
            "acceptance_rate": counts.acceptance_rate,
            "mean_acceptance_length": counts.committed / counts.forwards if counts.forwards else None,
            "device_drafts_per_token": counts.draft_rows / max(1, counts.committed),
            "uplink_bits_per_token": self.uplink_bytes * bits,
            "downlink_bits_per_token": self.downlink_bytes * bits,
            "uplink_payload_bits_per_token": counts.uplink_payload_bytes * bits,
            "downlink_payload_bits_per_token": counts.downlink_payload_bytes * bits,
        }

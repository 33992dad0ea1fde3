"""What texts cost: time, forwards, rounds and bytes, and the figures people compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from airdraft.core.request import Counts


class Metered(Protocol):
    """What counts the bytes of its messages and of their WebSocket headers: a connection, or a writer."""

    @property
    def bytes_out(self) -> int:
        """Sent so far."""
        ...

    @property
    def bytes_in(self) -> int:
        """Received so far."""
        ...


@dataclass
class CostMeter:
    """Sums over any number of texts."""

    counts: Counts = field(default_factory=Counts)
    """Give them to each `Request` that is to be counted."""
    seconds: float = 0.0
    uplink_bytes: int = 0
    """All that was sent: prompt, headers of ours and of the WebSocket's, payload. Not TCP/IP's."""
    downlink_bytes: int = 0

    @contextmanager
    def measuring(self, link: Metered) -> Iterator[None]:
        """Add the time and bytes of what happens inside: one text at a time over `link`."""
        began, out, back = time.perf_counter(), link.bytes_out, link.bytes_in
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began
            self.uplink_bytes += link.bytes_out - out
            self.downlink_bytes += link.bytes_in - back

    def figures(self) -> dict[str, float | None]:
        """Rates and ratios; None where nothing was judged, or the target ran no forward.

        `mean_acceptance_length` is the tokens that a forward of the target commits, its own token included: 1 for
        plain streaming, whatever the scheme more for drafts that stand.
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
            "uplink_bits_per_token": self.uplink_bytes * bits,
            "downlink_bits_per_token": self.downlink_bytes * bits,
            "uplink_payload_bits_per_token": counts.uplink_payload_bytes * bits,
            "downlink_payload_bits_per_token": counts.downlink_payload_bytes * bits,
        }

"""What texts cost: time, rounds and bytes, and the figures people compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from airdraft.core.device import Counts
from airdraft.device.client import Client


@dataclass
class Cost:
    """Sums over any number of texts."""

    seconds: float = 0.0
    committed: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    uplink_bytes: int = 0
    """All that was sent: prompt, headers of ours and of the WebSocket's, payload. Not TCP/IP's."""
    downlink_bytes: int = 0
    uplink_payload_bytes: int = 0
    """Of those, drafted ids and probabilities."""
    downlink_payload_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)))

    @contextmanager
    def measuring(self, client: Client, counts: Counts) -> Iterator[None]:
        """Add what happens inside: one text at a time over `client`, counted by `counts`."""
        began, out, back = time.perf_counter(), client.bytes_out, client.bytes_in
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began
            self.uplink_bytes += client.bytes_out - out
            self.downlink_bytes += client.bytes_in - back
            for field in fields(Counts):
                setattr(self, field.name, getattr(self, field.name) + getattr(counts, field.name))

    def figures(self) -> dict[str, float | None]:
        """Rates and ratios; None where nothing was drafted or no round took place."""
        bits = 8 / max(1, self.committed)
        judged = self.accepted + self.rejected
        return {
            "tokens": self.committed,
            "seconds": self.seconds,
            "tokens_per_s": self.committed / self.seconds if self.seconds else None,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "acceptance_rate": self.accepted / judged if judged else None,
            "mean_acceptance_length": self.committed / self.rounds if self.rounds else None,
            "uplink_bits_per_token": self.uplink_bytes * bits,
            "downlink_bits_per_token": self.downlink_bytes * bits,
            "uplink_payload_bits_per_token": self.uplink_payload_bytes * bits,
            "downlink_payload_bits_per_token": self.downlink_payload_bytes * bits,
        }

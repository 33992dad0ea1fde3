"""Metrics of one edge, in a registry of its own, for Prometheus. Names follow its conventions: base units, _total."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from airdraft.core.messages import ERROR_CODES

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Readings:
    """What is read off the edge when somebody asks, and so costs nothing meanwhile. `total`s only grow."""

    received_bytes_total: int
    sent_bytes_total: int
    evictions_total: int
    waiting_forwards: int
    kv_positions: int
    kv_bytes: int | None
    """None: the engine does not tell."""
    texts: int
    connections: int


_HELP = {
    "received_bytes_total": "Bytes from devices, WebSocket headers included, TLS excluded",
    "sent_bytes_total": "Bytes to devices, likewise",
    "evictions_total": "Caches taken from texts that were still being written",
    "waiting_forwards": "Forwards that wait for their turn",
    "kv_positions": "Key-value positions held",
    "kv_bytes": "Bytes of the keys and values at these positions",
    "texts": "Texts that are open",
    "connections": "Connections that are open",
}


class Metrics:
    """Counters that the edge turns, and what is read off it."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"airdraft_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"airdraft_{name}", what, buckets=buckets, registry=registry)

        self.committed = counter("tokens_committed", "Tokens that became part of texts")
        self.drafted = counter("tokens_drafted", "Drafted tokens that arrived")
        self.verified = counter("tokens_verified", "Drafted tokens that a forward ruled on")
        self.accepted = counter("tokens_accepted", "Drafted tokens that were accepted")
        self.raced = counter("tokens_raced", "Tokens that the edge wrote without a draft")
        self.rounds = counter("rounds", "Forwards of one text that committed tokens")
        self.ended = counter("texts_ended", "Texts that are over: finished, failed, or lost with a connection", "how")
        self.refused = counter(
            "refusals", "Errors told to devices, by code; handshakes refused, by HTTP status", "code"
        )
        for code in (*ERROR_CODES, "401", "429", "503"):  # a rate needs its zero
            self.refused.labels(code)
        for how in ("finished", "failed", "lost"):
            self.ended.labels(how)
        self.forward_s = histogram("forward_seconds", "Duration of a call of the engine")
        self.batch = histogram("batch_size", "Texts in a call of the engine", BATCHES)
        self.first_s = histogram("first_token_seconds", "From the opening of a text to its first commit")
        self.token_s = histogram("token_seconds", "Mean time per token of a text, after its first commit")
        self.rtt_s = histogram("rtt_seconds", "Round-trip times as the edge's own pings find them")
        registry.register(_Reader(read))
        ProcessCollector(registry=registry)


class _Reader(Collector):
    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        for each in fields(readings):
            value = getattr(readings, each.name)
            if value is not None:
                kind = CounterMetricFamily if each.name.endswith("_total") else GaugeMetricFamily
                yield kind(f"airdraft_{each.name}", _HELP[each.name], value=value)

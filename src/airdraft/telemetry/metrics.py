"""Metrics of one edge or device for Prometheus, in their own registry. Names follow Prometheus's conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from airdraft.core.messages import ERROR_CODES

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def _of(what: str) -> Any:
    return field(metadata={"what": what})


@dataclass(frozen=True)
class Readings:
    """Readings that are taken from an edge only on request, so they cost nothing otherwise. `total`s only grow."""

    received_bytes_total: int = _of("Bytes from devices, WebSocket headers included, TLS excluded")
    sent_bytes_total: int = _of("Bytes to devices, WebSocket headers included, TLS excluded")
    evictions_total: int = _of("Caches taken from texts that were still being written")
    waiting_forwards: int = _of("Forwards waiting for their turn")
    kv_positions: int = _of("Key-value positions held")
    kv_bytes: int | None = _of("Bytes of the keys and values at these positions")
    """None if the engine does not report it."""
    texts: int = _of("Texts that are open")
    connections: int = _of("Connections that are open")
    prompt_tokens_fetched_total: int = _of("Tokens of prompts whose keys and values came from a store")


@dataclass(frozen=True)
class DeviceReadings:
    """Readings of a device. None: without an edge nothing is known of a link."""

    tokens_committed_total: int = _of("Tokens that became part of texts")
    tokens_drafted_total: int = _of("Drafted tokens that were sent")
    tokens_accepted_total: int = _of("Drafted tokens that were accepted")
    device_tokens_rejected_total: int = _of("Drafted tokens that were rejected")
    tokens_raced_total: int = _of("Tokens that the edge wrote without a draft")
    rounds_total: int = _of("Forwards of one text that committed tokens")
    received_bytes_total: int = _of("Bytes from edges, WebSocket headers included, TLS excluded")
    sent_bytes_total: int = _of("Bytes to edges, WebSocket headers included, TLS excluded")
    prompt_tokens_fetched_total: int = _of("Tokens of prompts whose keys and values came from a store")
    device_connects_total: int = _of("Connections made for texts while there was none")
    device_moves_total: int = _of("Moves to a nearer edge")
    texts: int = _of("Texts that are open")
    device_connected: int = _of("Whether an edge is connected")
    device_rtt_seconds: float | None = _of("Estimate: round trip of an empty packet")
    device_uplink_bits_per_second: float | None = _of("Estimate: rate of the uplink; infinite if no limit shows")
    device_downlink_bits_per_second: float | None = _of("Estimate: rate of the downlink; infinite if no limit shows")
    device_draft_seconds: float | None = _of("Estimate: a forward of the draft model")
    device_verify_seconds: float | None = _of("Estimate: a forward of the target")
    device_acceptance_ratio: float | None = _of("Estimate: chance that a judged draft is accepted")


class TextMetrics:
    """Metrics that both sides have, and readings; a device has no others."""

    def __init__(self, read: Callable[[], Readings | DeviceReadings]) -> None:
        self.registry, self.read = CollectorRegistry(), read
        self.ended = self._counter("texts_ended", "Texts that are over: finished, failed, or lost with a link", "how")
        for how in ("finished", "failed"):  # a rate needs a zero to start from
            self.ended.labels(how)
        self.first_s = self._histogram("first_token_seconds", "From the opening of a text to its first commit")
        self.token_s = self._histogram("token_seconds", "Mean time per token of a text, after its first commit")
        self.registry.register(_Reader(read))
        ProcessCollector(registry=self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"airdraft_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"airdraft_{name}", what, buckets=buckets, registry=self.registry)


class Metrics(TextMetrics):
    """Counters that the edge increments, and its readings."""

    def __init__(self, read: Callable[[], Readings]) -> None:
        super().__init__(read)
        counter, histogram = self._counter, self._histogram
        self.committed = counter("tokens_committed", "Tokens that became part of texts")
        self.drafted = counter("tokens_drafted", "Drafted tokens that arrived")
        self.verified = counter("tokens_verified", "Drafted tokens that a forward ruled on")
        self.accepted = counter("tokens_accepted", "Drafted tokens that were accepted")
        self.raced = counter("tokens_raced", "Tokens that the edge wrote without a draft")
        self.proposed = counter("tokens_proposed", "Tokens that the edge proposed itself", "proposer")
        self.taken = counter("tokens_taken", "Tokens that the edge proposed itself and that were committed", "proposer")
        self.rounds = counter("rounds", "Forwards of one text that committed tokens")
        self.refused = counter(
            "refusals", "Errors sent to devices, by code; handshakes refused, by HTTP status", "code"
        )
        for code in (*ERROR_CODES, "401", "429", "503"):
            self.refused.labels(code)
        self.ended.labels("lost")
        self.forward_s = histogram("forward_seconds", "Duration of a call of the engine")
        self.batch = histogram("batch_size", "Texts in a call of the engine", BATCHES)
        self.rtt_s = histogram("rtt_seconds", "Round-trip times of the edge's own pings")


class _Reader(Collector):
    def __init__(self, read: Callable[[], Readings | DeviceReadings]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        for each in fields(readings):
            value = getattr(readings, each.name)
            if value is not None:
                kind = CounterMetricFamily if each.name.endswith("_total") else GaugeMetricFamily
                yield kind(f"airdraft_{each.name}", each.metadata["what"], value=value)

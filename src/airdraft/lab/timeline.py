"""One text as spans of time, for the picture of a stream."""

from __future__ import annotations

from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.lab import results
from airdraft.lab.record import RecordedText, Recording
from airdraft.lab.virtual.cell import constant, run
from airdraft.sim.virtual import Span, VirtualText

RTT_MS, UPLINK_MBPS, DRAFT_MS, VERIFY_MS = 60.0, 1.0, 8.0, 30.0
SECONDS = 1.2
"""Seconds of the text that are shown."""


def timeline(recording: Recording) -> results.Timeline:
    """The beginning of the recording's first text, streamed and raced over one link."""
    setting = constant(RTT_MS, UPLINK_MBPS, DRAFT_MS, VERIFY_MS)
    spans: list[Span] = []
    texts: list[VirtualText] = []
    run(recording, setting, SchemeSpec(schemes.STREAM), spans=spans, until_s=1e-6, on_text=texts.append)
    first, text = recording.texts[0], texts[0]
    learned = _learned(first, text)
    told = [_told(span, first, learned) for span in spans if text.began_s <= span.start_s < text.began_s + SECONDS]
    for at, matches in enumerate(first.matches):
        position = first.prompt_length + at
        drafted = any(span.forward and span.lane == "device" and _position(span) == position for span in spans)
        if not matches and drafted and learned[position] < text.began_s + SECONDS:
            at_s = learned[position]
            told.append(results.LaneSpan("device", at_s, at_s, "mismatch"))
    began = [
        results.LaneSpan(each.lane, each.start_s - text.began_s, each.end_s - text.began_s, each.kind, each.label)
        for each in told
    ]
    link, compute = f"RTT {RTT_MS:g} ms, {UPLINK_MBPS:g} Mbit/s up", f"draft {DRAFT_MS:g} ms, verify {VERIFY_MS:g} ms"
    return results.Timeline(f"{recording.name}: {link}, {compute}", sorted(began, key=lambda span: span.start_s))


def _learned(recorded: RecordedText, text: VirtualText) -> dict[int, float]:
    """The time at which the device learned each position."""
    learned: dict[int, float] = {}
    position = recorded.prompt_length
    for at_s, event in text.commits:
        for _ in event.tokens:
            learned[position] = at_s
            position += 1
    return learned


def _position(span: Span) -> int:
    """The position that a forward of the draft model chooses for."""
    return span.forward.keep + len(span.forward.tokens) if span.forward else -1


def _told(span: Span, recorded: RecordedText, learned: dict[int, float]) -> results.LaneSpan:
    if span.forward is None:
        kind, label = ("send", "answer")[span.lane == "downlink"], f"{span.nbytes} B"
    elif span.lane == "edge":
        drafts = len(span.forward.tokens) - 1
        if span.forward.rows == 0:
            kind, label = "prefill", ""
        else:
            kind, label = ("verify", str(drafts)) if drafts else ("race", "")
    else:
        begin, position = recorded.prompt_length, _position(span)
        # A branch lives if every mismatch before it was already known when this was drafted.
        lives = all(recorded.matches[at - begin] or learned[at] <= span.start_s for at in range(begin, position))
        kind, label = ("draft" if lives and recorded.matches[position - begin] else "dead"), ""
    return results.LaneSpan(span.lane, span.start_s, span.end_s, kind, label)  # type: ignore[arg-type]

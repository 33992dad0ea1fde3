"""The figures of a text while it is written, in lines: what its trace's events and the readings of its link say."""

from __future__ import annotations

import math
from collections import Counter, deque
from datetime import datetime
from typing import Any

from rich.text import Text

from airdraft.demo.show import BY_NAME, style_of
from airdraft.lab.energy import device_joules
from airdraft.telemetry.logs import printable
from airdraft.telemetry.winners import RECOVERED

LATELY_S = 1.0
"""The time in seconds of which the later speed is told."""
BAR = 60
"""Characters of the bar of winners."""
MOST_FLYING = 16
"""Drafts in flight that are drawn one by one."""


class Board:
    """Takes events as they are told, and says in lines what they amount to.

    `hear` may be called from any thread, everything else from one.
    """

    def __init__(self, chooses: bool, about: str = "") -> None:
        """chooses: whether a policy chooses the scheme. about: what of the figures is not real."""
        self.about = about
        self._chooses = chooses
        self._heard = deque[dict[str, Any]]()
        self._scheme = self._over = ""
        self._began: datetime | None = None
        self._offset = self._last = self._drafting_s = 0.0
        self._won, self._commits = Counter[str](), deque[tuple[float, int]]()
        self._flying: list[tuple[int, int]] = []  # position and count of drafts that no commit has settled
        self._drafted = self._accepted = self._judged = 0
        self._first: dict[str, Any] = {}
        self._readings: dict[str, Any] = {}

    def hear(self, event: dict[str, Any]) -> None:
        """Take an event of a trace, or readings."""
        self._heard.append(event)

    def heading(self) -> str:
        """The scheme and the speed."""
        self._take_all()
        tokens = self._won.total()
        parts = [(self._scheme or "waiting") + (" (auto)" if self._chooses and self._scheme else "")]
        if tokens and self._last > 0:
            parts.append(f"{tokens / self._last:.1f} tokens/s")
        if lately := self._lately():
            parts.append(f"{lately:.1f} lately")
        parts.append(f"{tokens} tokens in {self._last:.1f} s")
        return " · ".join(part for part in (*parts, self._over) if part)

    def lines(self, coloured: bool) -> list[Text]:
        """Who found the tokens, drafts, link and cost. `coloured`: whether colours can tell winners apart."""
        self._take_all()
        lines = [self._winners(), *([self._bar()] if coloured and self._won else []), self._drafts(), self._link()]
        return [*lines, self._cost()]

    def _take_all(self) -> None:
        while self._heard:
            event = self._heard.popleft()
            take = getattr(self, f"_on_{event['event']}", None)
            if take is not None:
                take(event)

    def _on_opened(self, event: dict[str, Any]) -> None:
        at = datetime.fromisoformat(event["at"])
        self._began = self._began or at
        self._offset = (at - self._began).total_seconds()
        self._scheme, self._over, self._flying = event["scheme"], "", []

    def _on_switch(self, event: dict[str, Any]) -> None:
        self._scheme = event["scheme"]

    def _on_draft(self, event: dict[str, Any]) -> None:
        start = max([event["start"], *(at + count for at, count in self._flying)])
        self._flying.append((start, event["count"]))
        self._drafted += event["count"]

    def _on_call(self, event: dict[str, Any]) -> None:
        self._drafting_s += (event["t"] - event["began"]) / max(1, event["texts"])

    def _on_committed(self, event: dict[str, Any]) -> None:
        by = event["by"]
        rejected = RECOVERED in by
        self._won.update(by)
        self._accepted += event["accepted"]
        self._judged += event["accepted"] + rejected
        length = event["length"]
        self._flying = [] if rejected else [each for each in self._flying if each[0] >= length]
        self._last = self._offset + event["t"]
        self._commits.append((self._last, len(by)))
        while self._commits[0][0] < self._last - LATELY_S:
            self._commits.popleft()

    def _on_lost(self, event: dict[str, Any]) -> None:
        self._over, self._flying = "no edge answers", []

    def _on_finished(self, event: dict[str, Any]) -> None:
        self._flying = []

    def _on_readings(self, event: dict[str, Any]) -> None:
        self._first = self._first or event
        self._readings = self._readings | event

    def _lately(self) -> float | None:
        """Tokens a second of the last second, once there was one."""
        if not self._commits or self._last < LATELY_S:
            return None
        return sum(count for _, count in self._commits) / LATELY_S

    def _winners(self) -> Text:
        names = [*(name for name in BY_NAME if self._won[name]), *(name for name in self._won if name not in BY_NAME)]
        found = [Text(f"{printable(name)} {self._won[name]}", style_of(name)) for name in names]
        return _row("won", *found) if found else _row("won", Text("nothing yet", "dim"))

    def _bar(self) -> Text:
        """The share of each winner."""
        bar, told, drawn, total = Text(), 0, 0, self._won.total()
        for name in [*BY_NAME, *(each for each in self._won if each not in BY_NAME)]:
            told += self._won[name]
            until = round(BAR * told / total)
            bar.append("█" * (until - drawn), style_of(name))
            drawn = until
        return _row("", bar)

    def _drafts(self) -> Text:
        flying = sum(count for _, count in self._flying)
        parts = [Text("▸" * min(flying, MOST_FLYING) + f" {flying} in flight" if flying else "none in flight")]
        if self._drafted:
            parts.append(Text(f"{self._drafted} sent"))
        if self._judged:
            parts.append(Text(f"acceptance {self._accepted / self._judged:.2f}"))
        return _row("drafts", *parts)

    def _link(self) -> Text:
        now = self._readings
        rtt_s = now.get("device_rtt_seconds")
        parts = [Text("no edge" if rtt_s is None else f"RTT {1e3 * rtt_s:.1f} ms")]
        for way in ("up", "down"):
            if (rate := now.get(f"device_{way}link_bits_per_second")) is not None and math.isfinite(rate):
                parts.append(Text(f"{_rate(rate)} {way}"))
        return _row("link", *parts)

    def _cost(self) -> Text:
        up, down = (
            self._readings.get(name, 0) - self._first.get(name, 0)
            for name in ("sent_bytes_total", "received_bytes_total")
        )
        joules = device_joules(self._drafting_s, up, down)
        spent = f"{joules:.2f} J" if joules >= 0.1 else f"{1e3 * joules:.1f} mJ"
        here = Text(f"{spent} on this device, estimated")
        return _row("cost", Text(f"{_bytes(up)} up"), Text(f"{_bytes(down)} down"), here)


def _row(name: str, *parts: Text) -> Text:
    return Text.assemble((f"{name:<8}", "dim"), Text("  ").join(parts))


def _bytes(count: float) -> str:
    return f"{count:.0f} B" if count < 2000 else f"{count / 1e3:.1f} kB" if count < 2e6 else f"{count / 1e6:.1f} MB"


def _rate(bps: float) -> str:
    return f"{bps / 1e3:.0f} kbit/s" if bps < 1e6 else f"{bps / 1e6:.3g} Mbit/s"

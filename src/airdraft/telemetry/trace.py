"""Traces of single texts, event by event, in files of JSON lines. Either side of the link can write them.

Every event has `t`, seconds since the first one, and `event`:

    opened     prompt, length (more if the text is resumed), max_tokens, scheme, side; `at`: the wall clock
    ready      the edge has taken the text
    draft      arrived at the edge, or left the device: start, count, bytes
    call       the engine of this side ran: began (seconds since the first event), texts in the call, tokens fed to it
    committed  length of the text now, accepted drafts, written (by the target); by: who found each token (`winners`);
               draft, target: the models' chances of each token, where they are known, null where not
    switch     scheme; switched: the edge follows
    more, extra   `split`: recovery on the device took more candidates
    readings   of a device, before a text is finished: what it knows of the link, by the names in /metrics
    cut        there are too many events; of those that follow only the end is written
    finished   reason; or failed: code, message; or lost: the connection ended

Token ids and their text (`ids`, `pieces`), which reveal what was written, are included only on request, and never those
of a text with a private part. A page that is open reads the same events from a `Feed`, with the chances.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from airdraft.core.events import (
    Begun,
    Committed,
    Event,
    Failed,
    Finished,
    Forward,
    Offered,
    Progress,
    Recovering,
    Taken,
    Turning,
)
from airdraft.errors import BadParameterError, why
from airdraft.files import read_utf8
from airdraft.telemetry.chances import Chances
from airdraft.telemetry.feed import ENDS, LABEL, Feed, Speller
from airdraft.telemetry.winners import winners

_log = logging.getLogger(__name__)

HELD = 256
"""Events kept in memory before a write. An open file for each text would use up the descriptors."""


MOST_TEXT = 200
"""Most characters of a string in a trace: a peer's may be long."""
MOST_LINES, LINES_A_TOKEN = 1000, 20
"""Most lines of a trace, and how many more there may be for each token asked for. The end is written in any case."""
FILES_A_SECOND, MOST_AT_ONCE = 20, 200
"""Rate of new files, and how many may come at once: who opens texts only to close them shall not fill the disk."""
TOLD_S = 60.0
"""Least seconds between two lines in the log about that."""
MOST_PROMPT = 400
"""Last tokens of a prompt that are spelt for a page."""


class Traces:
    """A folder of traces, and what an open page sees of the same texts."""

    def __init__(
        self,
        folder: Path | None,
        side: str,
        tokens: bool = False,
        feed: Feed | None = None,
    ) -> None:
        """Make the folder, if there is none.

        folder: None for a feed alone. tokens: write the ids too, and with `spell` their text. feed: where the events of
        all texts go as well. Raises: `BadParameterError` if the folder cannot be made.
        """
        self.feed = feed
        self.spell: Callable[[], Speller] | None = None
        """Begins to spell a text; None: there are only ids."""
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadParameterError(f"no traces can go to {folder} ({error.strerror}); name another folder") from error
        self._folder, self._side, self._tokens = folder, side, tokens
        self._numbers = itertools.count(1)
        self._left, self._at = float(MOST_AT_ONCE), -math.inf  # files that may be made, and when that was so
        self._told = -math.inf  # when it was said that there are too many

    def open(self, event: Begun, now: float, **about: Any) -> TextTrace:
        """Open the trace of a new text, which writes nothing if too many are opened. `about`: of its first event."""
        at, number = datetime.now(UTC), next(self._numbers)
        path, lines = None, MOST_LINES + LINES_A_TOKEN * event.max_tokens
        if self._folder is not None and self._may(now):
            path = self._folder / f"{at:%Y%m%dT%H%M%S}-{os.getpid()}-{number:06d}.jsonl"
        public = event.private is None
        shown = _Shown(
            self.feed or Feed(), LABEL.get() or str(number), str(about.get("tenant", "")), self._side, public
        )
        spell = self.spell if self._tokens and public else None
        trace = TextTrace(path, now, self._tokens and public, lines, shown, spell)
        trace.note(
            "opened", now, at=at.isoformat(timespec="milliseconds"), side=self._side, **about,
            prompt=event.prompt_length, length=event.length, max_tokens=event.max_tokens,
            scheme=event.scheme,
        )  # fmt: skip
        return trace

    def _may(self, now: float) -> bool:
        """Whether another file may be made."""
        self._left, self._at = min(MOST_AT_ONCE, self._left + (now - self._at) * FILES_A_SECOND), now
        if self._left >= 1:
            self._left -= 1
            return True
        if now - self._told > TOLD_S:
            self._told = now
            _log.warning("more than %d texts a second: some leave no trace in %s", FILES_A_SECOND, self._folder)
        return False


class _Shown:
    """What an open page sees of a text."""

    def __init__(self, feed: Feed, name: str, owner: str, side: str, public: bool) -> None:
        """name, owner: of the text. side: whose model's chances are known. public: whether words may be shown."""
        self.feed, self._name, self._owner = feed, name, owner
        self._side, self._public = "draft" if side == "device" else "target", public
        self._chances, self._speller = Chances(), None if feed.spell is None else feed.spell()

    def publish(self, line: dict[str, Any], more: dict[str, Any]) -> None:
        """Show an event. What a file may hold of the words is not what a page may show."""
        seen = {name: value for name, value in line.items() if name not in ("ids", "pieces")}
        self.feed.publish(self._owner, {"text": self._name, **seen, **more})

    @property
    def looks(self) -> bool:
        """Whether anybody reads, and may."""
        return self.feed.wanted and self._public

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """Take the rows of this side's model, to tell its chances."""
        if self.looks and logits.dtype != object:  # tokens without rows, asked for before somebody read
            self._chances.rows(forward, logits)

    def more(self, start: int, tokens: Sequence[int], text: Sequence[int]) -> dict[str, Any]:
        """What a page is told of tokens besides: their words and chances. Nothing if nobody reads or may read."""
        if not (self.looks and tokens):
            return {}
        found: dict[str, Any] = {} if self._speller is None else {"pieces": spelt(self._speller, tokens)}
        chances = self._chances.of(start, tokens, text)
        return found | ({self._side: chances} if any(each is not None for each in chances) else {})


def spelt(speller: Speller, tokens: Sequence[int]) -> list[str]:
    """The text of each token; empty where it needs the next to be certain."""
    return [speller.push(token) for token in tokens]


class TextTrace:
    """The trace of one text."""

    def __init__(
        self,
        path: Path | None,
        began: float,
        tokens: bool,
        most_lines: int,
        shown: _Shown,
        spell: Callable[[], Speller] | None = None,
    ) -> None:
        """`path`: None for a trace that writes nothing. `spell`: write the text of tokens, too."""
        self.path = path
        self._room = most_lines
        self._began = began
        self._tokens = tokens
        self._length = 0  # of the text, once it is ready
        self._told = 0  # tokens whose ids were written
        self._lines: list[str] = []
        self._broken = path is None
        self._shown, self._speller = shown, spell and spell()

    def note(self, event: str, now: float, more: dict[str, Any] | None = None, **what: Any) -> None:
        """Write an event, unless there are too many. Strings are cut. `more`: what only a page is told."""
        shows = self._shown.feed.heard or event == "opened" or event in ENDS
        if self._broken and not shows:
            return
        what = {name: value[:MOST_TEXT] if isinstance(value, str) else value for name, value in what.items()}
        line = {"t": round(now - self._began, 6), "event": event, **what}
        if shows:
            self._shown.publish(line, more or {})
        self._room -= 1
        if self._broken or (self._room < 0 and event not in ENDS):
            return
        if self._room == 0 and event not in ENDS:
            line = {"t": line["t"], "event": "cut"}
        self._lines.append(json.dumps(line))
        if len(self._lines) >= HELD:
            self._write()

    @property
    def looks(self) -> bool:
        """Whether a page wants to see the rows of this side's model."""
        return self._shown.looks

    def rows(self, forward: Forward, logits: np.ndarray) -> None:
        """Take the rows of a forward of this side's model."""
        self._shown.rows(forward, logits)

    def call(self, now: float, seconds: float, texts: int, tokens: int) -> None:
        """Note a call of the engine that took `seconds` and included this text."""
        self.note("call", now, began=round(now - seconds - self._began, 6), texts=texts, tokens=tokens)

    def event(self, event: Event, now: float, text: Sequence[int] = ()) -> None:
        """Write an event of the text's machine, if it matters. `text`: the whole text so far, for the ids."""
        if isinstance(event, Progress):
            # A token that the device draws after a rejection is not in the text yet.
            length = len(text) or event.start + event.accepted + event.written
            by = (
                {"proposer": event.proposer, "proposed": event.proposed, "taken": event.taken} if event.proposed else {}
            )
            self._committed(event, now, length, text[self._told : length], text, event.written, **by)
        elif isinstance(event, Committed):
            length, written = self._length + len(event.tokens), len(event.tokens) - event.accepted
            likely = [round(math.exp(each.logprob), 4) for each in event.logprobs]
            by = {"target": likely} if likely else {}
            self._committed(event, now, length, event.tokens, text, written, **by)
        elif isinstance(event, Offered):
            self.note("draft", now, start=event.start, count=event.drafted, bytes=event.nbytes)
        elif isinstance(event, Taken):
            begins, last = not self._length, text[-MOST_PROMPT:]
            more = self._shown.more(0, last, ()) if begins else {}
            self.note("ready" if begins else "switched", now, more, length=event.length, **self._words(text, begins))
            self._length = self._told = event.length
        elif isinstance(event, Turning):
            self.note("switch", now, scheme=event.scheme)
        elif isinstance(event, Recovering):
            self.note("extra" if event.answered else "more", now)
        elif isinstance(event, Finished):
            self.note("finished", now, reason=event.reason)
        elif isinstance(event, Failed):
            self.note("failed", now, code=event.code, message=event.message)

    def _committed(
        self,
        event: Progress | Committed,
        now: float,
        length: int,
        tokens: Sequence[int],
        text: Sequence[int],
        written: int,
        **by: Any,
    ) -> None:
        # A token that the device draws after a rejection is known here only at the next commit.
        start, self._length, self._told = self._told, length, self._told + len(tokens)
        more, words = self._shown.more(start, tokens, text), self._words(tokens)
        by = {"by": winners(event), **by}
        self.note("committed", now, more, length=length, accepted=event.accepted, written=written, **by, **words)

    def _words(self, tokens: Sequence[int], wanted: bool = True) -> dict[str, Any]:
        """The ids and the text of tokens, as far as the file may hold them."""
        if not (self._tokens and wanted):
            return {}
        pieces = {} if self._speller is None else {"pieces": spelt(self._speller, tokens)}
        return {"ids": list(tokens), **pieces}

    def close(self) -> None:
        """Close the trace."""
        self._write()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if self.path is None or self._broken or not lines:
            return
        try:
            with open(self.path, "a", encoding="utf-8", opener=_private) as file:
                file.write("\n".join(lines) + "\n")
        except OSError as error:  # a full disk costs the trace, not the text
            self._broken = True
            _log.warning("the trace %s cannot be written (%s); it stops here", self.path, error.strerror)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_NUMBERS = {
    "opened": ("length",),
    "draft": ("count",),
    "call": ("began", "texts"),
    "committed": ("length", "accepted", "written"),
    "readings": ("device_rtt_seconds",),
}
"""The numbers that `summary` needs from each event."""
_LISTS = ("by", "pieces")
"""Lists of strings, one for each token."""
MOST = 1e15
"""A limit far above any time, position or count in a trace."""


def read(path: Path) -> list[dict[str, Any]]:
    """Read the events of a trace. Raises: `BadParameterError` for any other file."""
    try:
        lines = read_utf8(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadParameterError(
            f"the trace {path} cannot be read ({why(error)}); name a file of --trace-dir"
        ) from error
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadParameterError(
                f"line {number} of {path} is not an event of a trace; name a file of --trace-dir"
            ) from error
        if not (isinstance(event, dict) and _is_number(event.get("t")) and isinstance(event.get("event"), str)):
            raise BadParameterError(f"line {number} of {path} is not an event of a trace; name a file of --trace-dir")
        for name in ("ids", *_LISTS):
            if not isinstance(event.get(name, []), list):
                what = f"line {number} of {path} has {name} that are not a list; name a file of --trace-dir"
                raise BadParameterError(what)
        if not all(isinstance(each, str) for name in _LISTS for each in event.get(name, [])):
            raise BadParameterError(f"line {number} of {path} has words that are no text; name a file of --trace-dir")
        for name in (*_NUMBERS.get(event["event"], ()), *(("began",) if "began" in event else ())):
            if not _is_number(event.get(name)):
                raise BadParameterError(
                    f"line {number} of {path} lacks the number {name!r}; name a file of --trace-dir"
                )
        events.append(event)
    if not events or events[0]["event"] != "opened":
        raise BadParameterError(f"{path} does not begin as a trace does; name a file of --trace-dir")
    return events


def _is_number(value: Any) -> bool:
    """Whether `value` is a plausible number. Python's JSON allows infinities, NaN and huge integers; events do not."""
    return isinstance(value, int | float) and abs(value) < MOST


def summary(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise a text: tokens, times in seconds, and its end."""
    of: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        of.setdefault(event["event"], []).append(event)
    commits, calls = of.get("committed", []), of.get("call", [])
    last = events[-1]
    begun = events[0]["length"]
    tokens = commits[-1]["length"] - begun if commits else 0
    spent = commits[-1]["t"] - commits[0]["t"] if commits else 0.0
    after = commits[-1]["length"] - commits[0]["length"] if commits else 0
    return {
        "tokens": tokens,
        "accepted": sum(each["accepted"] for each in commits),
        "written": sum(each["written"] for each in commits),
        "drafted": sum(each["count"] for each in of.get("draft", [])),
        "seconds": last["t"],
        "first_token_s": commits[0]["t"] if commits else None,
        "token_s": spent / after if after else None,
        "engine_s": sum(each["t"] - each["began"] for each in calls),
        "calls": len(calls),
        "mean_batch": sum(each["texts"] for each in calls) / len(calls) if calls else None,
        "end": last["event"] if last["event"] in ENDS else None,
        "why": last.get("reason") or last.get("code"),
    }

"""Cuts a text before its first stop string, while it arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Lets a text through up to the first place where one of `stops` stands in it.

    What `push` and then `flush` return, joined, is the whole text up to the least `whole.find(stop)` of those found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: strings of at least one character; may be none."""
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        """The end of the text so far, which may be the beginning of a stop string."""
        self.found = False
        """Whether the text is cut; nothing more comes then."""

    def push(self, text: str) -> str:
        """What of the text so far is certain not to be cut, and was not returned yet."""
        if self.found:
            return ""
        self._held += text
        match, begun = self._match(), self._begun()
        # A longer stop string that began before the match may still become complete, and would cut there.
        self.found = match <= begun and match < len(self._held)
        return self._take(min(match, begun))

    def flush(self) -> str:
        """The text is complete: what was held and is not cut."""
        match = self._match()
        self.found = self.found or match < len(self._held)
        return self._take(match)

    def _take(self, end: int) -> str:
        taken, self._held = self._held[:end], "" if self.found else self._held[end:]
        return taken

    def _match(self) -> int:
        """Where the first stop string stands; the end where there is none."""
        return min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=len(self._held))

    def _begun(self) -> int:
        """Where a stop string may have begun; the end where none has."""
        held = self._held
        for at in range(max(0, len(held) - self._longest + 1), len(held)):
            if any(len(stop) > len(held) - at and stop.startswith(held[at:]) for stop in self._stops):
                return at
        return len(held)

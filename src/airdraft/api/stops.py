"""Stop strings, which end a text while it arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Lets a text through up to its first stop string.

    The results of `push` and `flush`, joined, are the text up to the least `text.find(stop)` of the stops in it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: strings of at least one character each; may be empty."""
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        """The end of the text so far, which may begin a stop string."""
        self.found = False
        """Whether the text is cut: nothing more comes then."""

    def push(self, text: str) -> str:
        """Take more text and return what is now certain not to be cut."""
        if self.found:
            return ""
        self._held += text
        match, begun = self._match(), self._begun()
        # A longer stop string that began before the match may still become complete, and would cut there.
        self.found = match <= begun and match < len(self._held)
        return self._take(min(match, begun))

    def flush(self) -> str:
        """End the text and return the rest of it, up to a stop string."""
        match = self._match()
        self.found = self.found or match < len(self._held)
        return self._take(match)

    def _take(self, end: int) -> str:
        taken, self._held = self._held[:end], "" if self.found else self._held[end:]
        return taken

    def _match(self) -> int:
        """Return where the first stop string begins; the end of the text if there is none."""
        return min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=len(self._held))

    def _begun(self) -> int:
        """Return where an incomplete stop string may begin; the end of the text if none does."""
        held = self._held
        for at in range(max(0, len(held) - self._longest + 1), len(held)):
            if any(len(stop) > len(held) - at and stop.startswith(held[at:]) for stop in self._stops):
                return at
        return len(held)

"""The winner of each token: who found it, by the names that the terminal's legend, traces and the page use."""

from __future__ import annotations

from airdraft.core.events import Committed, Progress

DEVICE = "device"
"""An edge's name for a draft that a device sent: it is not told whether a model or a copy found it."""
RECOVERED, BONUS, RACED = "recovered", "bonus", "raced"
NAMES = {"accepted": "model", "copied": "copy", "proposed": "edge", "target": RACED}
"""The names where they differ from the kinds of `winner`."""

MEANINGS = {
    "accepted": "drafted by the device's model, accepted by the edge",
    "copied": "copied by the device from prompt or text, accepted by the edge",
    "proposed": "proposed at the edge itself, by a copy or a model",
    "recovered": "the edge's correction of a rejected draft",
    "bonus": "a token more after a fully accepted draft",
    "target": "written by the edge while no draft was at hand",
}
UNVERIFIED = "unverified"
"""The name of what the draft model writes alone while no edge answers."""


def legend() -> dict[str, str]:
    """What each name means, for a page. At an edge, a proposer has a name of its own."""
    named = {NAMES.get(kind, kind): meaning for kind, meaning in MEANINGS.items()}
    return named | {
        DEVICE: "drafted by the device, accepted by the edge",
        "lookup": "copied at the edge from prompt or text",
        "draft": "drafted by the edge's own small model",
        UNVERIFIED: "written by the device's model alone while no edge answers; it may yet be taken back",
    }


def winner(event: Committed, at: int) -> str:
    """Who found the token `at` of a commit at the device.

    The device is not told who at the edge proposed a token: that would take a byte of every commit.
    """
    if at < event.accepted:
        return "copied" if at in event.copied else "accepted"
    return "proposed" if at < event.accepted + event.proposed else event.kind


def winners(event: Committed | Progress) -> list[str]:
    """The names of who found each token of a commit. An edge knows which of its proposers did."""
    if isinstance(event, Committed):
        kinds = [winner(event, at) for at in range(len(event.tokens))]
        return [NAMES.get(kind, kind) for kind in kinds]
    last = RACED if event.raced else RECOVERED if event.accepted < event.verified else BONUS
    alone = event.written - event.taken
    return [DEVICE] * event.accepted + [event.proposer] * event.taken + [last] * alone

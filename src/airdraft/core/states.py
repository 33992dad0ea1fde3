"""Tables of what each message does in each state of a session. They generate the table in docs/protocol.md.

A message that a state does not list breaks the protocol. At the edge it ends the session; on the device, where the edge
is at fault, it ends the connection. Messages for a session that is not open were in flight, and are ignored.
"""

from __future__ import annotations

from enum import Enum

from airdraft.core.messages import Close, Draft, Extra, Hello, Logprobs, Message, More, Open, Switch, Tokens, Verdict


class EdgeState(Enum):
    """The state of a text at the edge."""

    OPENING = "opening"
    """The prompt is being read, for a text with rounds."""
    WAITING = "waiting"
    """The prompt is being read, and the first draft has arrived."""
    PRELOADING = "preloading"
    """The prompt is being read, for a text without rounds."""
    IDLE = "idle"
    """The edge waits for the next draft."""
    RECOVERING = "recovering"
    """As `IDLE`, after a rejection whose token the device draws."""
    VERIFYING = "verifying"
    STREAMING = "streaming"
    SWITCHING = "switching"
    """The forward under way is the last of the current scheme."""
    DONE = "done"
    """The text is complete."""
    STREAMED = "streamed"
    """The text is complete, and drafts in flight are ignored."""


class DeviceState(Enum):
    """The state of a text on the device."""

    DRAFTING = "drafting"
    VERIFYING = "verifying"
    RECOVERING = "recovering"
    STREAMING = "streaming"
    SWITCHING = "switching"
    """Rounds begin when the edge answers."""
    DONE = "done"


class Action(Enum):
    """The effect of a message."""

    GREET = "the connection begins"
    OPEN = "a session begins"
    END = "the session ends"
    RELAY = "the session acts on it"
    KEEP = "it is kept until the prompt is read"
    OFFER = "the drafts that follow the text are kept"
    VERIFY = "a forward starts"
    SWITCH = "the scheme changes when nothing is under way"
    ADD = "more candidates are sent"
    IGNORE = "nothing"
    RULE = "the round is committed"
    RECOVER = "the device draws again"
    COMMIT = "the tokens are committed"
    NOTE = "it is kept for the next commit"


Table = dict[type[Message], Action]

CONNECTION: dict[bool, Table] = {
    False: {Hello: Action.GREET},
    True: {Open: Action.OPEN, Close: Action.END, Draft: Action.RELAY, More: Action.RELAY, Switch: Action.RELAY},
}
"""A connection at the edge, before and after `Hello`. Other messages end it. Either side may send `Error` any time."""

EDGE: dict[EdgeState, Table] = {
    EdgeState.OPENING: {Draft: Action.KEEP, Switch: Action.SWITCH},
    EdgeState.WAITING: {},
    EdgeState.PRELOADING: {Draft: Action.OFFER, Switch: Action.SWITCH},
    EdgeState.IDLE: {Draft: Action.VERIFY, Switch: Action.SWITCH},
    EdgeState.RECOVERING: {Draft: Action.VERIFY, More: Action.ADD, Switch: Action.SWITCH},
    EdgeState.VERIFYING: {},
    EdgeState.STREAMING: {Draft: Action.OFFER, Switch: Action.SWITCH},
    EdgeState.SWITCHING: {},
    EdgeState.DONE: {},
    EdgeState.STREAMED: {Draft: Action.IGNORE, More: Action.IGNORE, Switch: Action.IGNORE},
}

DEVICE: dict[DeviceState, Table] = {
    DeviceState.DRAFTING: {},
    DeviceState.VERIFYING: {Verdict: Action.RULE, Logprobs: Action.NOTE},
    DeviceState.RECOVERING: {Extra: Action.RECOVER},
    DeviceState.STREAMING: {Tokens: Action.COMMIT, Logprobs: Action.NOTE},
    DeviceState.SWITCHING: {Tokens: Action.COMMIT, Logprobs: Action.NOTE},
    DeviceState.DONE: {},
}
"""`Opened` comes before all of these, and again after each `Switch`. `Close` and `Error` may come in any state."""

__all__ = ["CONNECTION", "DEVICE", "EDGE", "Action", "DeviceState", "EdgeState"]

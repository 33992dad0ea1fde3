"""The history of a chat: a system prompt and turns, kept in memory and in files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from airdraft.chat.marks import is_private, plain
from airdraft.errors import BadParameterError, first_line
from airdraft.files import output

_MOST_BYTES = 1 << 24


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """One message, as OpenAI's API writes it."""

    role: Literal["system", "user", "assistant"]
    content: str


class SavedChat(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A chat in a file of JSON. Settings that it does not say stay as they are."""

    messages: list[Said]
    seed: int | None = None
    scheme: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    schema: dict[str, Any] | bool | None = None
    """A JSON schema."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, or what was committed of it."""

    question: str
    """As it was typed, with the marks of private parts."""
    answer: str
    private: bool = False
    """Whether the answer may repeat what was private before it."""


@dataclass
class History:
    """What was said so far."""

    system: str | None = None
    """The system prompt; None leaves it to the chat template."""
    turns: list[Exchange] = field(default_factory=list)
    left_out: int = 0
    """Oldest turns that no longer go into a prompt."""

    def messages(self, question: str, veil: str | None = None) -> list[dict[str, str]]:
        """Return what a chat template is given for the next answer.

        veil: what stands in place of whatever is private; None: the text itself.
        Raises: `BadParameterError` for half a pair of marks.
        """
        found = [] if self.system is None else [("system", plain(self.system, veil))]
        for turn in self.turns[self.left_out :]:
            answer = turn.answer if veil is None or not turn.private else veil
            found += [("user", plain(turn.question, veil)), ("assistant", answer)]
        return [{"role": role, "content": text} for role, text in (*found, ("user", plain(question, veil)))]

    def has_private(self, question: str = "") -> bool:
        """Return whether anything is private in what was said, or in a question. Raises: as `messages`."""
        typed = [question, self.system or "", *(turn.question for turn in self.turns)]
        return any(map(is_private, typed)) or any(turn.private for turn in self.turns)

    def said(self) -> list[Said]:
        """Return the system prompt and every turn as messages, as they were typed."""
        found = [] if self.system is None else [Said("system", self.system)]
        for turn in self.turns:
            found += [Said("user", turn.question), Said("assistant", turn.answer)]
        return found

    def take(self, said: list[Said]) -> None:
        """Begin again with these messages. Raises: `BadParameterError` unless they are a system prompt and turns."""
        system = said[0].content if said and said[0].role == "system" else None
        rest = said[system is not None :]
        for at, each in enumerate(rest):
            if each.role != ("user", "assistant")[at % 2]:
                raise BadParameterError(f"message {at + 1 + (system is not None)} is the {each.role}'s out of turn")
        if len(rest) % 2:
            raise BadParameterError("the last message is a question without an answer")
        self.turns = [Exchange(asked.content, told.content) for asked, told in zip(rest[::2], rest[1::2], strict=True)]
        self.system, self.left_out = system, 0


def save(chat: SavedChat, path: Path) -> None:
    """Write a chat to a file, whole or not at all. A file that holds no chat is not overwritten.

    Raises: `BadParameterError`.
    """
    if path.exists():
        try:
            load(path)
        except BadParameterError as problem:
            raise BadParameterError(f"{path} is there and holds no chat; name another file") from problem
    with output(path, mode=0o600) as file:
        file.write(msgspec.json.format(msgspec.json.encode(chat), indent=1) + b"\n")


def load(path: Path) -> SavedChat:
    """Return the chat in a file. Raises: `BadParameterError` if there is none."""
    try:
        if not path.is_file():
            raise BadParameterError(f"{path} is no file; name one that /save wrote")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise BadParameterError(f"{path} has more than {_MOST_BYTES >> 20} MiB; name one that /save wrote")
        chat = msgspec.json.decode(data, type=SavedChat)
        History().take(chat.messages)
    except OSError as problem:
        raise BadParameterError(f"{path} cannot be read ({problem.strerror}); name another file") from problem
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as problem:
        if isinstance(problem, BadParameterError) and str(path) in str(problem):
            raise
        raise BadParameterError(f"{path} holds no chat ({first_line(problem)}); name one that /save wrote") from problem
    return chat

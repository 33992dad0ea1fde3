"""The history of a chat: a system prompt and turns, kept in memory and in files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from airdraft.errors import BadParameterError, first_line

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


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, or what was committed of it."""

    question: str
    answer: str


@dataclass
class History:
    """What was said so far."""

    system: str | None = None
    """The system prompt; None leaves it to the chat template."""
    turns: list[Exchange] = field(default_factory=list)
    left_out: int = 0
    """Oldest turns that no longer go into a prompt."""

    def messages(self, question: str) -> list[dict[str, str]]:
        """Return what a chat template is given for the next answer."""
        said = self.said(self.left_out)
        return [{"role": each.role, "content": each.content} for each in (*said, Said("user", question))]

    def said(self, left_out: int = 0) -> list[Said]:
        """Return the system prompt and every turn but the first `left_out` as messages."""
        found = [] if self.system is None else [Said("system", self.system)]
        for turn in self.turns[left_out:]:
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
    text = msgspec.json.format(msgspec.json.encode(chat), indent=1) + b"\n"
    part: str | None = None
    try:
        number, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-")
        with os.fdopen(number, "wb") as file:
            file.write(text)
        Path(part).replace(path)
    except OSError as problem:
        if part is not None:
            with contextlib.suppress(OSError):
                Path(part).unlink(missing_ok=True)
        raise BadParameterError(f"{path} cannot be written ({problem.strerror}); name another file") from problem


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

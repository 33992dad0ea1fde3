"""The commands of a chat, which begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from airdraft.chat.talk import Talk
from airdraft.cli.schemas import WORDS, schema_of
from airdraft.errors import BadParameterError

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Command:
    """What a person or a script may ask for between two questions."""

    does: Callable[[Talk, str], str | None]
    """Takes what follows the command's name, and returns what to say, if anything."""
    takes: str
    what: str


def _system(talk: Talk, words: str) -> str:
    history = talk.history
    if words:
        history.system = None if words == "-" else words
    return "no system prompt but the template's" if history.system is None else f"system prompt: {history.system}"


def _seed(talk: Talk, words: str) -> str:
    if words:
        talk.settings = replace(talk.settings, seed=_number("seed", words, int))
    return f"seed {talk.settings.seed}"


def _temperature(talk: Talk, words: str) -> str:
    if words:
        params = msgspec.structs.replace(talk.settings.params, temperature=_number("temperature", words, float))
        talk.settings = replace(talk.settings, params=params)
    return f"temperature {talk.settings.params.temperature:g}"


def _scheme(talk: Talk, words: str) -> str:
    if words:
        talk.settings = replace(talk.settings, scheme=words)
    return f"scheme {talk.settings.scheme}"


def _schema(talk: Talk, words: str) -> str:
    if words:
        talk.settings = replace(talk.settings, schema=None if words == "-" else (words, schema_of(words)))
    schema = talk.settings.schema
    return "answers are free" if schema is None else f"answers are JSON of {schema[0]}"


def _save(talk: Talk, words: str) -> str:
    path = _file("save", words)
    talk.save(path)
    return f"{len(talk.history.turns)} turns are in {path}"


def _load(talk: Talk, words: str) -> str:
    path = _file("load", words)
    talk.load(path)
    return f"the chat goes on after {len(talk.history.turns)} turns of {path}"


def _clear(talk: Talk, words: str) -> str:
    talk.history.take([each for each in talk.history.said() if each.role == "system"])
    return "a new chat, with the same system prompt and settings"


COMMANDS = {
    "system": Command(_system, "[TEXT]", "the system prompt from now on; - takes it away"),
    "seed": Command(_seed, "[N]", "the seed of the next answers"),
    "temperature": Command(_temperature, "[T]", "their temperature; 0 is greedy"),
    "scheme": Command(_scheme, "[NAME]", "how they are written"),
    "schema": Command(_schema, f"[{WORDS}]", "what they are JSON of; - sets them free"),
    "save": Command(_save, "FILE", "write chat and settings to a file"),
    "load": Command(_load, "FILE", "go on with the chat in a file"),
    "clear": Command(_clear, "", "forget what was said"),
}


def _file(command: str, words: str) -> Path:
    if not words or "\0" in words:
        raise BadParameterError(f"/{command} needs a file; name one, /{command} FILE")
    try:
        return Path(words).expanduser()
    except RuntimeError as problem:  # no such home
        raise BadParameterError(f"{words} cannot be found ({problem}); name another file") from problem


def _number(command: str, words: str, kind: type[N]) -> N:
    try:
        return kind(words)
    except ValueError as problem:
        raise BadParameterError(f"/{command} takes a number, not {words[:40]!r}") from problem

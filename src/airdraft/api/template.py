"""A model's chat template, which turns messages into the text it was trained on, as Hugging Face's libraries do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from airdraft.apart import Apart
from airdraft.api.rendering import CPU_S
from airdraft.errors import BadParameterError, ModelError, why
from airdraft.files import read_utf8
from airdraft.models.files.config import read_json
from airdraft.models.imports.cache import text_folder
from airdraft.models.text import ids_of, tokenizer_file

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIELD = "messages"
_ELSE = "--chat-template FILE"


class ChatTemplate:
    """Renders conversations for the model in one folder, in a process with limits (see `rendering`)."""

    def __init__(self, source: str, tokens: Mapping[str, str], tokenizer: Path) -> None:
        """Use `of`. `source`: Jinja. `tokens`: bos_token and the other special ones. `tokenizer`: a tokenizer.json.

        Raises: `ModelError` if the template is broken.
        """
        self.source = source
        self._words = frozenset(re.findall(r"\w+", source))
        self._tokens = dict(tokens)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._turn = threading.Lock()
        self._apart = Apart("airdraft.api.rendering")
        try:
            self._begin()
        except _FailedError as problem:
            what = f"the chat template is no Jinja ({problem}); fetch the model again, or give another, {_ELSE}"
            raise ModelError(what) from problem

    @classmethod
    def of(cls, folder: Path, file: Path | None = None) -> ChatTemplate | None:
        """Return the template in `file`, or of the model in `folder` (or in its GGUF file); None if it has none.

        Raises: `ModelError` if it is broken.
        """
        folder = text_folder(folder)
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        for place in [file] if file else [folder / "chat_template.jinja"]:
            if file or place.is_file():
                try:
                    source: Any = read_utf8(place)
                except (OSError, UnicodeDecodeError) as problem:
                    raise ModelError(f"{place} cannot be read ({why(problem)}); name a Jinja file") from problem
                break
        else:
            source = _default(config.get("chat_template"))
        if source is None:
            return None
        if not isinstance(source, str):
            raise ModelError(f"{path} has a chat_template that is no text; fetch it again")
        return cls(source, _special_tokens(folder, config), tokenizer_file(folder))

    def reads(self, name: str) -> bool:
        """Whether the template has this word, so that a message's field of that name is not lost in it."""
        return name in self._words

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Return the text of a conversation. `variables`: add_generation_prompt, and what else the template reads.

        Raises: `BadParameterError` if the template refuses it, fails on it, or takes too long or too much memory.
        """
        try:
            line = msgspec.json.encode({**self._tokens, **variables, "messages": list(messages)})
            with self._turn:
                self._begin()
                return _told(self._apart.ask(line))
        except (_FailedError, RecursionError) as problem:
            what = f"the chat template does not take these messages: {problem}"
            raise BadParameterError(f"{what}; send others, or give another, {_ELSE}", field=_FIELD) from problem

    def encode(self, rendered: str, special: bool = False) -> list[int]:
        """Return the ids of a rendered text. `special`: with those that the tokenizer adds to what the template wrote.

        Raises: `ModelError` for half a surrogate pair, which is no text.
        """
        try:
            return ids_of(self._tokenizer, rendered, special=special)
        except (UnicodeEncodeError, TypeError) as problem:
            raise ModelError("the chat template writes half a surrogate pair, which is no text; mend it") from problem

    def _begin(self) -> None:
        """Begin the process unless it runs, and tell it the template. Raises: `_FailedError`."""
        if self._apart.begin():
            _told(self._apart.ask(json.dumps(self.source).encode()))


class _FailedError(Exception):
    """What is wrong with a template."""


def _told(answer: bytes) -> str:
    """Return what the process answers, empty if it has ended. Raises: `_FailedError`."""
    if not answer:
        raise _FailedError(f"it took more than {CPU_S:g} s, or ended its process")
    found: dict[str, str] = json.loads(answer)
    if "error" in found:
        raise _FailedError(found["error"])
    return found["text"]


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by their names: of tokenizer_config.json or, failing that, special_tokens_map.json."""
    path = folder / "special_tokens_map.json"
    given = read_json(path) if path.is_file() else {}
    tokens = {}
    for name in _SPECIAL:
        for value in (config.get(name), given.get(name)):
            word = value.get("content") if isinstance(value, dict) else value
            if isinstance(word, str):
                tokens[name] = word
                break
    return tokens


def _default(found: Any) -> Any:
    """Return the default template of a model that has several by name."""
    if not isinstance(found, list):
        return found
    named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
    return named.get("default")

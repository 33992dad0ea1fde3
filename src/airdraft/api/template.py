"""A model's chat template, which turns messages into the text it was trained on, as Hugging Face's libraries do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airdraft.errors import BadParameterError, ModelError
from airdraft.models.config import read_json
from airdraft.models.text import ids_of, tokenizer_file

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Generation(Extension):
    """`{% generation %}`, which marks what a model is trained on. Here it only passes its content through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Renders conversations for the model in one folder."""

    def __init__(self, source: str, tokens: Mapping[str, str], tokenizer: Path) -> None:
        """Use `of`. `source`: Jinja. `tokens`: bos_token and the other special ones. `tokenizer`: a tokenizer.json.

        Raises: `ModelError` if the template is broken.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as problem:
            raise ModelError(f"the chat template is no Jinja ({problem}); fetch the model again") from problem
        self._tokens = dict(tokens)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def of(cls, folder: Path, file: Path | None = None) -> ChatTemplate | None:
        """Return the template in `file`, or of the model in `folder` (or beside its GGUF file); None if it has none.

        Raises: `ModelError` if it is broken.
        """
        folder = folder.parent if folder.is_file() else folder
        path = folder / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        for place in [file] if file else [folder / "chat_template.jinja"]:
            if file or place.is_file():
                try:
                    source: Any = place.read_text("utf-8")
                except (OSError, UnicodeDecodeError) as problem:
                    raise ModelError(f"{place} cannot be read ({problem}); name a Jinja file") from problem
                break
        else:
            source = _default(config.get("chat_template"))
        if source is None:
            return None
        if not isinstance(source, str):
            raise ModelError(f"{path} has a chat_template that is no text; fetch it again")
        values = {name: config.get(name) for name in _SPECIAL}
        words = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
        tokens = {name: word for name, word in words.items() if isinstance(word, str)}
        return cls(source, tokens, tokenizer_file(folder))

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Return the text of a conversation. `variables`: add_generation_prompt, and what else the template reads.

        Raises: `BadParameterError` if the template refuses it, or fails on it.
        """
        try:
            return self._template.render(messages=list(messages), **{**self._tokens, **variables})
        except Exception as problem:  # a template is a program: it may raise anything
            raise BadParameterError(f"the chat template does not take these messages: {problem}") from problem

    def encode(self, rendered: str) -> list[int]:
        """Return the ids of a rendered text. The tokenizer adds no special tokens: the template has written them."""
        return ids_of(self._tokenizer, rendered, special=False)


def _default(found: Any) -> Any:
    """Return the default template of a model that has several by name."""
    if not isinstance(found, list):
        return found
    named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
    return named.get("default")


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

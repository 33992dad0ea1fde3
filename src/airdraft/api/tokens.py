"""Token ids of a text, and the text of token ids: the paths /tokenize and /detokenize of vLLM and llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airdraft.api.errors import ApiError
from airdraft.api.http import body_of
from airdraft.models.text import Tokenizer


class Words(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /tokenize`."""

    prompt: str | None = None
    content: str | None = None
    """llama.cpp's word for `prompt`, to which it adds no special tokens unless told."""
    model: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    """llama.cpp's word for that."""

    def told(self) -> tuple[str, bool]:
        """Return the text, and whether special tokens are added. Raises: `ApiError`."""
        if (self.prompt is None) == (self.content is None):
            raise ApiError(400, "give a text, in prompt or in content", "prompt", "invalid_value")
        told = self.add_special if self.add_special_tokens is None else self.add_special_tokens
        text = self.content if self.prompt is None else self.prompt
        return text or "", self.content is None if told is None else told


class Ids(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /detokenize`."""

    tokens: list[int]
    model: str | None = None

    def told(self, vocab_size: int) -> list[int]:
        """Return the ids. Raises: `ApiError` for one outside the vocabulary."""
        if not all(0 <= token < vocab_size for token in self.tokens):
            raise ApiError(400, "tokens holds an id outside the vocabulary", "tokens", "invalid_value")
        return self.tokens


K = TypeVar("K", Words, Ids)


def taken(kind: type[K], data: bytes) -> K:
    """Return the request in `data`. Raises: `ApiError`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is no such request: {error}", None, "invalid_type") from error


class Encoding(Protocol):
    """What these paths need of the API."""

    tokenizer: Tokenizer

    @property
    def context(self) -> Callable[[], int | None]:
        """Return the context in tokens, if known."""
        ...

    def writer(self, http: HttpRequest) -> object:
        """Raise `ApiError` for a client that may not ask."""
        ...

    def known(self, model: str | None) -> None:
        """Raise `ApiError` for the name of another model."""
        ...

    async def encoded(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        """Return the ids of a text. Raises: `BadParameterError` for one that cannot fit."""
        ...


def token_routes(api: Encoding) -> list[Route]:
    """Return what answers /tokenize and /detokenize."""

    async def tokenize(http: HttpRequest) -> Response:
        api.writer(http)
        body = taken(Words, await body_of(http))
        api.known(body.model)
        text, special = body.told()
        ids = await api.encoded(partial(api.tokenizer.encode, special=special), text)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": api.context()})

    async def detokenize(http: HttpRequest) -> Response:
        api.writer(http)
        body = taken(Ids, await body_of(http))
        api.known(body.model)
        ids = body.told(api.tokenizer.vocab_size)
        text = await asyncio.to_thread(partial(api.tokenizer.decode, special=True), ids)
        return JSONResponse({"prompt": text, "content": text})

    return [Route("/tokenize", tokenize, methods=["POST"]), Route("/detokenize", detokenize, methods=["POST"])]

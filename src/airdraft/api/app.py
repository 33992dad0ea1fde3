"""The HTTP application: models, completions and chats over any writer of texts."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airdraft.api.alone import TargetWriter
from airdraft.api.answers import Answer
from airdraft.api.errors import ApiError
from airdraft.api.http import body_of, events, refused, whole
from airdraft.api.reading import End, Piece, TextWriter, read
from airdraft.api.schema import Body, ChatBody, CompletionBody, parse
from airdraft.api.template import ChatTemplate
from airdraft.api.together import together
from airdraft.control.auto import Auto
from airdraft.core import schemes
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.schemes import SCHEMES
from airdraft.device.dial import LOOPBACK
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError, BadParameterError, Code, too_long
from airdraft.models.text import LONG, Tokenizer

MAX_TEXTS = 16
"""Texts that a device writes at once: as many as an edge takes from one connection."""


@dataclass
class Api:
    """The API over one writer, with the tokenizer and the template that turn its tokens into text and back."""

    admit: Callable[[str], TextWriter | None]
    """Return the writer for a client that sends this `Authorization`; None for an unknown one."""
    tokenizer: Tokenizer
    model: str
    """Name by which clients ask for the target."""
    template: ChatTemplate | None = None
    max_texts: int = sys.maxsize
    """Texts written at once. Further ones wait for their turn."""
    context: int | None = None
    """The target's context in tokens, if known. A prompt that cannot fit is then refused without being encoded."""

    def __post_init__(self) -> None:
        self._encoding = asyncio.Semaphore(1)
        self._turns = asyncio.Semaphore(self.max_texts)
        self._since = int(time.time())

    def app(self) -> Starlette:
        """Return the application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._one_model),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._converse, methods=["POST"]),
            ],
            exception_handlers={AirdraftError: refused, HTTPException: refused, Exception: refused},
        )

    async def _models(self, http: HttpRequest) -> Response:
        self._writer(http)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _one_model(self, http: HttpRequest) -> Response:
        self._writer(http)
        self._known(http.path_params["model"])
        return JSONResponse(self._card())

    async def _complete(self, http: HttpRequest) -> Response:
        writer = self._writer(http)
        body = parse(CompletionBody, await body_of(http))
        self._known(body.model)
        for ids in body.prompts():
            if self.context is not None and not isinstance(ids, str) and len(ids) >= self.context:
                raise BadParameterError(too_long(len(ids), self.context, self.model), "prompt", Code.CONTEXT)
        prompts = [
            await self._encoded(self.tokenizer.encode, each) if isinstance(each, str) else each
            for each in body.prompts()
        ]
        if not all(0 <= token < self.tokenizer.vocab_size for prompt in prompts for token in prompt):
            raise ApiError(400, "prompt holds an id outside the vocabulary", "prompt", "invalid_value")
        echoes = [self.tokenizer.decode(prompt) if body.echo else "" for prompt in prompts]
        return self._answer(writer, body, prompts, echoes)

    async def _converse(self, http: HttpRequest) -> Response:
        writer = self._writer(http)
        body = parse(ChatBody, await body_of(http))
        self._known(body.model)
        if self.template is None:
            remedy = "use /v1/completions, or give the server a template"
            raise ApiError(400, f"{self.model} has no chat template; {remedy}", "messages", "no_chat_template")
        variables = {**(body.chat_template_kwargs or {}), "add_generation_prompt": body.add_generation_prompt}
        rendered = await asyncio.to_thread(self.template.render, body.conversation(), variables)
        prompt = await self._encoded(self.template.encode, rendered)
        return self._answer(writer, body, [prompt], [""])

    async def _encoded(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        """Encode in a thread, because megabytes take seconds. Long texts go one at a time: each takes a gigabyte."""
        if self.context is not None and len(text) > self.context * self.tokenizer.longest:
            what = f"the prompt is {len(text)} characters, which cannot fit the context of {self.context} tokens"
            raise BadParameterError(f"{what}; shorten the prompt", "prompt", Code.CONTEXT)
        async with self._encoding if len(text) > LONG else contextlib.nullcontext():
            return await asyncio.to_thread(encode, text)

    def _answer(self, writer: TextWriter, body: Body, prompts: list[list[int]], echoes: list[str]) -> Response:
        if not all(prompts):
            raise ApiError(400, "the prompt has no tokens; give some text", "prompt", "invalid_value")
        n = body.choices()
        seed = random.getrandbits(62) if body.seed is None else body.seed
        requests = [self._request(body, prompt, seed + i) for prompt in prompts for i in range(n)]
        answer = Answer(
            self.model,
            isinstance(body, ChatBody),
            requests,
            [echo for echo in echoes for _ in range(n)],
            sum(map(len, prompts)),
            self.tokenizer,
        )
        texts = together([self._text(writer, request, body.stops()) for request in requests])
        if body.stream:
            return events(answer.chunks(texts, body.include_usage))
        return whole(lambda: answer.whole(texts))

    def _request(self, body: Body, prompt: Sequence[int], seed: int) -> Request:
        """Ask for a text as `airdraft run` would."""
        scheme = "auto" if body.scheme is None else body.scheme
        if scheme not in (*SCHEMES, "auto"):
            known = ", ".join((*SCHEMES, "auto"))
            raise ApiError(400, f"scheme {scheme!r} is unknown; choose one of {known}", "scheme", "invalid_value")
        policy = Auto(self.tokenizer.vocab_size) if scheme == "auto" else None
        spec = SchemeSpec(schemes.STREAM if scheme == "auto" else scheme)
        return Request(
            prompt, spec, body.params(), seed % (1 << 63), body.limit(), policy=policy, logprobs=body.wanted_logprobs()
        )

    async def _text(
        self, writer: TextWriter, request: Request, stops: Sequence[str]
    ) -> AsyncGenerator[Piece | End, None]:
        async with self._turns, contextlib.aclosing(read(writer, request, self.tokenizer, stops)) as pieces:
            async for piece in pieces:
                yield piece

    def _writer(self, http: HttpRequest) -> TextWriter:
        self._no_page(http)
        writer = self.admit(http.headers.get("authorization", ""))
        if writer is None:
            remedy = "send it as Authorization: Bearer KEY"
            raise ApiError(401, f"the API key is missing or wrong; {remedy}", None, "invalid_api_key")
        return writer

    def _no_page(self, http: HttpRequest) -> None:
        """Turn away pages that a browser has open: they can reach this machine, too, but are not its user's programs.

        A page says where it comes from, and one whose own name was made to lead here asks for that name.
        """
        host, origin = http.headers.get("host", ""), http.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, f"a page of {origin} asks; pages may not use this server", None, "foreign_origin")
        local = http.client is not None and http.client.host in LOOPBACK
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if local and self.admit("") is not None and name.strip("[]").lower() not in LOOPBACK:
            remedy = "ask for localhost or 127.0.0.1, or give the server a key"
            raise ApiError(403, f"there is no {host!r} here; {remedy}", None, "foreign_host")

    def _known(self, model: str | None) -> None:
        if model not in (None, self.model):
            raise ApiError(404, f"there is no model {model!r} here, only {self.model!r}", "model", "model_not_found")

    def _card(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": self._since, "owned_by": "airdraft"}


def edge_app(server: EdgeServer, tokenizer: Tokenizer, template: ChatTemplate | None = None) -> Starlette:
    """Return the API of the target alone, at an edge, for clients without a draft. Its texts share the edge's batches.

    Keys are the edge's tokens, with their quotas; an edge without tokens lets anybody in.
    """

    def admit(authorization: str) -> TextWriter | None:
        tenant = server.tenant_of(authorization)
        return TargetWriter(server, tenant) if tenant else None

    return Api(admit, tokenizer, server.target.model, template, context=server.target.max_context).app()


def device_app(
    writer: TextWriter,
    tokenizer: Tokenizer,
    model: str,
    template: ChatTemplate | None = None,
    key: str | None = None,
) -> Starlette:
    """Return the API on a device, over a writer that drafts. `key`: what clients must present; None: nothing."""

    def admit(authorization: str) -> TextWriter | None:
        scheme, _, given = authorization.partition(" ")
        right = key is None or hmac.compare_digest(given.strip().encode(errors="replace"), key.encode())
        return writer if right and (key is None or scheme.lower() == "bearer") else None

    return Api(admit, tokenizer, model, template, MAX_TEXTS).app()

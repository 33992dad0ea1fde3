"""The HTTP application: models, completions and chats over any writer of texts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airdraft.api.alone import TargetWriter
from airdraft.api.answers import Answer, Making
from airdraft.api.conversation import conversation, has_private
from airdraft.api.drafts import drafts
from airdraft.api.errors import ApiError, as_api_error, shown
from airdraft.api.http import body_of, events, has_key, refused, whole
from airdraft.api.onward import OnwardWriter
from airdraft.api.reading import End, Piece, TextWriter, read
from airdraft.api.response_body import ResponseBody
from airdraft.api.responses import response_routes
from airdraft.api.schema import UNLIMITED, B, Body, ChatBody, CompletionBody, parse
from airdraft.api.template import ChatTemplate
from airdraft.api.together import together
from airdraft.api.tokens import token_routes
from airdraft.api.tools import CallReader, call_form
from airdraft.control.auto import AUTO, way
from airdraft.core.messages import GuideSpec
from airdraft.core.request import Request
from airdraft.core.schemes import SCHEMES
from airdraft.edge.access import Tenant
from airdraft.edge.offering import Offering
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError, BadParameterError, Code, too_long
from airdraft.models.base import Exactness
from airdraft.models.text import LONG, VEILS, Tokenizer, first_private
from airdraft.telemetry.feed import LABEL
from airdraft.telemetry.hosts import OwnNames, foreign_page
from airdraft.telemetry.http import plain

ALIAS = "target"
"""The name of the model at every server, besides its own."""
Pieces = AsyncGenerator[Piece | End, None]
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
    context: Callable[[], int | None] = lambda: None
    """Return the target's context in tokens, if known. A prompt that cannot fit is then refused without being read."""
    names: OwnNames = field(default_factory=OwnNames)
    """The names by which clients without a key may ask for this server."""

    exactness: Callable[[], Exactness | None] = lambda: None
    """Return what the target's rows depend on, if known; clients are told."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """What the model recommends for chats that leave it open, by the names of `SamplingParams`."""

    def __post_init__(self) -> None:
        self._encoding = asyncio.Semaphore(1)
        self._rendering = asyncio.Semaphore(1)
        self._turns = asyncio.Semaphore(self.max_texts)
        self._since = int(time.time())

    def app(self, *more: Route) -> Starlette:
        """Return the application, with `more` routes, for any ASGI server."""
        return plain(
            [
                *more,
                Route("/v1/models", self._models),
                Route("/v1/models/{model:path}", self._one_model),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/chat/completions", self._converse, methods=["POST"]),
                *response_routes(self),
                *token_routes(self),
            ],
            exception_handlers={AirdraftError: refused, HTTPException: refused, Exception: refused},
        )

    async def _models(self, http: HttpRequest) -> Response:
        self.writer(http)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _one_model(self, http: HttpRequest) -> Response:
        self.writer(http)
        self.known(http.path_params["model"])
        return JSONResponse(self._card())

    async def _complete(self, http: HttpRequest) -> Response:
        return await self.asked(http, CompletionBody, self._completed)

    async def _converse(self, http: HttpRequest) -> Response:
        return await self.asked(http, ChatBody, self.conversed)

    async def asked(
        self, http: HttpRequest, kind: type[B], answered: Callable[[TextWriter, B], Awaitable[Response]]
    ) -> Response:
        """Answer a request. Raises: `ApiError` that names the field as the client spelt it."""
        writer = self.writer(http)
        data = await body_of(http)
        body = await asyncio.to_thread(parse, kind, data) if len(data) > LONG else parse(kind, data)
        self.known(body.model)
        try:
            return await answered(writer, body)
        except AirdraftError as error:
            raise body.named(as_api_error(error)) from error

    async def _completed(self, writer: TextWriter, body: CompletionBody) -> Response:
        given, special = body.prompts(), body.add_special_tokens is not False
        for ids in given:
            if not isinstance(ids, str):
                check_ids(self, ids)
        encode = self.tokenizer.encode if special else partial(self.tokenizer.encode, special=False)
        prompts = [await self.encoded(encode, each) if isinstance(each, str) else each for each in given]
        echoes = [""] * len(given)
        if body.echo:
            decode = partial(self.tokenizer.decode, special=True)
            echoes = [each if isinstance(each, str) else await asyncio.to_thread(decode, each) for each in given]
        start = body.private()
        private = [start for _ in given]
        if start is not None:
            for at, each in enumerate(given):
                if isinstance(each, str):
                    veiled = [await self.encoded(encode, each[:start] + veil) for veil in VEILS]
                    private[at] = first_private(prompts[at], veiled)
        return await self._answer(writer, body, prompts, echoes, private)

    async def conversed(self, writer: TextWriter, body: ChatBody | ResponseBody, made: Making = Answer) -> Response:
        """Answer a conversation. `made`: makes what tells the answer."""
        template = self.template
        if template is None:
            remedy = "use /v1/completions, or start the server with --chat-template FILE"
            raise ApiError(400, f"{self.model} has no chat template; {remedy}", body.talk_field, "no_chat_template")
        tools, form = body.called(), call_form(template.source)
        if tools is not None and not template.reads("tools"):
            remedy = "leave them out, or start the server with --chat-template FILE, one that reads them"
            raise ApiError(400, f"the chat template does not read tools; {remedy}", "tools", "unsupported_parameter")
        talk, variables = body.talk(), body.variables()
        encode = partial(template.encode, special=bool(body.add_special_tokens))

        async def prompt(veil: str | None = None) -> list[int]:
            messages = conversation(talk, template.reads, veil)
            async with self._rendering:
                rendered = await asyncio.to_thread(template.render, messages, variables)
            return await self.encoded(encode, rendered)

        ids, private = await prompt(), None
        if has_private(talk):
            try:
                private = first_private(ids, [await prompt(veil) for veil in VEILS])
            except BadParameterError:  # a template that does not take other words there
                private = 0
        if tools is None:
            return await self._answer(writer, body, [ids], [""], [private], made=made)
        reader = partial(CallReader, form, tools.names)
        return await self._answer(writer, body, [ids], [""], [private], tools.guide(form, body.words()), reader, made)

    async def encoded(self, encode: Callable[[str], list[int]], text: str, name: str = "prompt") -> list[int]:
        """Encode in a thread, because megabytes take seconds. Long texts go one at a time: each takes a gigabyte."""
        context = self.context()
        if context is not None and len(text) > context * self.tokenizer.longest:
            what = f"the {name} is {len(text)} characters, which cannot fit the context of {context} tokens"
            raise BadParameterError(f"{what}; shorten the {name}", name, Code.CONTEXT)
        async with self._encoding if len(text) > LONG else contextlib.nullcontext():
            return await asyncio.to_thread(encode, text)

    async def _answer(
        self, writer: TextWriter, body: Body, prompts: list[list[int]], echoes: list[str], private: list[int | None],
        calls: GuideSpec | None = None, reader: Callable[[], CallReader] | None = None, made: Making = Answer,
    ) -> Response:  # fmt: skip
        """private: for each prompt the position from which on it is private; None: nothing is.

        calls: keeps the answer to calls of tools. reader: as in `Answer`.
        """
        if not all(prompts):
            raise ApiError(400, "the prompt has no tokens; give some text", "prompt", "invalid_value")
        n = body.choices()
        seed = random.getrandbits(62) if body.seed in (None, -1) else body.seed
        encode, expected = partial(self.tokenizer.encode, special=False), body.predicted()
        predicted = await self.encoded(encode, expected, "prediction") if expected else []
        guide = await asyncio.to_thread(body.guide, self.tokenizer, calls)
        requests = [
            _request(self, body, prompt, seed + i, predicted, start, guide)
            for prompt, start in zip(prompts, private, strict=True)
            for i in range(n)
        ]
        answer = made(
            self.model,
            isinstance(body, ChatBody),
            requests,
            [echo for echo in echoes for _ in range(n)],
            sum(map(len, prompts)),
            self.tokenizer,
            lambda: (self.exactness() or Exactness()).losses,
            reader,
        )
        names = [f"{answer.id}/{at}" if at else answer.id for at in range(len(requests))]
        texts = together([self._text(writer, *each, body) for each in zip(requests, names, strict=True)])
        if body.stream:
            return events(answer.chunks(texts, body.include_usage))
        return whole(lambda: answer.whole(texts))

    async def _text(self, writer: TextWriter, request: Request, name: str, body: Body) -> Pieces:
        LABEL.set(name)  # in this text's own task: an open page knows it by the name of its answer
        if not request.max_tokens:  # an echo alone
            yield End("length", 0, 0)
            return
        writer = OnwardWriter(writer) if body.ignore_eos else writer
        written = read(writer, request, self.tokenizer, body.stops(), frozenset(body.stop_token_ids or ()))
        try:
            async with self._turns, contextlib.aclosing(written) as pieces:
                async for piece in pieces:
                    yield piece
        except AirdraftError as error:
            raise body.named(as_api_error(error)) from error

    def writer(self, http: HttpRequest) -> TextWriter:
        """Return the writer for who asks. Raises: `ApiError` for a page in a browser, or a key that is wrong."""
        self._no_page(http)
        writer = self.admit(http.headers.get("authorization", ""))
        if writer is None:
            remedy = "send it as Authorization: Bearer KEY"
            raise ApiError(401, f"the API key is missing or wrong; {remedy}", None, "invalid_api_key")
        return writer

    def _no_page(self, http: HttpRequest) -> None:
        """Turn away pages that a browser has open: they can reach this machine, too, but are not its user's programs.

        A page says where it comes from, and one whose own name was made to lead here asks for that name. It cannot know
        a key, so where one is wanted any name will do.
        """
        if why := foreign_page(http):
            raise ApiError(403, why, None, "foreign_origin")
        if self.admit("") is not None and (why := self.names.refusal(http)):
            raise ApiError(403, f"{why}, or give the server a key", None, "foreign_host")

    def known(self, model: str | None) -> None:
        """Raise `ApiError` for the name of a model that is not served."""
        if model not in (None, self.model, ALIAS):
            what = f"there is no model {shown(model or '')!r} here, only {self.model!r}"
            raise ApiError(404, what, "model", "model_not_found")

    def _card(self) -> dict[str, Any]:
        card = {"id": self.model, "object": "model", "created": self._since, "owned_by": "airdraft"}
        exactness = self.exactness()
        return card if exactness is None else card | {"exactness": exactness.told}


def check_ids(api: Api, ids: list[int]) -> None:
    """Raise an error for token ids that are too many, before anything is done with them, or for one unknown."""
    context = api.context()
    if context is not None and len(ids) >= context:
        raise BadParameterError(too_long(len(ids), context, api.model), "prompt", Code.CONTEXT)
    if len(ids) > UNLIMITED:
        raise ApiError(400, f"the prompt is {len(ids)} tokens; give at most {UNLIMITED}", "prompt", "invalid_value")
    if not 0 <= min(ids) <= max(ids) < api.tokenizer.vocab_size:
        raise ApiError(400, "prompt holds an id outside the vocabulary", "prompt", "invalid_value")


def _request(
    api: Api, body: Body, prompt: Sequence[int], seed: int, predicted: Sequence[int], private: int | None,
    guide: GuideSpec | None,
) -> Request:  # fmt: skip
    """Ask for a text as `airdraft run` would."""
    scheme = AUTO if body.scheme is None else body.scheme
    if scheme not in (*SCHEMES, AUTO):
        known = ", ".join((*SCHEMES, AUTO))
        raise ApiError(400, f"scheme {shown(scheme)!r} is unknown; choose one of {known}", "scheme", "invalid_value")
    spec, policy = way(scheme, api.tokenizer.vocab_size)
    return Request(
        prompt, spec, body.params(api.sampling), seed % (1 << 63), body.limit(), policy=policy,
        logprobs=body.wanted_logprobs(), prediction=predicted, private=private, guide=guide,
    )  # fmt: skip


def edge_app(
    server: EdgeServer,
    tokenizer: Tokenizer,
    template: ChatTemplate | None = None,
    names: Iterable[str] = (),
    sampling: Mapping[str, Any] | None = None,
    offering: Offering | None = None,
) -> Starlette:
    """Return the API of the target alone, at an edge, for clients without a draft. Its texts share the edge's batches.

    Keys are the edge's tokens, with their quotas; an edge without tokens lets anybody in who asks for one of `names`
    (see `OwnNames`). sampling: as in `Api`. offering: what devices may take of the edge's own draft.
    """

    def admit(authorization: str) -> TextWriter | None:
        tenant = server.tenant_of(authorization)
        return TargetWriter(server, tenant) if tenant else None

    target = server.target
    api = Api(
        admit, tokenizer, target.model, template, context=lambda: target.max_context, names=OwnNames(names),
        exactness=lambda: server.exactness,
        sampling=sampling or {},
    )  # fmt: skip

    def tenant(http: HttpRequest) -> Tenant | None:
        api.writer(http)
        return server.tenant_of(http.headers.get("authorization", ""))

    return api.app(*(() if offering is None else [drafts(offering, tenant)]))


def device_app(
    writer: TextWriter,
    tokenizer: Tokenizer,
    model: str,
    template: ChatTemplate | None = None,
    key: str | None = None,
    names: Iterable[str] = (),
    context: Callable[[], int | None] = lambda: None,
    exactness: Callable[[], Exactness | None] = lambda: None,
    sampling: Mapping[str, Any] | None = None,
) -> Starlette:
    """Return the API on a device, over a writer that drafts. `key`: what clients must present; None: nothing.

    names, context, exactness, sampling: as in `Api`.
    """

    def admit(authorization: str) -> TextWriter | None:
        return writer if has_key(authorization, key) else None

    own = OwnNames(names)
    return Api(admit, tokenizer, model, template, MAX_TEXTS, context, own, exactness, sampling or {}).app()

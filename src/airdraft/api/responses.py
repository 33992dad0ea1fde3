"""Responses: `/v1/responses` of OpenAI's API, a conversation whose answer is a list of items, told in typed events."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airdraft.api.answers import Making, Telling, Texts
from airdraft.api.conversation import has_private
from airdraft.api.errors import ApiError, as_api_error, shown
from airdraft.api.kept import Responses, owner_of
from airdraft.api.likely import in_chat
from airdraft.api.reading import End, Piece, Placed, TextWriter
from airdraft.api.response_body import ResponseBody
from airdraft.api.schema import TalkBody
from airdraft.api.tools import CallReader
from airdraft.core.request import Request
from airdraft.errors import AirdraftError
from airdraft.models.text import Tokenizer

PATH = "/v1/responses"
Event = dict[str, Any]
B = TypeVar("B", bound=TalkBody)


class ResponseAnswer:
    """The answer to one request for a response, whole or in events.

    Its items stand in the order in which they were written: a message wherever there are words, and calls of functions.
    """

    def __init__(
        self,
        body: ResponseBody,
        keep: Callable[[dict[str, Any], list[Any]], bool] | None,
        model: str,
        chat: bool,
        requests: Sequence[Request],
        prefixes: Sequence[str],
        prompt_tokens: int,
        tokenizer: Tokenizer,
        losses: Callable[[], Mapping[str, float | None]],
        reader: Callable[[], CallReader] | None = None,
    ) -> None:
        """`keep`: keeps the response and all items up to its end, if it can. The rest as in `Answer`."""
        self._body, self._keep, self._request = body, keep, requests[0]
        self._prompt_tokens, self._tokenizer, self._losses = prompt_tokens, tokenizer, losses
        self._telling = Telling(reader() if reader else None)
        self._output: list[dict[str, Any]] = []
        self._open = False
        """Whether the last item is still written."""
        self._count = 0
        self._same = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            **_given(body, self._request),
        }

    @property
    def id(self) -> str:
        """The name of the response."""
        return str(self._same["id"])

    async def whole(self, texts: Texts) -> dict[str, Any]:
        """Return the response. Raises: what ended the text."""
        response: dict[str, Any] = {}
        async with contextlib.aclosing(self._events(texts)) as events:
            async for event in events:
                response = event.get("response", response)
        return response

    async def chunks(self, texts: Texts, with_usage: bool) -> AsyncGenerator[Event, None]:
        """Yield events as the text is written. One that fails after the first ends with events that say so."""
        async with contextlib.aclosing(self._events(texts)) as events:
            try:
                async for event in events:
                    yield event
            except AirdraftError as problem:
                error = as_api_error(problem)
                if not self._count:  # nothing is sent yet, so the error gets a status
                    raise error from problem
                said = {"code": error.code or error.kind, "message": str(error)}
                yield self._event("error", **said, param=error.param)
                yield self._event("response.failed", response=self._response("failed", error=said))

    async def _events(self, texts: Texts) -> AsyncGenerator[Event, None]:
        async with contextlib.aclosing(texts):
            async for _, new in texts:
                if not self._count:
                    yield self._event("response.created", response=self._response("in_progress"))
                    yield self._event("response.in_progress", response=self._response("in_progress"))
                for event in self._heard(new):
                    yield event
                if isinstance(new, End):
                    yield self._ended(new)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._count += 1
        return {"type": kind, "sequence_number": self._count - 1, **fields}

    def _of_item(self, kind: str, **fields: Any) -> Event:
        """An event about what is within the last item."""
        return self._event(kind, item_id=self._output[-1]["id"], output_index=len(self._output) - 1, **fields)

    def _heard(self, new: Piece | End) -> Iterator[Event]:
        said, logprobs = self._telling.heard(new), new.logprobs if isinstance(new, Piece) else ()
        if said.content or logprobs:
            yield from self._words(said.content, logprobs)
        for _, name, arguments in said.calls:
            if name is not None:
                yield from self._close("completed")
                call = {"call_id": _name("call"), "name": name, "arguments": ""}
                yield from self._begin({"type": "function_call", "id": _name("fc"), "status": "in_progress", **call})
            if arguments:
                self._output[-1]["arguments"] += arguments
                yield self._of_item("response.function_call_arguments.delta", delta=arguments)
        if isinstance(new, End):
            if not self._output:
                yield from self._words("", ())
            yield from self._close("incomplete" if new.reason == "length" else "completed")

    def _words(self, words: str, logprobs: Sequence[Placed]) -> Iterator[Event]:
        if not self._open or self._output[-1]["type"] != "message":
            yield from self._close("completed")
            item = {"type": "message", "id": _name("msg"), "status": "in_progress", "role": "assistant", "content": []}
            yield from self._begin(item)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self._of_item("response.content_part.added", content_index=0, part={**part})
            self._output[-1]["content"] = [part]
        part = self._output[-1]["content"][0]
        likely = in_chat(logprobs, self._tokenizer)["content"]
        part["text"] += words
        part["logprobs"] += likely
        if words or likely:
            yield self._of_item("response.output_text.delta", content_index=0, delta=words, logprobs=likely)

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        self._output.append(item)
        self._open = True
        yield self._event("response.output_item.added", output_index=len(self._output) - 1, item={**item})

    def _close(self, status: str) -> Iterator[Event]:
        """End the item that is written, if there is one."""
        if not self._open:
            return
        item, self._open = self._output[-1], False
        item["status"] = status
        if item["type"] == "message":
            [part] = item["content"]
            said = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._of_item("response.output_text.done", content_index=0, **said)
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        else:
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("response.function_call_arguments.done", **named)
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _ended(self, end: End) -> Event:
        """The last event. The response is kept before it is told, so that a client may go on from it at once."""
        cut = end.reason == "length"
        status = "incomplete" if cut else "completed"
        response = self._response(status, output=self._output, usage=self._usage(end))
        response["airdraft"] = {"seed": self._request.seed, "unverified_tokens": end.unverified}
        if losses := self._losses():
            response["airdraft"]["losses"] = dict(losses)
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        whole = [each for each in self._output if each["type"] == "message" or each["status"] == "completed"]
        if self._keep is not None and not self._keep(response, [*self._body.before, *self._body.items(), *whole]):
            response["store"] = False
        return self._event(f"response.{status}", response=response)

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        stored = self._keep is not None
        return {
            **self._same, "store": stored, "status": status, "error": None, "incomplete_details": None, "output": [],
            "usage": None, **fields,
        }  # fmt: skip

    def _usage(self, end: End) -> dict[str, Any]:
        """Count tokens, and drafts as `Answer` does."""
        counts = self._request.counts
        rejected = max(counts.drafted - counts.accepted, 0)
        return {
            "input_tokens": self._prompt_tokens,
            "input_tokens_details": {"cached_tokens": counts.cached},
            "output_tokens": end.tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": counts.accepted,
                "rejected_prediction_tokens": rejected,
            },
            "total_tokens": self._prompt_tokens + end.tokens,
        }


def _name(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _given(body: ResponseBody, request: Request) -> dict[str, Any]:
    """What a response repeats of its request."""
    text = {name: value for name, value in (body.text or {}).items() if value is not None}
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "temperature": request.params.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": request.params.top_p,
        "truncation": "disabled",
    }


class Conversing(Protocol):
    """What these paths need of the API."""

    async def asked(
        self, http: HttpRequest, kind: type[B], answered: Callable[[TextWriter, B], Awaitable[Response]]
    ) -> Response:
        """Answer a request. Raises: `ApiError`."""
        ...

    async def conversed(self, writer: TextWriter, body: ResponseBody, made: Making) -> Response:
        """Answer a conversation. Raises: `ApiError`."""
        ...

    def writer(self, http: HttpRequest) -> TextWriter:
        """Return the writer for who asks. Raises: `ApiError` for a client that may not ask."""
        ...


def response_routes(api: Conversing) -> list[Route]:
    """Return what answers /v1/responses, and gives and drops what is kept."""
    kept = Responses()

    def owner(http: HttpRequest) -> bytes:
        return owner_of(http.headers.get("authorization", ""))

    async def respond(http: HttpRequest) -> Response:
        async def answered(writer: TextWriter, body: ResponseBody) -> Response:
            name = body.previous_response_id
            if name is not None:
                found = kept.get(owner(http), name)
                if found is None:
                    what = f"there is no response {shown(name)!r} here, or no longer; send all of the talk in input"
                    raise ApiError(400, what, "previous_response_id", "previous_response_not_found")
                body.follow(found[1])
            keep = None if body.store is False or has_private(body.talk()) else partial(_keep, kept, owner(http))
            return await api.conversed(writer, body, partial(ResponseAnswer, body, keep))

        return await api.asked(http, ResponseBody, answered)

    async def one(http: HttpRequest) -> Response:
        api.writer(http)
        name = http.path_params["name"]
        if http.query_params:
            [odd, *_] = http.query_params
            what = f"{shown(odd)} is not supported: a response is given as a whole; leave it out"
            raise ApiError(400, what, shown(odd), "unsupported_parameter")
        if http.method == "DELETE":
            if kept.drop(owner(http), name):
                return JSONResponse({"id": name, "object": "response", "deleted": True})
        elif (found := kept.get(owner(http), name)) is not None:
            return JSONResponse(found[0])
        raise ApiError(404, f"there is no response {shown(name)!r} here, or no longer", None, "not_found")

    return [Route(PATH, respond, methods=["POST"]), Route(f"{PATH}/{{name}}", one, methods=["GET", "DELETE"])]


def _keep(kept: Responses, owner: bytes, response: dict[str, Any], items: list[Any]) -> bool:
    return kept.put(owner, response["id"], response, items)

"""Answers in the form of OpenAI's API."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from airdraft.api.likely import in_chat, in_completion
from airdraft.api.reading import End, Piece, Placed
from airdraft.api.tools import CallReader, Heard
from airdraft.core.request import Request
from airdraft.models.text import Tokenizer

Texts = AsyncGenerator[tuple[int, Piece | End], None]
"""Pairs of a choice's index and what is new of its text."""


class Tellable(Protocol):
    """An answer that is told, whole or in chunks."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    async def whole(self, texts: Texts) -> dict[str, Any]:
        """Return all of it at once."""
        ...

    def chunks(self, texts: Texts, with_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Yield chunks as the texts are written."""
        ...


Making = Callable[..., Tellable]
"""Makes an answer; it takes what `Answer` takes."""


class Telling:
    """One choice that may hold calls of tools: what is told of them as they are written, and in the end."""

    def __init__(self, reader: CallReader | None) -> None:
        """`reader`: None if it holds words alone."""
        self._reader = reader
        self._words = ""
        self._read = 0  # characters that the reader has

    @property
    def calls(self) -> bool:
        """Whether it holds a call."""
        return self._reader is not None and bool(self._reader.calls)

    def heard(self, new: Piece | End) -> Heard:
        """Return what is new. What may yet be taken back is not told."""
        if isinstance(new, Piece):
            self._words = self._words[: new.replaces] + new.text
            if not new.verified:
                return Heard()
        words, self._read = self._words[self._read :], len(self._words)
        return Heard(words) if self._reader is None else self._reader.push(words, isinstance(new, End))

    def delta(self, new: Piece | End) -> dict[str, Any]:
        """Return what `heard` returns, in the form of OpenAI."""
        said = self.heard(new)
        delta: dict[str, Any] = {"content": said.content} if said.content else {}
        if said.calls:
            delta["tool_calls"] = [_call(at, name, arguments) for at, name, arguments in said.calls]
        return delta

    def message(self, words: str) -> dict[str, Any]:
        """Return the content and the calls of a complete answer."""
        if self._reader is None:
            return {"content": words}
        self._reader.push(words, final=True)
        content = self._reader.content
        if not self.calls:
            return {"content": content}
        calls = [_call(None, each.name, each.arguments) for each in self._reader.calls]
        return {"content": content or None, "tool_calls": calls}


def _call(at: int | None, name: str | None, arguments: str) -> dict[str, Any]:
    """A call, or in a stream what is new of it. `at`: its number there."""
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    numbered = {} if at is None else {"index": at}
    return (
        numbered
        | ({} if name is None else {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"})
        | {"function": function}
    )


class Answer:
    """The answer to one request: a text for each choice, whole or in chunks."""

    def __init__(
        self,
        model: str,
        chat: bool,
        requests: Sequence[Request],
        prefixes: Sequence[str],
        prompt_tokens: int,
        tokenizer: Tokenizer,
        losses: Callable[[], Mapping[str, float | None]],
        reader: Callable[[], CallReader] | None = None,
    ) -> None:
        """`requests`: one for each choice. `prefixes`: an echo of the prompt that begins each choice, or nothing.

        losses: see `Exactness.losses`, asked at the end of each text.
        reader: makes what reads the calls of tools in a choice; None: an answer is words alone.
        """
        self._tools = [Telling(reader()) for _ in requests] if reader else None
        self._chat, self._requests, self._prefixes = chat, requests, prefixes
        self._prompt_tokens = prompt_tokens
        self._tokenizer = tokenizer
        self._losses = losses
        self._tokens = 0
        self._same = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @property
    def id(self) -> str:
        """The name of the answer, in all of its chunks."""
        return str(self._same["id"])

    async def whole(self, texts: Texts) -> dict[str, Any]:
        """Return all choices at once."""
        words = [""] * len(self._prefixes)
        logprobs: list[list[Placed]] = [[] for _ in words]
        ends: dict[int, End] = {}
        async with contextlib.aclosing(texts):
            async for index, new in texts:
                if isinstance(new, End):
                    ends[index] = new
                else:
                    words[index] = words[index][: new.replaces] + new.text
                    logprobs[index] += new.logprobs
        choices = [
            self._choice(
                index, self._content(index, self._prefixes[index] + words[index]), ends[index], logprobs[index]
            )
            for index in range(len(words))
        ]
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._same, "object": kind, "choices": choices, "usage": self._usage()}

    async def chunks(self, texts: Texts, with_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Yield chunks as the texts are written."""
        begun = False
        without: dict[str, Any] = {"usage": None} if with_usage else {}
        async with contextlib.aclosing(texts):
            async for index, new in texts:
                if not begun:  # so that an error before the first piece comes before any chunk
                    begun = True
                    for each, prefix in enumerate(self._prefixes):
                        if self._chat:
                            yield self._chunk(each, {"delta": {"role": "assistant", "content": ""}}) | without
                        elif prefix:
                            yield self._chunk(each, {"text": prefix}) | without
                if (part := self._part(index, new)) is not None:
                    yield self._chunk(index, part, new) | without
        if with_usage:
            yield {**self._same, "object": self._chunk_kind, "choices": [], "usage": self._usage()}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _chunk(self, index: int, content: dict[str, Any], new: Piece | End | None = None) -> dict[str, Any]:
        logprobs = new.logprobs if isinstance(new, Piece) else ()
        return {**self._same, "object": self._chunk_kind, "choices": [self._choice(index, content, new, logprobs)]}

    def _part(self, index: int, new: Piece | End) -> dict[str, Any] | None:
        """Return what to append. A correction has none, or a client that knows no corrections would append it.

        None: this piece says nothing yet of an answer that may hold calls.
        """
        if self._tools is not None:
            delta = self._tools[index].delta(new)
            return None if not delta and isinstance(new, Piece) and not new.logprobs else {"delta": delta}
        text = new.text if isinstance(new, Piece) and new.replaces is None else ""
        if self._chat:
            return {"delta": {} if isinstance(new, End) else {"content": text}}
        return {"text": text}

    def _content(self, index: int, words: str) -> dict[str, Any]:
        if self._tools is not None:
            return {"message": {"role": "assistant", **self._tools[index].message(words), "refusal": None}}
        if self._chat:
            return {"message": {"role": "assistant", "content": words, "refusal": None}}
        return {"text": words}

    def _choice(
        self, index: int, content: dict[str, Any], new: Piece | End | None, logprobs: Sequence[Placed]
    ) -> dict[str, Any]:
        reason: str | None = new.reason if isinstance(new, End) else None
        if reason == "stop" and self._tools is not None and self._tools[index].calls:
            reason = "tool_calls"
        told = (in_chat if self._chat else in_completion)(logprobs, self._tokenizer) if logprobs else None
        choice = {"index": index, **content, "logprobs": told, "finish_reason": reason}
        if isinstance(new, End):
            self._tokens += new.tokens
            choice["airdraft"] = {"seed": self._requests[index].seed, "unverified_tokens": new.unverified}
            if losses := self._losses():
                choice["airdraft"]["losses"] = dict(losses)
        elif new and new.replaces is not None:
            start = len(self._prefixes[index]) + new.replaces
            choice["airdraft"] = {"verified": new.verified, "correction": {"from": start, "text": new.text}}
        elif new and not new.verified:
            choice["airdraft"] = {"verified": False}
        return choice

    def _usage(self) -> dict[str, Any]:
        """Count drafts as OpenAI's predictions: those that were sent but are not in the text were rejected."""
        accepted = sum(request.counts.accepted for request in self._requests)
        drafted = sum(request.counts.drafted for request in self._requests)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._tokens,
            "total_tokens": self._prompt_tokens + self._tokens,
            "prompt_tokens_details": {"cached_tokens": min(request.counts.cached for request in self._requests)},
            "completion_tokens_details": {
                "accepted_prediction_tokens": accepted,
                "rejected_prediction_tokens": max(drafted - accepted, 0),
            },
        }

"""airdraft from Python, with asyncio and without: texts are drafted here and verified at an edge.

>>> with airdraft.Client("ws://edge:8571") as client:
...     for piece in client.stream("def fibonacci(n):", temperature=0.7, seed=1, max_tokens=64):
...         print(piece, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ssl as tls
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack

from airdraft import values
from airdraft.control.auto import way
from airdraft.core.drafting import Drafter
from airdraft.core.events import Committed, Finished
from airdraft.core.logprobs import Logprob
from airdraft.core.request import Counts, Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.edges import Away, Closed
from airdraft.device.offline import Corrected, Unverified
from airdraft.device.shipped import draft_at
from airdraft.device.stall import STALL_S
from airdraft.device.writer import Offline, Writer, Written, check_options
from airdraft.errors import BadParameterError, Code, LinkError, ModelError, RefusedError, first_line
from airdraft.guides import Guides, as_type, of_type
from airdraft.models.base import LanguageModel
from airdraft.models.engines.nothing import NONE, NoDraft
from airdraft.models.registry import load_draft
from airdraft.models.text import VEILS, Tokenizer, first_private

__all__ = [
    "AsyncClient",
    "Client",
    "Committed",
    "Corrected",
    "Finished",
    "Logprob",
    "Options",
    "Text",
    "Unverified",
    "Written",
]

T = TypeVar("T")


class Options(TypedDict, total=False):
    """Options of one text. Whatever is left out is as in `airdraft run`."""

    temperature: float
    """0 is greedy; 0.7 if left out."""
    top_k: int
    """0 keeps every token."""
    top_p: float
    """1 keeps every token."""
    min_p: float
    """0 keeps every token."""
    seed: int
    """The same seed gives the same text (under `auto`, `stream`, `coupled`, `server`, or greedy); 0 if left out."""
    max_tokens: int
    """Most tokens to write; 128 if left out."""
    scheme: str
    """One of `airdraft.core.schemes.SCHEMES`, or `auto`, which is chosen if this is left out."""
    draft_length: int | None
    """As in `Request`; not with `auto`."""
    private: bool | int
    """True: the whole prompt is private; a number: what follows so many characters of it, or so many ids. False if left
    out. See docs/prompts.md."""
    logprobs: int | None
    """As in `Request`. `Committed` and `Text` then have a `Logprob` for each token."""
    schema: Any
    """What the text is JSON of: a type of msgspec or pydantic, a plain one such as `dict[str, int]`, or a JSON schema.
    The text then keeps to it, and `Text.value` is it. None if left out."""
    prediction: str | Sequence[int]
    """As in `Request`, as text or token ids; empty if left out."""


@dataclass(frozen=True)
class Text:
    """A complete text."""

    text: str
    """The text without its prompt."""
    tokens: tuple[int, ...]
    reason: str
    """Why it ends: `stop` for an end-of-text token, `length` after as many tokens as were asked for, or as fit."""
    counts: Counts
    """The cost of the text."""
    logprobs: tuple[Logprob, ...] = ()
    """The target's log-probability of each token, if asked for."""
    value: Any = None
    """What the text says, of the type in `schema`. None without one, or if the text ended before the value did."""
    losses: dict[str, float | None] = field(default_factory=dict)
    """What makes it another text than the target's own, if the edge was told to lose something: see
    `Exactness.losses`."""

    def __str__(self) -> str:
        return self.text


AUTO = "auto"
"""The draft that ships and has the vocabulary of the target at the edge."""


async def _fitting(edges: Sequence[str], token: str | None, ssl: tls.SSLContext | None) -> str:
    """The draft that ships and fits. Raises: `RefusedError` if none does, or the edge does not let us in."""
    try:
        return await draft_at(edges, token, ssl)
    except RefusedError as error:
        if error.code != Code.VOCABULARY:
            raise
        raise RefusedError(
            error.code,
            "no draft that ships has the vocabulary of the target at the edge; name one that has, draft=MODEL, or take "
            "none, draft=None, tokenizer=MODEL",
        ) from error


def _drafting(draft: Any, tokenizer: Any) -> tuple[LanguageModel, Tokenizer]:
    if not (tokenizer is None or isinstance(tokenizer, str | Path | Tokenizer)):
        what = "tokenizer is no name; give a folder, a hub id, or a tokenizer"
        raise BadParameterError(what, field="tokenizer")
    if draft is None and isinstance(tokenizer, Tokenizer):
        return NoDraft(tokenizer.vocab_size), tokenizer
    if draft is not None and tokenizer is not None:
        what = "tokenizer is given, and the draft has one; give one of them, or draft=None"
        raise BadParameterError(what, field="tokenizer")
    if draft is None:
        return load_draft(NONE, tokenizer=None if tokenizer is None else str(tokenizer))
    if isinstance(draft, str | Path):
        return load_draft(str(draft))
    if isinstance(draft, tuple) and len(draft) == 2:
        return draft
    what = "draft is no name; give a folder, a hub id, None, or a model and its tokenizer in a tuple"
    raise BadParameterError(what, field="draft")


class AsyncClient:
    """Writes any number of texts at once, over one connection. `Client` documents its arguments and methods."""

    def __init__(
        self,
        edge: str | Sequence[str],
        *,
        draft: str | Path | tuple[LanguageModel, Tokenizer] | None = AUTO,
        tokenizer: str | Path | Tokenizer | None = None,
        lookup: bool = False,
        drafter: Callable[[], Drafter] | None = None,
        offline: Offline = "stall",
        give_up_s: float | None = None,
        stall_s: float | None = STALL_S,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        """See `Client`. Loading a draft takes a moment. `async with` connects, or else the first text does.

        Which draft `auto` is, the edge tells: it is loaded once there is a connection.
        """
        self._edge_urls = [edge] if isinstance(edge, str) else edge
        self._offline, self._token, self._ssl = offline, token, ssl
        self._lookup = values.instance(bool)("lookup", lookup)
        self._drafter = values.optional(values.having("__call__"))("drafter", drafter)
        self._give_up_s, self._stall_s = check_options(self._edge_urls, offline, token, ssl, give_up_s, stall_s)
        self._one = asyncio.Lock()
        self._writer: Writer | None = None
        self._words: Tokenizer | None = None
        self._closed = False
        if draft != AUTO or tokenizer is not None:
            self._open(*_drafting(draft, tokenizer))

    def _open(self, model: LanguageModel, tokenizer: Tokenizer) -> Writer:
        self._words = tokenizer
        self._writer = Writer(
            self._edge_urls, model, tokenizer.digest, tokenizer.vocab_size, offline=self._offline, token=self._token,
            give_up_s=self._give_up_s, stall_s=self._stall_s, ssl=self._ssl, lookup=self._lookup,
            drafter=self._drafter, reader=Guides(tokenizer),
        )  # fmt: skip
        return self._writer

    async def _opened(self) -> Writer:
        """The writer, made by who needs it first."""
        async with self._one:
            if self._writer is None:
                if self._closed:
                    raise LinkError("the client is closed; make another")
                draft = await _fitting(self._edge_urls, self._token, self._ssl)
                return self._open(*await asyncio.to_thread(load_draft, draft))
            return self._writer

    @property
    def tokenizer(self) -> Tokenizer:
        """The draft's tokenizer, which is the target's. Raises: `LinkError` before `auto` has found the draft."""
        if self._words is None:
            raise LinkError("the draft is chosen when the client connects; connect first, or name a draft")
        return self._words

    @property
    def state(self) -> str:
        """`connected to` with the URL of the edge, `away` with the reason, or `closed`."""
        if self._writer is not None:
            return str(self._writer.state)
        return str(Closed() if self._closed else Away("not connected yet"))

    async def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncGenerator[str, None]:
        """See `Client.stream`."""
        await self._opened()
        decoder = self.tokenizer.stream()
        async with contextlib.aclosing(self.events(prompt, **options)) as events:
            async for event in events:
                tokens = event.tokens if isinstance(event, Committed) else ()
                if piece := "".join(decoder.push(token) for token in tokens):
                    yield piece
        if piece := decoder.flush():
            yield piece

    async def complete(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Text:
        """See `Client.complete`."""
        writer = await self._opened()
        request = self._request(prompt, **options)
        tokens: list[int] = []
        logprobs: list[Logprob] = []
        reason = ""
        async for event in writer.write(request):
            if isinstance(event, Committed):
                tokens += event.tokens
                logprobs += event.logprobs
            elif isinstance(event, Finished):
                reason = event.reason
        words = self.tokenizer.decode(tokens)
        schema = options.get("schema")
        try:
            value = None if schema is None or reason == "length" else as_type(schema, words)
        except ValueError as error:
            what = f"the text keeps to the schema, and its type refuses it ({first_line(error)}): {words[:200]!r}"
            raise ModelError(what) from error
        return Text(words, tuple(tokens), reason, request.counts, tuple(logprobs), value, writer.losses)

    async def events(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncGenerator[Written, None]:
        """See `Client.events`."""
        writer = await self._opened()
        async with contextlib.aclosing(writer.write(self._request(prompt, **options))) as events:
            async for event in events:
                yield event

    def _request(
        self,
        prompt: str | Sequence[int],
        *,
        temperature: float = 0.7,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        max_tokens: int = 128,
        scheme: str = "auto",
        draft_length: int | None = None,
        logprobs: int | None = None,
        prediction: str | Sequence[int] = "",
        schema: Any = None,
        private: bool | int = False,
    ) -> Request:
        scheme = values.words("scheme", scheme)
        if scheme == "auto" and draft_length is not None:
            what = "draft_length is given, and auto chooses it; leave it out, or name a scheme"
            raise BadParameterError(what, field="draft_length")
        ids = self.tokenizer.encode(values.words("prompt", prompt)) if isinstance(prompt, str) else prompt
        start = None if private is False else 0 if private is True else values.whole("private", private)
        if start is not None and not 0 <= start < len(prompt):
            what = (
                f"private is {start}, which is no place in a prompt of {len(prompt)}; give one, or True for all of it"
            )
            raise BadParameterError(what, field="private")
        if start is not None and isinstance(prompt, str):
            start = first_private(ids, [self.tokenizer.encode(prompt[:start] + veil) for veil in VEILS])
        if isinstance(prediction, str):
            prediction = self.tokenizer.encode(values.words("prediction", prediction), special=False)
        params = SamplingParams(temperature, top_k, top_p, min_p)
        spec, policy = way(scheme, self.tokenizer.vocab_size)
        return Request(
            ids, spec, params, seed, max_tokens, draft_length, policy=policy, logprobs=logprobs, prediction=prediction,
            private=start, guide=None if schema is None else of_type(schema),
        )  # fmt: skip

    async def close(self) -> None:
        """End the connection. Texts under way end with a `LinkError`."""
        self._closed = True
        if self._writer is not None:
            await self._writer.close()

    async def __aenter__(self) -> Self:
        """Connect. Raises: `LinkError` if no edge answers and `offline` is not `draft`."""
        try:
            writer = await self._opened()
            await writer.__aenter__()
            await writer.connect()
        except LinkError:
            if self._offline != "draft":
                await self.close()
                raise
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Client:
    """Writes texts that are drafted on this device and verified at an edge, for programs without asyncio.

    It connects at once; the connection lives in a thread of its own. Several threads may write texts at once. Close
    the client, or use it in a `with` statement.
    """

    def __init__(
        self,
        edge: str | Sequence[str],
        *,
        draft: str | Path | tuple[LanguageModel, Tokenizer] | None = AUTO,
        tokenizer: str | Path | Tokenizer | None = None,
        lookup: bool = False,
        drafter: Callable[[], Drafter] | None = None,
        offline: Offline = "stall",
        give_up_s: float | None = None,
        stall_s: float | None = STALL_S,
        token: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        """
        Args:
            edge: ws:// or wss://HOST:PORT, or several that serve the same target, tried in this order.
            draft: `auto`, the one that ships with airdraft and has the target's vocabulary; any MODEL by name, a
                folder, or a model and its tokenizer. None: the edge alone writes (scheme `server`), and texts survive
                the link all the same.
            lookup: whether to draft by copying, too, where prompt or text has stood before what is written now; without
                a draft this is all that the device drafts.
            drafter: makes a drafter for each text, see `airdraft.core.drafting.Drafter`, which takes the place of the
                usual ones; it may ask for forwards of the draft, if there is one.
            tokenizer: without a draft, the model whose tokenizer is the target's, by name, or a tokenizer; None: the
                one of the pair that ships.
            offline: while the edge is away, `stall` waits for it, `error` raises at once, and `draft` waits and
                meanwhile yields what the draft model would write, see `events`.
            give_up_s: how long a text waits for an edge; None: for ever.
            stall_s: least patience with an edge that answers and does not go on with a text, which is then left for the
                next, see `Writer`; 0 or None: for ever.
            token: proves to the edge who we are.
            ssl: what to trust, for wss://; None: the authorities that this machine trusts.
        Raises: `LinkError` if no edge answers (unless `offline` is `draft`), `RefusedError` if it refuses us,
            `ModelError` if there is no such draft model, `BadParameterError`.
        """
        self._client = AsyncClient(
            edge,
            draft=draft,
            tokenizer=tokenizer,
            lookup=lookup,
            drafter=drafter,
            offline=offline,
            give_up_s=give_up_s,
            stall_s=stall_s,
            token=token,
            ssl=ssl,
        )
        self._stop = asyncio.Event()
        self._closed = False
        self._lock = threading.Lock()  # of `_closed`
        started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="airdraft client", daemon=True)
        self._thread.start()
        try:
            self._loop = started.result()
        except Exception:
            self._thread.join()
            raise
        self.tokenizer = self._client.tokenizer

    def _run(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        async def main() -> None:
            async with self._client:
                started.set_result(asyncio.get_running_loop())
                await self._stop.wait()

        try:
            asyncio.run(main())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    @property
    def state(self) -> str:
        """`connected to` with the URL of the edge, `away` with the reason, or `closed`."""
        return self._client.state

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Iterator[str]:
        """Yield the text in pieces, as it is committed. No piece is ever taken back. Leaving the loop gives it up.

        prompt: text, or token ids.
        Raises, once the first piece is asked for: `BadParameterError`; `LinkError`, `RefusedError`,
        `RemoteProtocolError` or `ModelError` if it cannot be written to its end. Pieces yielded before stand.
        """
        return self._iterate(self._client.stream(prompt, **options))

    def complete(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Text:
        """Return the whole text. Raises: as `stream`."""
        return self._wait(self._submit(self._client.complete(prompt, **options)))

    def events(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Iterator[Written]:
        """Yield all events: `Committed`, with `offline="draft"` also `Unverified` and `Corrected`; last, `Finished`.

        Tokens are ids, for `tokenizer` to decode. Raises: as `stream`.
        """
        return self._iterate(self._client.events(prompt, **options))

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        queue: SimpleQueue[T | None] = SimpleQueue()

        async def pump() -> None:
            async with contextlib.aclosing(items):
                async for item in items:
                    queue.put(item)

        future = self._submit(pump())
        future.add_done_callback(lambda _: queue.put(None))
        try:
            while (item := queue.get()) is not None:
                yield item
            self._wait(future)
        finally:
            future.cancel()

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._lock:  # or another thread could stop the loop in between, and the work would never end
            if self._closed:
                work.close()
                raise LinkError("the client is closed; make another")
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    @staticmethod
    def _wait(future: concurrent.futures.Future[T]) -> T:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise LinkError("the client was closed; the text so far stands") from None
        finally:
            future.cancel()  # on Ctrl-C

    def close(self) -> None:
        """End the connection. Texts under way in other threads end with a `LinkError`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""What targets behind HTTP share: replicas of one model, a sequence's place among them, and rows of its top tokens."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import EngineInfo, FloatArray, Part, Wanted, check
from airdraft.models.engines.replicas import REPLY_BYTES, FailedError, Replicas, decode, line
from airdraft.models.engines.telling import Inquiry, Short, Top
from airdraft.models.files.config import read_config
from airdraft.models.files.digest import BYTES, probe, same, words
from airdraft.models.lineage import Lineage

_log = logging.getLogger(__name__)

_MAX_CALLS = 64
"""The server batches what comes at once."""
_MAX_ASKS = 16
"""Of those, to learn more of the rows of one text."""
_PROBE_ROWS = 32
_ENTRY_BYTES = 256
"""Most bytes of one token of one row in a reply; they take some 40."""
_MOST_LOGPROB = 1e-3
"""Log-probabilities are at most 0, but for rounding."""


class Served(msgspec.Struct):
    """What a server says of the model that it serves."""

    id: Annotated[str, msgspec.Meta(max_length=512)]
    max_model_len: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None


@dataclass
class RemoteCache:
    """A sequence: its tokens, and the replica that has their keys and values in its prefix cache."""

    replica: int
    tokens: list[int] = field(default_factory=list)
    lineage: Lineage = field(default_factory=Lineage)

    @property
    def length(self) -> int:
        return len(self.tokens)


class RemoteTarget(ABC):
    """A `TargetEngine` whose model runs elsewhere. Each forward posts all tokens; the prefix cache spares the rest.

    Rows hold the log-probabilities of the `top_k` most likely tokens. Of tokens that tie for the last place the
    engine returns some; a target alone that breaks ties otherwise may differ there, as it may by rounding.
    A sequence stays with one replica and moves to another when that fails.
    """

    engine: str
    """What it is called in messages."""
    spare: int
    """Positions of the engine's context that a prompt cannot use."""
    advice: str
    """What to do where the engine refuses top_k or the vocabulary; `{k}` is top_k."""
    path: str
    """Of a POST."""
    trees = False
    """Whether a request may ask for rows of a tree; see `Branching`."""

    def __init__(
        self, folder: Path, urls: Sequence[str], *, top_k: int = 20, timeout_s: float = 60.0, name: str | None = None
    ) -> None:
        """Asks every replica what it serves, and for one row.

        folder: holds config.json of the model that is served, and its tokenizer; the weights need not be there.
        urls: replicas of it, like http://127.0.0.1:8000.
        top_k: tokens in a row. timeout_s: the longest silence of a replica before another is asked.
        name: what the model is called; None takes the folder's name.
        Raises: `ModelError` if one cannot be reached, serves something else, or does not give `top_k` tokens.
        """
        config = read_config(folder)
        if not 1 <= top_k <= config.vocab_size:
            raise ModelError(f"rows of {top_k} tokens are not to be had; give a top_k from 1 to {config.vocab_size}")
        self._k = top_k
        self._replicas = Replicas(urls, timeout_s=timeout_s, connections=_MAX_CALLS)
        self._turn = count()
        try:
            served = [_served(url, self._replicas.ask(i, "/v1/models")) for i, url in enumerate(self._replicas.urls)]
            lengths = [self._length(i, model) for i, model in enumerate(served)]
        except FailedError as problem:
            raise ModelError(f"{problem}; start {self.engine} there, or mend the address") from problem
        self._model = served[0].id
        for url, other in zip(self._replicas.urls, served, strict=True):
            if other.id != self._model:
                raise ModelError(
                    f"{url} serves {line(other.id)}, not {line(self._model)} like the first; serve one model, one name"
                )
        # How much a position takes, the server's own metrics say.
        self.info = EngineInfo(
            name if name is not None else folder.resolve().name,
            config.vocab_size,
            min([config.max_context, *(length - self.spare for length in lengths if length is not None)]),
            config.eos_ids,
            top_k=top_k,
            max_calls=_MAX_CALLS,
            trees=self.trees,
        )
        asked = [config.vocab_size - 1]
        try:
            for i in range(len(served)):
                body = self._request(asked, 1, Lineage(1))
                self._logits(self._tops(self._replicas.ask(i, self.path, body, self._most(1))), 1)
            probes = [self._probe(i) for i in range(len(served))]
        except ModelError as problem:
            raise ModelError(f"{problem}: {self.advice.format(k=top_k)}") from problem
        said = words(self.engine, self._model)
        for url, found in zip(self._replicas.urls, probes, strict=True):
            if not same(said + found, said + probes[0]):
                raise ModelError(f"{url} serves other weights as {line(self._model)} than the first; serve one model")
        self.info = replace(self.info, digest=said + probes[0])
        self._first = said + probes[0]
        self._replicas.check_later(self._check)

    def new_cache(self) -> RemoteCache:
        """An empty sequence, at the next replica in turn."""
        return RemoteCache(next(self._turn) % len(self._replicas.urls))

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        found: list[FloatArray | AirdraftError] = []
        for part in batch:
            try:
                found.append(self._forward(part))
            except AirdraftError as error:
                found.append(error)
        return found

    def _forward(self, part: Part) -> FloatArray:
        """See `LanguageModel.forward`. A prefill is posted too: it leaves its keys and values in the prefix cache."""
        check(self.info, part)
        cache, rows, keep = part.cache, part.rows, part.keep
        lineage = cache.lineage.kept(keep, part.picks).grown(len(part.tokens), part.parents)
        stay = [*cache.tokens[:keep], *(cache.tokens[keep + pick] for pick in part.picks)]
        whole = stay + [int(token) for token in part.tokens]
        request = self._request(whole, rows, lineage)
        try:
            replica, reply = self._replicas.ask_any(cache.replica, self.path, request, self._most(rows))
        except ModelError as problem:
            # Addresses and words of the servers are for who runs the edge; the error goes to who asked for a text.
            _log.error("a forward failed: %s", problem)
            raise ModelError(
                f"the engine of {self.info.name} failed; try again later, or see the edge's log"
            ) from problem
        logits = self._logits(self._tops(reply) if rows else [], rows)
        cache.tokens, cache.lineage, cache.replica = whole, lineage, replica
        short = list(_short(whole, lineage, part.wanted, logits))
        if short:
            self._tell(replica, short)
        return logits

    def _check(self, replica: int) -> None:
        """Raises: `ModelError` if a replica, which may have been started again, has other rows than at the start."""
        if not same(self._first[:BYTES] + self._probe(replica), self._first):
            url = self._replicas.urls[replica]
            raise ModelError(f"{url} serves other weights as {line(self._model)} than when this edge was started")

    def _probe(self, replica: int) -> bytes:
        """The best log-probability of each of some rows of a fixed text: other weights give others."""
        vocab = self.info.vocab_size
        # Ids that are tokens of text in every vocabulary: special ones come first or last.
        first, end = (256, min(vocab, 30_000)) if vocab > 512 else (0, vocab)
        n = min(2 * _PROBE_ROWS, self.info.max_context)
        tokens = [first + (i * i * 7919 + i * 104_729) % (end - first) for i in range(1, n + 1)]
        rows = max(1, n // 2)
        body = self._request(tokens, rows, Lineage(len(tokens)))
        reply = self._replicas.ask(replica, self.path, body, self._most(rows), checks=True)
        return probe(self._logits(self._tops(reply), rows).max(axis=1).tolist())

    def _most(self, rows: int) -> int:
        """Most bytes of a reply with so many rows."""
        return REPLY_BYTES + rows * (self._k + 1) * _ENTRY_BYTES

    def _tell(self, replica: int, short: Sequence[Short]) -> None:
        """Ask one replica for what rows do not tell. What it does not say stays untold, and who needs that refuses."""
        for asks in self._further(short):
            if not (count := sum(len(ask.bodies) for ask in asks)):
                continue
            with ThreadPoolExecutor(min(count, _MAX_ASKS), "ask") as pool:
                futures = [[pool.submit(self._asked, replica, body, ask) for body in ask.bodies] for ask in asks]
            for ask, asked in zip(asks, futures, strict=True):
                try:
                    replies = [future.result() for future in asked]
                except ModelError as problem:
                    _log.warning("%s tells too little of what a guide allows: %s", self.info.name, problem)
                    continue
                for i, each in enumerate(ask.short):
                    each.add([entry for reply in replies for entry in reply[i]], every=ask.every)

    def _asked(self, replica: int, body: bytes, ask: Inquiry) -> list[list[tuple[int, float]]]:
        """What one request of an `Inquiry` tells of its rows."""
        most = REPLY_BYTES + len(ask.short) * (ask.entries + 1) * _ENTRY_BYTES
        return self._told(self._replicas.ask(replica, self.path, body, most), len(ask.short))

    def _told(self, reply: bytes, rows: int) -> list[list[tuple[int, float]]]:
        """The rows in a reply to an `Inquiry`. Raises: `ModelError` if it is malformed."""
        found = [list(top) for top in self._tops(reply)]
        self._check_rows(found, rows)
        for token, logprob in (entry for top in found for entry in top):
            self._check_entry(token, logprob)
        return found

    def _logits(self, tops: Sequence[Top], rows: int) -> FloatArray:
        """float32 [rows, vocab_size] with the `top_k` best of each row. Raises: `ModelError` if the reply lacks any."""
        self._check_rows(tops, rows)
        logits = np.full((rows, self.info.vocab_size), -np.inf, np.float32)
        for row, top in zip(logits, tops, strict=True):
            # The token that was drawn comes besides, and may not be among the most likely: it goes out again.
            best = sorted(set(top), key=lambda entry: (-entry[1], entry[0]))[: self._k]
            if len({token for token, _ in best}) < self._k:
                raise ModelError(f"{self.engine} returned a row of {len(best)} tokens, not {self._k}")
            for token, logprob in best:
                self._check_entry(token, logprob)
                row[token] = logprob
        return logits

    def _check_rows(self, tops: Sequence[Top], rows: int) -> None:
        if len(tops) != rows:
            raise ModelError(f"{self.engine} returned {len(tops)} rows, not {rows}; its version may not fit airdraft's")

    def _check_entry(self, token: int, logprob: float) -> None:
        if not 0 <= token < self.info.vocab_size:
            raise ModelError(f"{self.engine} returned token {token}, outside 0 to {self.info.vocab_size - 1}")
        if not logprob <= _MOST_LOGPROB:
            raise ModelError(f"{self.engine} returned a log-probability of {logprob:g}; it must be 0 at most")

    def _length(self, replica: int, model: Served) -> int | None:
        """Most positions of a sequence there; None: it does not say. Raises: `ModelError`."""
        return model.max_model_len

    @abstractmethod
    def _request(self, tokens: list[int], rows: int, lineage: Lineage) -> bytes:
        """The body of a POST that asks for the last `rows` rows of `tokens`, which follow one another as
        `lineage` says: in a chain, unless the engine runs trees."""

    @abstractmethod
    def _tops(self, reply: bytes) -> list[Top]:
        """The rows in a reply, first to last. Raises: `ModelError` if it is malformed."""

    @abstractmethod
    def _further(self, short: Sequence[Short]) -> Iterator[list[Inquiry]]:
        """What to ask about rows that tell too little. Rows have what is told by then when the next is asked for."""


class Branching(RemoteTarget):
    """A target that is sent a prompt for each row, and so runs trees."""

    trees = True

    def _request(self, tokens: list[int], rows: int, lineage: Lineage) -> bytes:
        """See `RemoteTarget._request`. The longest prompt of a chain comes first: the others then find what it has."""
        n = len(tokens)
        ends = range(n - 1, n - 1 - max(rows, 1), -1)
        return self._prompts([leading(tokens, lineage, end) for end in ends], rows)

    @abstractmethod
    def _prompts(self, prompts: list[list[int]], rows: int) -> bytes:
        """The body of a request with a prompt for each row, the last first, or one for no row."""


def leading(tokens: Sequence[int], lineage: Lineage, at: int) -> list[int]:
    """The tokens that lead to the one at position `at`, itself included."""
    return [*tokens[: min(lineage.trunk, at + 1)], *(tokens[each] for each in lineage.path(at))]


def _short(
    tokens: Sequence[int], lineage: Lineage, wanted: Sequence[Wanted | None], rows: FloatArray
) -> Iterator[Short]:
    """The rows, of the last of `tokens`, that do not tell what is wanted."""
    for row, wish, at in zip(rows, wanted, range(len(tokens) - len(rows), len(tokens)), strict=False):
        if wish is not None and wish.lacks(row):
            yield Short(leading(tokens, lineage, at), row, wish)


class _Models(msgspec.Struct):
    data: list[Served]


def _served(url: str, reply: bytes) -> Served:
    """The model itself: adapters come after it in the list."""
    models = decode(reply, _Models, f"{url}/v1/models").data
    if not models:
        raise ModelError(f"{url} serves no model; start it with one")
    return models[0]

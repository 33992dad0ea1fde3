"""What a model is to airdraft: on the device a forward that rolls back, at the edge many of them in one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.lineage import check_parents, check_picks

FloatArray = NDArray[np.float32]
Found = TypeVar("Found")
Tensors = Sequence[NDArray[Any]]
"""Keys and values of some positions: for each layer keys, then values, each [kv_heads, positions, head_dim]."""


class Cache(Protocol):
    """Keys and values of one sequence. Only the engine that made it looks inside; dropping it frees it."""

    @property
    def length(self) -> int:
        """Positions held."""
        ...


@runtime_checkable
class Portable(Cache, Protocol):
    """A cache whose keys and values can be taken out as arrays, and put into another of the same model."""

    def take(self, start: int, end: int) -> Tensors:
        """Keys and values of positions `start` to `end`, which the cache holds. Raises: `ModelError` if it cannot."""
        ...

    def put(self, keep: int, tensors: Tensors) -> None:
        """Roll back to the first `keep` positions, and add those of `tensors`."""
        ...


@runtime_checkable
class Erasable(Cache, Protocol):
    """A cache whose memory can be overwritten, as that of a private text must be."""

    private: bool
    """Whether memory that it gives up is overwritten, and no other sequence's call has a part in it."""

    def erase(self, keep: int) -> None:
        """Roll back to the first `keep` positions or fewer, and overwrite all that came after."""
        ...


class LanguageModel(Protocol):
    """A causal language model that runs one sequence at a time: the draft on the device."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_context(self) -> int:
        """Most positions a sequence may hold."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        ...

    def new_cache(self) -> Any:
        """An empty key-value cache for one sequence. Opaque to everybody but the model; freed when it is dropped."""
        ...

    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """Roll `cache` back to its first `keep` positions, feed `tokens`, return the last `rows` rows of logits.

        Row i of the result scores the token that follows `tokens[len(tokens) - rows + i]`.
        Afterwards the cache holds `keep + len(tokens)` positions.

        Returns: float32 [rows, vocab_size]; `rows` may be 0 (a prefill whose logits nobody needs).
        Raises: `ModelError` if `keep` exceeds what the cache holds, `tokens` is empty, `rows > len(tokens)`,
        or the sequence would exceed `max_context`. The cache is then as it was.
        """
        ...


@dataclass(frozen=True)
class Exactness:
    """What a token's row depends on besides the text before it, each as the share of tokens that it would change.

    0: on nothing, the row has the same bits. Else the total variation between rows of a trial, mean over positions: two
    draws with the same noise differ at least so often. None: not known.
    """

    batch: float | None = None
    """On the other texts of its call."""
    width: float | None = None
    """On how many tokens are fed at once, and in what trees: by this forward, and by those that fed the text."""
    company: float | None = None
    """On what else lies in the engine's memory."""
    prompts: float | None = 0.0
    """On whether its prompt was published in a codec that loses something, or holds documents that were read by
    themselves: not exact then, and no rounding."""

    @classmethod
    def of(cls, shares: Sequence[float | None]) -> Exactness:
        """The one whose `shares` these are, in their order; what is missing is not known."""
        return cls(*shares[:4])

    def in_calls_of(self, texts: int | None) -> Exactness:
        """It where so many texts share a call at most; None: as many as the engine takes."""
        return replace(self, batch=0.0) if texts == 1 else self

    @property
    def shares(self) -> dict[str, float | None]:
        """Each by its name."""
        return {"batch": self.batch, "width": self.width, "company": self.company, "prompts": self.prompts}

    @property
    def losses(self) -> dict[str, float | None]:
        """What makes texts other than the target's own by more than rounding, which each answer says."""
        return {} if self.prompts == 0 else {"prompts": self.prompts}

    @property
    def told(self) -> dict[str, str | float | None]:
        """Each by its name, `exact` for 0: for those who read JSON."""
        return {name: "exact" if share == 0 else share for name, share in self.shares.items()}

    @property
    def words(self) -> str:
        """All for people, in a line."""
        if self.losses:
            share = "a share that is not known" if self.prompts is None else f"{self.prompts:.0e}"
            return f"not exact after published prompts or documents, which change {share} of tokens; otherwise " + (
                replace(self, prompts=0.0).words
            )
        changing = {name: share for name, share in self.shares.items() if share != 0}
        if not changing:
            return "exact: the same request has the same text"
        if None in changing.values():
            return "exact up to rounding, whose size the engine does not say"
        told = ", ".join(f"{share:.0e} with {name}" for name, share in changing.items())
        return f"exact up to rounding; share of tokens that it changes: {told}"


@dataclass(frozen=True)
class Threads:
    """The number of threads that run an engine's forwards."""

    count: int
    why: str = "as asked for"

    @property
    def words(self) -> str:
        """Both for people, in a line."""
        return f"{self.count} thread{'s' if self.count > 1 else ''} ({self.why})"


@dataclass(frozen=True)
class EngineInfo:
    """Everything an engine declares; the defaults are those of a model that runs one sequence at a time."""

    name: str
    vocab_size: int
    max_context: int
    """Most positions a sequence may hold."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text."""
    top_k: int | None = None
    """None: rows are whole. A number: they hold log-probabilities of that many of the most likely tokens, and
    -inf for all others."""
    max_rollback: int | None = None
    """Most positions that `keep` may take back; None: any number."""
    max_batch: int = 1
    """Most parts in one call."""
    max_calls: int = 1
    """Most calls at once, each from a thread of its own."""
    max_caches: int | None = None
    """Most caches that may exist at once; None: as many as memory holds."""
    max_positions: int | None = None
    """Most positions that all caches may hold together; None: as many as memory holds."""
    position_bytes: int | None = None
    """Size of the keys and values of one position; None: not known."""
    rooms: bool = False
    """Whether every cache takes as many positions as the longest of them."""
    exactness: Exactness = Exactness()
    threads: Threads | None = None
    """None: not known, or the engine runs elsewhere."""
    trees: bool = False
    """Whether a part may have `parents` and `picks`."""
    doubt: float = 0.0
    """Nats by which scores of two tokens must differ on another branch of a tree than the first, if a chain is to
    choose the same. The first is the first child of what stays, its first child, and so on."""
    chooses: bool = False
    """Whether it is a `Chooser` to whom it is worth giving choices. It knows whole rows then."""
    erases: bool = False
    """Whether its caches are `Erasable`, so that it may be given private texts."""
    digest: bytes = b""
    """What defines its rows, see `models/files/digest.py`. Until `load_target` completes it: what the engine says of
    itself that its files do not, the type it computes in, say. Empty: nobody can say what it is."""


@dataclass(frozen=True)
class Choice:
    """The law by which the rows of a part choose their tokens, argmax(log p + G), see `core/law.py`."""

    temperature: float
    """0: the most likely one."""
    top_k: int
    """0: all."""
    top_p: float
    min_p: float
    seed: int
    """Of the noise, see `core/noise.py`."""
    vocab_size: int
    """Columns beyond are no tokens."""
    positions: tuple[int, ...]
    """For each row the index of its token in the text, [rows]."""
    allowed: tuple[NDArray[np.bool_] | None, ...] = ()
    """For each row the tokens that a grammar allows, [vocab]; None: all. Empty: all in every row."""
    bars: tuple[tuple[int, float], ...] = ()
    """For each row of a chain a token, and the probability that it must exceed to be the row's; else the row itself is
    given, and of those behind it nothing is needed. Empty: each row's token is chosen."""
    logprobs: tuple[int, float] | None = None
    """How many likely tokens to tell with each, and the lowest log-probability told; None: nothing of the kind."""

    def of(self, rows: Sequence[int]) -> Choice:
        """That of these rows."""
        return replace(
            self,
            positions=tuple(self.positions[row] for row in rows),
            allowed=tuple(self.allowed[row] for row in rows if self.allowed),
            bars=tuple(self.bars[row] for row in rows if self.bars),
        )


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a text chooses among at one row: the likeliest of the tokens that a grammar allows."""

    allowed: NDArray[np.bool_]
    """[vocab]"""
    count: int
    """How many of them, or all if fewer are allowed."""

    def lacks(self, row: FloatArray) -> int:
        """How many of them a row [vocab] does not tell, if what it does not is less likely than all that it does."""
        told = int(np.isfinite(row[: self.allowed.size][self.allowed]).sum())
        return max(0, min(self.count, int(self.allowed.sum())) - told)


class TokenLogprob(NamedTuple):
    """A token, its log-probability and the likely ones of its row, see `core/logprobs.py`. All in single precision."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


Chosen = list[int | TokenLogprob | FloatArray]
"""For each row its token, with log-probabilities if they are asked for, or the row itself, [vocab], where rounding
might decide or the token does not exceed its bar."""


@dataclass(frozen=True)
class Part:
    """One sequence's share of a call to a `TargetEngine`; the fields are the arguments of `LanguageModel.forward`.

    Fed are the tokens of a chain, or with `parents` those of a tree. The cache then holds them all, in the order given,
    and knows which follows which, until a later part names those that stay: the first `keep` positions, and `picks` of
    the others. So n tokens take n positions of the cache, whatever they branch. Each sees those that lead to it alone.
    """

    cache: Any
    """A `Cache` of the engine that runs the part."""
    keep: int
    tokens: Sequence[int]
    rows: int
    parents: tuple[int, ...] | None = None
    """For each token the index of the one that it follows, less than its own; below 0 one of the positions that stay,
    counted from their end: -1 is the last, one more than there are is nothing. None: a chain that follows the last."""
    picks: tuple[int, ...] = ()
    """Positions after the first `keep` that stay, counted from there, upwards; they move up to `keep`. None of them
    stays without the position that it follows."""
    choice: Choice | None = None
    """By which a `Chooser` may give tokens instead of the rows; all others give rows."""
    wanted: tuple[Wanted | None, ...] = ()
    """For each row what an engine with `top_k` is to tell besides its likeliest tokens, if it can. Empty: nothing."""


class TargetEngine(Protocol):
    """A causal language model that runs many sequences in one call: the target at the edge."""

    info: EngineInfo

    def new_cache(self) -> Cache:
        """An empty cache for one sequence. Raises: `ModelError` if `max_caches` are in use."""
        ...

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """Run every part, as `LanguageModel.forward` would. No cache occurs twice.

        Returns: for each part its rows, or the error that leaves its cache as it was; one part's error is no other's.
        """
        ...


@runtime_checkable
class Chooser(Protocol):
    """An engine that may choose tokens where its rows are, so that few of them need to be moved."""

    def choose(self, batch: Sequence[Part]) -> list[Chosen | FloatArray | AirdraftError]:
        """Run every part, as `TargetEngine.verify` would.

        Returns: for each part with a `choice` what that chooses, or its rows; for others their rows; or an error.
        """
        ...


Call = Callable[[Sequence[Part]], list[Any]]
"""`TargetEngine.verify` or `Chooser.choose`."""


@runtime_checkable
class Copier(Protocol):
    """A model whose caches can be copied, so that what texts have in common is read once."""

    def copy(self, cache: Any, length: int) -> Any:
        """A cache of its own with the first `length` positions of `cache`, which stays as it is.

        Raises: `ModelError` if `max_caches` are in use, or `cache` holds fewer positions.
        """
        ...


@runtime_checkable
class Brancher(Protocol):
    """A language model that may run trees as well."""

    @property
    def trees(self) -> bool:
        """Whether it does."""
        ...

    def branch(self, part: Part) -> FloatArray:
        """Run a part, as `LanguageModel.forward` would a chain. Raises: `ModelError`, as that does."""
        ...


@runtime_checkable
class Roomy(Protocol):
    """A cache that takes more memory than the positions it holds: room to grow, or a part in a batch."""

    @property
    def room(self) -> int:
        """Positions for which it has memory of its own."""
        ...

    def rest(self) -> None:
        """Give back what only the next call would need."""
        ...


@dataclass(eq=False)
class Around:
    """Base of caches that are another engine's and something more."""

    inner: Cache

    @property
    def room(self) -> int:
        """See `Roomy.room`."""
        return self.inner.room if isinstance(self.inner, Roomy) else self.inner.length

    def rest(self) -> None:
        """See `Roomy.rest`."""
        if isinstance(self.inner, Roomy):
            self.inner.rest()

    @property
    def private(self) -> bool:
        """See `Erasable.private`."""
        return isinstance(self.inner, Erasable) and self.inner.private

    @private.setter
    def private(self, private: bool) -> None:
        if isinstance(self.inner, Erasable):
            self.inner.private = private

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`."""
        if isinstance(self.inner, Erasable):
            self.inner.erase(keep)


def raised(found: Found | AirdraftError) -> Found:
    """Return an engine's rows, or what it chose, or raise its error."""
    if isinstance(found, AirdraftError):
        try:
            raise found
        finally:
            del found  # its traceback holds this frame: a circle in which a cache would stay
    return found


class LocalEngine(ABC):
    """Base of engines that are a `LanguageModel` as well, whose facts are those of `info`."""

    info: EngineInfo

    @abstractmethod
    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""

    def branch(self, part: Part) -> FloatArray:
        """See `Brancher.branch`."""
        return raised(self.verify([part]).pop())

    @property
    def trees(self) -> bool:
        return self.info.trees

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def vocab_size(self) -> int:
        return self.info.vocab_size

    @property
    def max_context(self) -> int:
        return self.info.max_context

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self.info.eos_ids


def info_of(model: LanguageModel) -> EngineInfo:
    """What a model declares, if it is an engine as well or runs one; else what is true of any."""
    plain = EngineInfo(model.name, model.vocab_size, model.max_context, model.eos_ids)
    found = getattr(model, "info", plain)
    return found if isinstance(found, EngineInfo) else plain


class OneByOne:
    """A `TargetEngine` over a `LanguageModel`: each call runs one sequence."""

    def __init__(self, model: LanguageModel, digest: bytes = b"") -> None:
        """`digest`: of the model, see `EngineInfo`; without one no text goes on after its connection was lost."""
        brancher = model if isinstance(model, Brancher) and model.trees else None
        self.info = replace(info_of(model), max_batch=1, trees=brancher is not None, digest=digest)
        self.new_cache = model.new_cache
        self._model, self._brancher = model, brancher
        if isinstance(model, Copier):
            self.copy = model.copy

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        found: list[FloatArray | AirdraftError] = []
        for part in batch:
            try:
                check_shape(self.info, part)
                if self._brancher is not None:
                    found.append(self._brancher.branch(part))
                else:
                    found.append(self._model.forward(part.cache, part.keep, part.tokens, part.rows))
            except AirdraftError as error:
                found.append(error.with_traceback(None))  # which would hold on to the cache
        return found


def check(info: EngineInfo, part: Part) -> None:
    """Refuse what no engine runs. Raises: `ModelError`, see `LanguageModel.forward`."""
    held, n = part.cache.length, len(part.tokens)
    if not 0 <= part.keep <= held:
        raise ModelError(f"cannot keep {part.keep} positions of a cache of {held}; feed the tokens again")
    if n == 0:
        raise ModelError("a forward needs at least one token; feed the last one again with keep one less")
    if not 0 <= part.rows <= n:
        raise ModelError(f"{n} tokens give 0 to {n} rows, not {part.rows}; ask for fewer or feed more tokens")
    check_shape(info, part)
    total = part.keep + len(part.picks) + n
    if total > info.max_context:
        raise ModelError(
            f"{total} positions exceed the {info.max_context} of {info.name}; shorten the prompt or the answer"
        )
    # A negative id would wrap around in an embedding and score another token without a word.
    if min(part.tokens) < 0 or max(part.tokens) >= info.vocab_size:
        raise ModelError(f"a token id is outside 0 to {info.vocab_size - 1}; use the tokenizer of {info.name}")


def check_copy(info: EngineInfo, cache: Cache, length: int) -> None:
    """Refuse a copy of more than there is. Raises: `ModelError`."""
    if not 0 <= length <= cache.length:
        raise ModelError(f"a cache of {info.name} holds {cache.length} positions, so {length} cannot be copied")


def check_shape(info: EngineInfo, part: Part) -> None:
    """Refuse a tree where the engine runs chains only, and one that is none. Raises: `ModelError`."""
    if part.parents is None and not part.picks:
        return
    if not info.trees:
        raise ModelError(f"{info.name} runs chains only; give it a part without parents and picks")
    check_picks(part.cache.length, part.keep, part.picks)
    check_parents(part.keep + len(part.picks), len(part.tokens), part.parents)

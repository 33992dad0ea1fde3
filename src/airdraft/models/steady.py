"""Steady rows: a trial tells what an engine's rows depend on, and forwards keep to widths that give the same bits.

Products of one row run other code than those of several, and some code changes again at eight. Sums are then added up
in another order, and where activations are quantised, or kept in 16 bits, a last bit grows: with 4-bit weights of
135 M parameters one token and two at once set 4 of 100 tokens apart. Within a kernel's widths the bits are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import (
    Around,
    Call,
    Chooser,
    Copier,
    EngineInfo,
    Exactness,
    FloatArray,
    LocalEngine,
    Part,
    Portable,
    TargetEngine,
    Tensors,
    check,
    check_copy,
    raised,
)
from airdraft.models.grafts import Grafted
from airdraft.models.rows import log_probs, probs

BANDS: tuple[tuple[int, int | None], ...] = ((2, None), (2, 7))
"""Least and most tokens of a forward, in the order they are tried. One token alone is nowhere like several.

Measured on one core: two tokens take 1.04 of the time of one with the shipped target on ONNX Runtime, on llama.cpp 1.4
(and 1.2 in Q8_0), and 1.6 to 1.7 with 135 M parameters in Q4_1 and Q4_K_M. The second band, for K-quants, whose code
changes again at eight, makes a prompt take 1.3 of its time, and its texts share no calls.
"""
ROUNDING = 1e-5
"""Share of changed tokens that a batch may cost texts that would be exact without."""
_FEWEST, _MOST = 8, 128
"""Positions of a trial: the more there are, the rarer the differences that it sees. Large models show theirs sooner,
as there is more in them that can tip over."""
_TRIAL_S = 0.3
"""Time of the one forward that the others are compared with; all together take some ten times as long."""
_MOST_LOGITS = 1 << 24
_STEPS = (3, 5, 8, 4)
_SURE = 16
"""So many times the greatest difference of a trial is more than any that follows."""
_LEAST_SHARE = 1e-9
"""Told where bits differ and probabilities do not."""


class Engine(TargetEngine, Protocol):
    """An engine of this process: targets and drafts alike."""

    @property
    def name(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_context(self) -> int: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    def forward(self, cache: Any, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        ...


@dataclass(eq=False)
class BandCache(Around):
    """A cache of another engine, which may hold tokens beyond the `length` that count."""

    length: int = 0

    def take(self, start: int, end: int) -> Tensors:
        """See `Portable.take`."""
        return self._portable.take(start, end)

    def put(self, keep: int, tensors: Tensors) -> None:
        """See `Portable.put`."""
        self._portable.put(keep, tensors)
        self.length = keep + tensors[0].shape[1]

    def erase(self, keep: int) -> None:
        """See `Erasable.erase`."""
        super().erase(keep)
        self.length = min(self.length, self.inner.length)

    @property
    def _portable(self) -> Portable:
        if not isinstance(self.inner, Portable):
            raise ModelError(f"{type(self.inner).__name__} gives no keys and values away; take the engine onnx or hf")
        return self.inner


class Banded(LocalEngine):
    """An engine whose forwards feed `least` to `most` tokens.

    A narrower one is fed its last token again, and that row is dropped; a wider one is cut into pieces of like size.
    """

    def __init__(self, engine: Engine, least: int, most: int | None = None) -> None:
        self.info = replace(engine.info, max_context=engine.info.max_context - (least - 1))
        self._engine, self._least, self._most = engine, least, most
        if isinstance(engine, Copier):
            self.copy = partial(self._copy, engine)
        if isinstance(engine, Chooser):
            self.choose = partial(self._run, engine.choose)

    def _copy(self, engine: Copier, cache: BandCache, length: int) -> BandCache:
        """See `Copier.copy`."""
        check_copy(self.info, cache, length)
        return BandCache(engine.copy(cache.inner, length), length)

    def new_cache(self) -> BandCache:
        """An empty cache. Raises: `ModelError` if `max_caches` are in use."""
        return BandCache(self._engine.new_cache())

    def forward(self, cache: BandCache, keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        return self.branch(Part(cache, keep, tokens, rows))

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`. A part of several pieces that fails has lost what followed its `keep`."""
        return self._run(self._engine.verify, batch)

    def _run(self, call: Call, batch: Sequence[Part]) -> list[Any]:
        failed: dict[int, AirdraftError] = {}
        pieces: dict[int, Iterator[tuple[Part, int]]] = {}
        rows: dict[int, list[Any]] = {}
        for i, part in enumerate(batch):
            try:
                check(self.info, part)
                pieces[i], rows[i] = self._pieces(part), []
            except ModelError as error:
                failed[i] = error.with_traceback(None)  # which would hold on to the cache
        while fed := {i: piece for i, each in pieces.items() if (piece := next(each, None)) and i not in failed}:
            found = call([part for part, _ in fed.values()])
            for (i, (_, wanted)), got in zip(fed.items(), found, strict=True):
                if isinstance(got, AirdraftError):
                    failed[i] = got
                    batch[i].cache.length = min(batch[i].cache.length, batch[i].cache.inner.length)
                else:
                    rows[i].append(got[:wanted])
                    batch[i].cache.length = batch[i].keep + len(batch[i].picks) + len(batch[i].tokens)
        return [failed[i] if i in failed else _joined(rows[i]) for i in range(len(batch))]

    def _pieces(self, part: Part) -> Iterator[tuple[Part, int]]:
        """The forwards of a part, each with the number of its rows that were asked for."""
        tokens, n, keep = list(part.tokens), len(part.tokens), part.keep + len(part.picks)
        count = 1 if self._most is None else -(-n // self._most)
        ends = [n * (i + 1) // count for i in range(count)]
        for start, end in zip([0, *ends], ends, strict=False):
            again = max(0, self._least - (end - start))
            wanted = max(0, min(end - start, end - (n - part.rows)))
            fed = tokens[start:end] + tokens[end - 1 : end] * again
            rows, parents = wanted + again if wanted else 0, None
            if part.parents is not None:
                mine = tuple(parent - start for parent in part.parents[start:end])
                parents = mine + mine[-1:] * again
            choice = part.choice if wanted else None
            if choice is not None:  # of what is fed again the row that is dropped chooses as the last one does
                first = end - wanted - (n - part.rows)
                choice = choice.of([*range(first, first + wanted), *[first + wanted - 1] * again])
            if start == 0:
                yield Part(part.cache.inner, part.keep, fed, rows, parents, part.picks, choice), wanted
            else:
                yield Part(part.cache.inner, keep + start, fed, rows, parents, choice=choice), wanted


def steadied(engine: Engine) -> Engine:
    """`engine`, kept to the first of `BANDS` in which rows do not depend on the width of a forward, if there is one.

    Its `info` says what a trial found. Texts that would be exact one by one share no calls, if that changes more than
    rounding does.
    """
    try:
        positions = _positions(engine)
        for least, most in BANDS:
            trial = _Trial(Banded(engine, least, most), least, positions)
            if (width := trial.width()) == 0:
                break
        else:
            trial = _Trial(engine, 1, positions)
            width = trial.width()
        doubt = 0.0
        if trial.engine.info.trees:
            if width == 0:
                trial = _Trial(Grafted(trial.engine), least, positions)
            changed, error = trial.tree()
            width, doubt = (0.0, _SURE * error) if width == 0 else (max(width, changed), 0.0)
        exactness = Exactness(trial.batch(), width, trial.company())
    except ModelError:
        return engine  # it says what is wrong when it is used
    found = trial.engine
    info: EngineInfo = replace(found.info, exactness=exactness, doubt=doubt)
    if exactness.width == exactness.company == 0 and (exactness.batch or 0) > ROUNDING:
        info = replace(info, max_batch=1, exactness=replace(exactness, batch=0.0))
    found.info = info
    return found


def _positions(engine: Engine) -> int:
    """As many as time, memory and the context allow. Raises: `ModelError` if the engine cannot run."""
    most = min(_MOST, engine.info.max_context - 2, max(_FEWEST, _MOST_LOGITS // engine.info.vocab_size))
    few = min(_FEWEST, most)
    tokens = _text(engine, few)
    _rows(engine, engine.new_cache(), 0, tokens, few)  # the first one takes longer
    began_s = time.perf_counter()
    _rows(engine, engine.new_cache(), 0, tokens, few)
    return max(few, min(most, int(few * _TRIAL_S / (time.perf_counter() - began_s))))


def _text(engine: Engine, n: int) -> list[int]:
    found: list[int] = np.random.default_rng(7).integers(engine.info.vocab_size, size=n).tolist()
    return found


class _Trial:
    """Rows of one text, fed in several ways. Each way is compared with one that differs from it in a single respect."""

    def __init__(self, engine: Engine, least: int, positions: int) -> None:
        self.engine = engine
        self._least = least
        self._text = _text(engine, positions)

    def width(self) -> float:
        """All tokens at once, and few and ever other numbers of them."""
        whole = _rows(self.engine, self.engine.new_cache(), 0, self._text, len(self._text))
        return share(self._alone, whole)

    def company(self) -> float:
        """The same forwards with and without other texts in memory."""
        if (self.engine.info.max_caches or 3) < 3:
            return 0.0
        others = [self.engine.new_cache() for _ in range(2)]
        for cache, most in zip(others, (7, 40), strict=True):
            _rows(self.engine, cache, 0, self._text[::-1][:most], 0)
        found = share(self._stepwise(), self._alone)
        del others
        return found

    def batch(self) -> float:
        """The same forwards one by one and in one call, of texts of other lengths and widths."""
        info, n = self.engine.info, len(self._text)
        starts = (n // 4, n // 3, n // 2)[: min(info.max_batch, info.max_caches or 3)]
        if len(starts) < 2:
            return 0.0
        caches = [self.engine.new_cache() for _ in starts]
        found = []
        for together in (False, True):
            rows: list[FloatArray] = []
            ends = list(starts)
            for cache, start in zip(caches, starts, strict=True):
                _rows(self.engine, cache, 0, self._text[:start], 0)
            for widths in cycle(((self._least,) * 3, (2, 4, 3))):
                if max(ends) + 4 > n:
                    break
                parts = [
                    Part(cache, end, self._text[end : end + width], width)
                    for cache, end, width in zip(caches, ends, widths, strict=False)
                ]
                calls = [parts] if together else [[part] for part in parts]
                rows += [raised(each) for call in calls for each in self.engine.verify(call)]
                ends = [end + width for end, width in zip(ends, widths, strict=False)]
            found.append(np.concatenate(rows) if rows else np.zeros((0, 1), np.float32))
        return share(found[1], found[0])

    def tree(self) -> tuple[float, float]:
        """The text as a branch of trees, each beside another that comes first, and what stays of it fed on.

        Returns: the share, and the greatest difference of a log-probability.
        """
        cache, n = self.engine.new_cache(), len(self._text)
        start = n // 2
        _rows(self.engine, cache, 0, self._text[:start], 0)
        found, picks = [], tuple[int, ...]()
        for at in range(start, n - 1, 2):
            text = self._text[at : at + 2]
            other = [(token + 1) % self.engine.info.vocab_size for token in text]
            fed = [other[0], text[0], other[1], text[1]]
            rows = _rows(self.engine, cache, at - len(picks), fed, 4, (-1, -1, 0, 1), picks)
            found.append(rows[[1, 3]])
            picks = (1, 3)
        rows = np.concatenate(found)
        alone = self._alone[start : start + len(rows)]
        return share(rows, alone), float(np.abs(log_probs(rows) - log_probs(alone)).max())

    @cached_property
    def _alone(self) -> FloatArray:
        return self._stepwise()

    def _stepwise(self) -> FloatArray:
        """All rows, every second forward as narrow as may be."""
        cache, found, start = self.engine.new_cache(), [], 0
        for step in cycle(each for other in _STEPS for each in (self._least, other)):
            tokens = self._text[start : start + step]
            if not tokens:
                break
            found.append(_rows(self.engine, cache, start, tokens, len(tokens)))
            start += len(tokens)
        return np.concatenate(found)


def share(rows: FloatArray, others: FloatArray) -> float:
    """The share of tokens that `others` instead of `rows` would change, see `Exactness`; 0 only if all bits agree."""
    if np.array_equal(rows, others):
        return 0.0
    found = 0.5 * np.abs(probs(rows) - probs(others)).sum(-1).mean()
    return min(max(float(found), _LEAST_SHARE), 1.0)


def _rows(
    engine: TargetEngine, cache: Any, keep: int, tokens: Sequence[int], rows: int,
    parents: tuple[int, ...] | None = None, picks: tuple[int, ...] = (),
) -> FloatArray:  # fmt: skip
    return raised(engine.verify([Part(cache, keep, tokens, rows, parents, picks)]).pop())


def _joined(rows: list[Any]) -> Any:
    """The rows of all pieces, or where an engine chose the answers to those that were asked for."""
    if any(isinstance(each, list) for each in rows):
        return [row for each in rows for row in each]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)

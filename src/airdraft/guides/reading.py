"""Reads guides: a spec and a tokenizer become a grammar's first state, in bounded time and memory."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from airdraft.core.law import Guide
from airdraft.core.messages import MOST_GUIDE, GuideSpec
from airdraft.errors import BadParameterError
from airdraft.guides.bias import BIASED, Biased, bias_of
from airdraft.guides.grammar import begun
from airdraft.guides.state import GrammarWalk, panicked
from airdraft.guides.trial import trial
from airdraft.models.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 32
"""Grammars that are kept, for texts to come."""


def reader() -> str:
    """What reads grammars here, as in `Welcome.guides`; empty if llguidance is not installed."""
    try:
        return f"llguidance {version('llguidance')}"
    except PackageNotFoundError:
        return ""


class Guides:
    """Reads guides for one model's tokenizer. llguidance is loaded for the first, as most texts have none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = reader()
        """As in `Welcome.guides`."""
        self._tokenizer, self._vocab_size = tokenizer, tokenizer.vocab_size
        self._tokenizers: dict[tuple[int, ...], LLTokenizer] = {}
        self._grammars: OrderedDict[tuple[GuideSpec, tuple[int, ...]], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "guides")  # one grammar at a time, whoever asks

    async def read(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        """Read a guide beside the event loop. Raises: as `make`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.make, spec, tuple(eos_ids))

    def make(self, spec: GuideSpec, eos_ids: Sequence[int]) -> Guide:
        """Return the state before the first token of a text that `eos_ids` end. It takes up to seconds.

        Raises: `BadParameterError` for a grammar that cannot be read, allows nothing or is too large.
        """
        if any(not 0 <= token < self._vocab_size for token in eos_ids):
            what = f"the target ends texts with a token beyond this vocabulary of {self._vocab_size}; give no guide"
            raise BadParameterError(what, "guide")
        if spec.kind == BIASED:
            bias = bias_of(spec, self._vocab_size)
            inner = None if bias.guide is None else self.make(bias.guide, eos_ids)
            return Biased.begin(bias, inner, self._vocab_size, tuple(eos_ids))
        with self._lock:
            key = spec, tuple(eos_ids)
            grammar = self._grammars.get(key)
            if grammar is None:
                grammar = self._grammars[key] = self._contained(spec, key[1])
                if len(self._grammars) > KEPT:
                    self._grammars.popitem(last=False)
            self._grammars.move_to_end(key)
            return GrammarWalk(grammar, self._vocab_size, key[1]).begin

    def _contained(self, spec: GuideSpec, eos_ids: tuple[int, ...]) -> LLMatcher:
        """As `_compiled`. A panic in llguidance, which is no `Exception`, refuses the guide and ends nothing else."""
        try:
            return self._compiled(spec, eos_ids)
        except BaseException as error:
            if not panicked(error):
                raise
            raise _unread(f"its reader failed ({error})") from error

    def _compiled(self, spec: GuideSpec, eos_ids: tuple[int, ...]) -> LLMatcher:
        if not eos_ids:
            raise BadParameterError("the target has no end-of-text token, and guides need one; give none", "guide")
        if not self.name:
            raise BadParameterError("llguidance is missing here, which reads guides; pip install llguidance", "guide")
        if len(spec.text) > MOST_GUIDE:
            raise BadParameterError(f"the guide has more than {MOST_GUIDE} characters; give a smaller one", "guide")
        tokens = self.tokens(eos_ids)
        if (why := trial().read(spec.kind, spec.text)) is not None:
            raise _unread(why)
        try:
            return begun(tokens, spec.kind, spec.text)
        except ValueError as error:
            raise _unread(str(error)) from error

    def tokens(self, eos_ids: tuple[int, ...]) -> LLTokenizer:
        """The vocabulary as llguidance knows it. Raises: `BadParameterError` for a tokenizer that it cannot read."""
        if eos_ids not in self._tokenizers:
            from llguidance import LLTokenizer  # noqa: PLC0415

            try:
                found = LLTokenizer(self._tokenizer.written(), self._vocab_size, list(eos_ids))
            except ValueError as error:
                what = f"this tokenizer cannot be read for guides ({' '.join(str(error).split())[:200]}); give none"
                raise BadParameterError(what, "guide") from error
            self._tokenizers[eos_ids] = found
        return self._tokenizers[eos_ids]


def _unread(why: str) -> BadParameterError:
    """Say why a grammar cannot be read, on one line."""
    line = " ".join(why.replace("<non-verbose/>", "").split())[:300]
    line = "it allows no text" if line.startswith("NoExtension") else line
    return BadParameterError(f"the guide cannot be read: {line}", "guide")

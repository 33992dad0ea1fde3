"""What a draft model says off the recorded texts, behind drafts that the target refused: found when first asked, kept.

A replay of chains needs the draft along the texts alone. A tree grows elsewhere too, and where depends on times, so
nobody knows before which rows it will ask for. Each is run once, and what the law of its text makes of it is kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from airdraft.core.law import Law, Place
from airdraft.core.text import agreeing
from airdraft.errors import AirdraftError, BadParameterError, ModelError
from airdraft.files import replacing
from airdraft.lab.record import RecordedText, Recording
from airdraft.models.base import FloatArray, LanguageModel, Part
from airdraft.models.files.digest import files_digest
from airdraft.models.files.kept import cache_folder
from airdraft.models.registry import load, weights_of

_log = logging.getLogger(__name__)

Likely = list[tuple[int, float]]
"""Tokens and the logs of their chances, the likeliest first."""
MOST = 8
"""Tokens that are kept of a row, as many as a tree takes behind one draft."""


class _Line(msgspec.Struct):
    """What follows one text, cut off after `common` of its tokens, and then `tokens`."""

    text: int
    common: int
    tokens: tuple[int, ...]
    likely: Likely


class Branches:
    """The likely tokens behind any branch of the recorded texts."""

    def __init__(self, recording: Recording, draft: Callable[[], LanguageModel]) -> None:
        """`draft` loads the model with which the texts were recorded, which happens when a row is first asked for.

        Raises: `BadParameterError` if the recording does not hold what its texts were drawn with.
        """
        if any(text.seed is None or not text.prompt for text in recording.texts):
            raise BadParameterError(f"the recording {recording.name} holds no prompts and seeds; record it again")
        self._recording, self._draft = recording, draft
        self._known: dict[tuple[int, int, tuple[int, ...]], Likely] = {}
        self.nodes = Numbered(recording.vocab_size)
        """The model of both sides of a replay. What its rows stand for needs no second look."""
        self._seen: dict[tuple[int, int], Likely] = {}  # by text and node
        self._model: LanguageModel | None = None
        self._cache: Any = None
        self._held: list[int] = []
        self.run = 0
        """Rows that the draft model was run for."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model here: it is loaded again where this goes."""
        return self.__dict__ | {"_model": None, "_cache": None, "_held": []}

    def __len__(self) -> int:
        return len(self._known)

    def likely(self, text: int, tokens: Sequence[int], most: int) -> Likely:
        """What may follow the prompt of a text and `tokens`: at most `most`, and no more than `MOST`."""
        own = self._recording.texts[text]
        common = agreeing(tokens, own.tokens)
        key = text, common, tuple(tokens[common:])
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._row(own, tokens)
        return found[:most]

    def behind(self, text: int, row: np.ndarray, most: int) -> Likely:
        """What may follow all that was fed to `nodes` before it gave this row. As `likely`."""
        node = self.nodes.node(row)
        found = self._seen.get((text, node))
        if found is None:
            tokens = self.nodes.tokens(row)[self._recording.texts[text].prompt_length :]
            found = self._seen[text, node] = self.likely(text, tokens, MOST)
        return found[:most]

    def _row(self, text: RecordedText, tokens: Sequence[int]) -> Likely:
        if self._model is None:
            self._model = self._draft()
            self._cache, self._held = self._model.new_cache(), []
        whole = [*text.prompt, *tokens]
        keep = min(agreeing(whole, self._held), len(whole) - 1)
        row = self._model.forward(self._cache, keep, whole[keep:], 1)[0, : self._recording.vocab_size]
        self._held = whole
        self.run += 1
        law = Law(self._recording.params, text.seed or 0, self._recording.vocab_size)
        return [(token, round(log, 5)) for token, log in law.likely(row, Place(len(whole)), MOST)]

    def save(self, path: Path) -> None:
        """Write all that is known."""
        path.write_bytes(self._lines())

    def _lines(self) -> bytes:
        return msgspec.msgpack.encode([_Line(*key, likely) for key, likely in self._known.items()])

    def load(self, path: Path) -> None:
        """Take over what `save` wrote of the same recording. Raises: `BadParameterError` if it is something else."""
        try:
            lines = msgspec.msgpack.decode(path.read_bytes(), type=list[_Line])
        except OSError as problem:
            raise BadParameterError(f"cannot read the branches {path}: {problem.strerror or problem}") from problem
        except ValueError as problem:
            raise BadParameterError(
                f"{path} holds no branches ({problem}); delete it, and record them again"
            ) from problem
        self._known |= {(line.text, line.common, line.tokens): line.likely for line in lines}


class KeptBranches(Branches):
    """Branches that are kept in a file from one run to the next, and shared by processes that run at the same time."""

    def __init__(self, recording: Recording, draft: str) -> None:
        """`draft` names the model with which the texts were recorded. Raises: as `Branches`."""
        super().__init__(recording, partial(_loaded, draft))
        whole = hashlib.sha256(msgspec.json.encode(recording) + files_digest(weights_of(draft)))
        self._path = cache_folder() / "branches" / whole.hexdigest()[:32]
        self._kept = 0
        if self._path.is_file():
            self.load(self._path)

    def keep(self) -> None:
        """Write what was run since the last time, and read what others have run."""
        if self.run == self._kept:
            return
        self._kept = self.run
        try:
            if self._path.is_file():
                self.load(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.write(self._lines())
        except OSError as problem:
            _log.info("what the draft says off the texts is not kept: %s", problem)


def _loaded(draft: str) -> LanguageModel:
    return load(draft)[0]


class Numbered:
    """A draft model whose rows are numbers of what was fed: who knows the numbers looks up what to draft."""

    name = "replay"
    eos_ids: tuple[int, ...] = ()
    max_context = 1 << 20
    trees = True

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._ids: dict[tuple[int, int], int] = {}  # by the one before, and a token
        self._before: list[tuple[int, int]] = [(0, 0)]

    def node(self, row: np.ndarray) -> int:
        """The number of all that was fed before the row came."""
        return int(row[0])

    def tokens(self, row: np.ndarray) -> list[int]:
        """All that was fed before the row came."""
        node, found = self.node(row), list[int]()
        while node:
            node, token = self._before[node]
            found.append(token)
        return found[::-1]

    def new_cache(self) -> list[int]:
        """The number of what leads to each position."""
        return []

    def forward(self, cache: list[int], keep: int, tokens: Sequence[int], rows: int) -> FloatArray:
        """See `LanguageModel.forward`."""
        return self.branch(Part(cache, keep, tokens, rows))

    def branch(self, part: Part) -> FloatArray:
        """See `Brancher.branch`."""
        held, n = part.cache, len(part.tokens)
        if part.keep > len(held) or not n or part.rows > n:
            raise ModelError(f"a forward keeps {part.keep} of {len(held)} positions and asks {part.rows} rows of {n}")
        kept = [*held[: part.keep], *(held[part.keep + pick] for pick in part.picks)]
        ends, grown = [0, *kept], list[int]()
        for token, parent in zip(part.tokens, part.parents or range(-1, n - 1), strict=True):
            key = (ends[parent] if parent < 0 else grown[parent]), token
            if key not in self._ids:
                self._ids[key] = len(self._before)
                self._before.append(key)
            grown.append(self._ids[key])
        held[:] = kept + grown
        found = np.zeros((part.rows, self.vocab_size), np.float32)
        found[:, 0] = grown[n - part.rows :]
        return found

    def verify(self, batch: Sequence[Part]) -> list[FloatArray | AirdraftError]:
        """See `TargetEngine.verify`."""
        return [self.branch(part) for part in batch]

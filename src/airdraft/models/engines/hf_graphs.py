"""Calls of an hf engine in a few shapes, each with buffers of its own, which a GPU replays as a captured graph.

A forward of few tokens is hundreds of kernels, and Python takes longer to start them than a GPU to run them. A CUDA
graph starts them all at once, if sizes and addresses stay. So a call is padded to the next of few shapes, and written
into that shape's buffers: ids, positions, mask, and where in the pages its sequences lie. What pads it is read from and
written to the page that nobody owns.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from airdraft.errors import first_line
from airdraft.models.base import Part
from airdraft.models.engines.hf_inputs import Inputs
from airdraft.models.engines.hf_pages import Columns, Pages
from airdraft.models.trees import Fed

_log = logging.getLogger(__name__)

TEXTS, FED, MOST_TOKENS = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 6, 8, 12, 16, 24, 32), 512
"""Sizes that parts and tokens of a call are padded to, and the most tokens of all parts. Larger calls have no shape:
they keep a GPU busy for longer than Python needs."""
LEAST, PARTS = 64, 4
"""Columns are padded to a multiple of the first, and of their power of two by the second, so by a quarter at most."""
MOST = 64
"""Shapes that are kept; the one that was made first goes first."""
WARM = tuple(itertools.product((1, 8, 32), (1, 6), (256, 512)))
"""Shapes that are made at the start; the others when they are first used."""

Run = Callable[[], Any]
"""Runs a forward on what lies in the buffers, and returns its logits."""


class Shape(NamedTuple):
    """The size of a call."""

    texts: int
    fed: int
    columns: int

    @classmethod
    def of(cls, texts: int, fed: int, columns: int) -> Shape | None:
        """The least that so much fits in; None: there is none."""
        if texts > TEXTS[-1] or fed > FED[-1]:
            return None
        texts, wide = next(size for size in TEXTS if size >= texts), next(size for size in FED if size >= fed)
        columns += wide - fed
        step = max(LEAST, (1 << (columns.bit_length() - 1)) // PARTS)
        return cls(texts, wide, -(-columns // step) * step) if texts * wide <= MOST_TOKENS else None


class Buffers:
    """What a shape's forward reads."""

    def __init__(self, shape: Shape, pages: Pages, device: Any, dtype: Any) -> None:
        torch = import_module("torch")
        texts, fed, columns = shape
        ids = torch.zeros(texts, fed, dtype=torch.int64, device=device)
        self.inputs = Inputs(ids, ids.clone(), torch.zeros(texts, 1, fed, columns, dtype=dtype, device=device))
        self.whole = torch.zeros(texts * columns, dtype=torch.int64, device=device)
        self.new = torch.zeros(texts * fed, dtype=torch.int64, device=device)
        self.columns = Columns(pages, columns - fed, self.new, self.whole, private=False)
        self.moves = pages.moves
        """Of the pages until then."""
        self.run: Run | None = None

    def write(self, inputs: Inputs, rows: Any) -> None:
        """Copy a call into them. rows: of all columns, [texts, columns]; lines after its parts are padding."""
        for buffer, new in zip(self.inputs, inputs, strict=True):
            buffer[: len(new)].copy_(new)
        found, fed = import_module("torch").from_numpy(rows), self.inputs.ids.shape[1]
        self.whole.copy_(found.reshape(-1))
        self.new.copy_(found[:, -fed:].reshape(-1))


class Graphs:
    """The shapes of one engine."""

    def __init__(
        self,
        pages: Pages,
        device: Any,
        dtype: Any,
        forward: Callable[[Inputs, Columns, int], Any],
        capture: Callable[[Run], Run],
    ) -> None:
        """
        Args:
            dtype: of the mask, the model's.
            forward: runs the model and gives the logits of the last tokens, so many of each line.
            capture: makes of a run one that is faster and returns the same tensor each time, see `captured`.
        """
        self._pages, self._device, self._dtype, self._forward, self._capture = pages, device, dtype, forward, capture
        self._made: dict[Shape, Buffers] = {}
        self.off = ""
        """Why nothing is captured any more; empty: it is."""

    def logits(self, parts: Sequence[Part], lines: Sequence[Fed]) -> Any:
        """Run parts. Returns: logits [texts, fed, vocab], gone with the next call; None: run them as they are."""
        kept, fed = max(part.keep for part in parts), max(len(part.tokens) for part in parts)
        shape = Shape.of(len(parts), fed, kept + fed)
        if self.off or shape is None or any(part.cache.private for part in parts):
            return None
        kept = shape.columns - shape.fed
        rows = self._pages.rows(parts, kept, shape.fed, shape.texts)
        try:
            buffers = self._buffers(shape)
            buffers.write(Inputs.of(parts, lines, kept, shape.fed, 0, self._dtype), rows)
            return self._run(buffers)()
        except Exception as problem:  # of PyTorch, of CUDA, of a model's own code
            self._give_up(problem)
            return None

    def warm(self) -> None:
        """Make the first shapes, and show on a terminal how far that is: it takes seconds."""
        bar = import_module("tqdm").tqdm  # of transformers
        try:
            with import_module("torch").inference_mode():
                for shape in bar(WARM, "forwards get ready", leave=False, unit=" shapes", disable=None):
                    self._run(self._buffers(Shape(*shape)))
        except Exception as problem:
            self._give_up(problem)

    def _give_up(self, problem: Exception) -> None:
        self.off = first_line(problem)
        self._made.clear()
        _log.warning("forwards are captured no more, and run one kernel after the other: %s", self.off)

    def _run(self, buffers: Buffers) -> Run:
        if buffers.run is None:
            buffers.run = self._capture(
                lambda: self._forward(buffers.inputs, buffers.columns, buffers.inputs.ids.shape[1])
            )
        return buffers.run

    def _buffers(self, shape: Shape) -> Buffers:
        """Those of a shape, made if need be, or anew if the pages have moved."""
        if any(each.moves != self._pages.moves for each in self._made.values()):
            self._made.clear()
        found = self._made.get(shape)
        if found is None:
            if len(self._made) >= MOST:
                del self._made[next(iter(self._made))]
            found = self._made[shape] = Buffers(shape, self._pages, self._device, self._dtype)
        return found


@functools.cache
def _pool() -> Any:
    """Memory that all graphs share, since one runs after the other."""
    return import_module("torch").cuda.graph_pool_handle()


def captured(run: Run) -> Run:
    """What runs on a GPU, as one graph. Its buffers, and all that it reads, must stay where they are."""
    torch = import_module("torch")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries get ready in their first runs, which cannot be captured
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        logits = run()

    def replay() -> Any:
        graph.replay()
        return logits

    return replay

"""Blocks of a prompt: their names, which tell all tokens up to their end, and their bytes, which are checked when read.

A block is the keys and values of 64 positions, in one object for each layer. They depend on every token before, so the
name of a block is a hash over the name of the one before and its own tokens. It lies in a folder that is named by what
else the numbers depend on: the target, how its engine lays them out, and how they are rounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import Part, Portable, TargetEngine, Tensors
from airdraft.prompts.codecs import EXACT
from airdraft.prompts.codecs.base import Codec

BLOCK = 64
"""Positions of a block."""
DIGEST = 32
"""Bytes of a hash."""
_MAGIC = b"airdraft prompt 1\n"
_TENSORS = 2
"""Of a layer: keys and values."""
_TRIED = 48
"""Positions whose keys, values and rows tell how an engine rounds."""


class BlockError(AirdraftError):
    """An object of a store is not there, or does not hold what its name says."""


def chain(tokens: Sequence[int]) -> list[bytes]:
    """The names of the whole blocks that a text begins with."""
    found, before = list[bytes](), b""
    for at in range(0, len(tokens) - BLOCK + 1, BLOCK):
        before = hashlib.sha256(before + np.array(tokens[at : at + BLOCK], "<u4").tobytes()).digest()
        found.append(before)
    return found


def sealed(name: str, payload: bytes) -> bytes:
    """The bytes of an object: what it holds, behind a hash of that and of its name."""
    return _MAGIC + _hash(name, payload) + payload


def opened(name: str, data: bytes) -> bytes:
    """What the object called `name` holds. Raises: `BlockError` if a bit of it is not as it was written."""
    payload = data[overhead() :]
    if data[: overhead()] != _MAGIC + _hash(name, payload):
        raise BlockError(f"{name} is damaged; publish the prompt again")
    return payload


def overhead() -> int:
    """Bytes of an object besides what it holds."""
    return len(_MAGIC) + DIGEST


def _hash(name: str, payload: bytes) -> bytes:
    whole = hashlib.sha256(name.encode() + b"\0")
    whole.update(payload)
    return whole.digest()


@dataclass(frozen=True)
class Layout:
    """How an engine lays keys and values out: the tensors of no position, in the order in which a cache gives them, and
    how they are written."""

    tensors: Tensors
    codec: Codec = EXACT

    @classmethod
    def of(cls, engine: TargetEngine, codec: Codec = EXACT) -> Layout:
        """That of an engine. Raises: `ModelError` if its caches cannot be taken apart, or nobody can say what it is."""
        cache = portable(engine)
        if not engine.info.digest:
            raise ModelError(
                f"nobody can say what {engine.info.name} is, so nothing of it is stored; leave --prompts out"
            )
        try:
            return cls(cache.take(0, 0), codec)
        except ModelError as problem:
            raise ModelError(_KEEPS.format(engine.info.name)) from problem

    @property
    def layers(self) -> int:
        """Objects of a block."""
        return -(-len(self.tensors) // _TENSORS)

    def bytes_of(self, layer: int) -> int:
        """Most bytes of a layer of a block."""
        return self.codec.size(self._of(layer), BLOCK)

    @property
    def block_bytes(self) -> int:
        """Most bytes of all objects of a block."""
        return sum(self.bytes_of(layer) + overhead() for layer in range(self.layers))

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors of a block, whatever it is written in."""
        return EXACT.size(self.tensors, BLOCK)

    def written(self, block: Tensors, layer: int) -> bytes:
        """A layer of a block, as bytes. Raises: `ModelError` for numbers that the codec cannot write."""
        return self.codec.encode(block[layer * _TENSORS : (layer + 1) * _TENSORS])

    def read(self, layers: Sequence[bytes]) -> list[NDArray[np.generic]]:
        """The tensors of a block, [kv_heads, 64, head_dim] each. Raises: `BlockError` if the codec has
        not written them.
        """
        try:
            return [
                each for layer, data in enumerate(layers) for each in self.codec.decode(data, self._of(layer), BLOCK)
            ]
        except ValueError as problem:
            raise BlockError(f"a block is damaged ({problem}); publish the prompt again") from problem

    @property
    def digest(self) -> bytes:
        """A hash of the layout, and of how blocks are cut and written."""
        said = repr([(each.dtype.newbyteorder("<").str, each.shape) for each in self.tensors])
        return hashlib.sha256(_MAGIC + f"{BLOCK}{self.codec.name}{said}".encode()).digest()

    def _of(self, layer: int) -> Sequence[NDArray[np.generic]]:
        return self.tensors[layer * _TENSORS : (layer + 1) * _TENSORS]


def portable(engine: TargetEngine) -> Portable:
    """A new cache of an engine. Raises: `ModelError` if nothing can be taken out of it."""
    cache = engine.new_cache()
    if not isinstance(cache, Portable):
        raise ModelError(_KEEPS.format(engine.info.name))
    return cache


_KEEPS = (
    "the engine of {} keeps keys and values to itself, so prompts cannot come from elsewhere; take the engine onnx or "
    "hf, or do without"
)


def folder_of(engine: TargetEngine, layout: Layout) -> str:
    """Where blocks of an engine lie in a store: of its target and layout, and in there of its rounding.

    Two processors may add up in another order, and keys and values then differ in their last bits. Such blocks would
    make other texts out of near-ties, so they lie in another folder, and are not used. A codec that loses something
    loses these bits, too.
    """
    target = hashlib.sha256(engine.info.digest + layout.digest).hexdigest()[:32]
    return f"{target}/{layout.codec.name if layout.codec.lossy else _rounding(engine).hex()[:32]}"


def _rounding(engine: TargetEngine) -> bytes:
    """A hash of the bits of a trial. Raises: `ModelError` if the engine cannot run."""
    info, cache = engine.info, engine.new_cache()
    positions = min(_TRIED, info.max_context - 1)
    tokens = np.random.default_rng(11).integers(info.vocab_size, size=positions).tolist()
    [rows] = engine.verify([Part(cache, 0, tokens, min(2, positions))])
    if isinstance(rows, AirdraftError):
        raise rows
    tensors = cache.take(0, positions) if isinstance(cache, Portable) else []
    return hashlib.sha256(b"".join(each.tobytes() for each in (rows, *tensors))).digest()

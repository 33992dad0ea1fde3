"""Facts of a decoder of the Llama family in a GGUF file. What is not understood is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.imports.read import GgufFile, GgufTensor

_ELSE = "use --engine llamacpp, or choose a model of the families {}"
_FAMILIES = {"llama": True, "qwen2": False, "qwen3": False}
"""Whether coordinates 2i and 2i + 1 are turned together; otherwise i and i + half."""
_MATRICES = {
    "attn_q": ("heads", "width"), "attn_k": ("kv", "width"), "attn_v": ("kv", "width"),
    "attn_output": ("width", "heads"), "ffn_gate": ("hidden", "width"), "ffn_up": ("hidden", "width"),
    "ffn_down": ("width", "hidden"),
}  # fmt: skip
_NORMS = {"attn_norm": "width", "ffn_norm": "width"}
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
_LAYER = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
# Keys of an architecture that are read here, or that change no row.
_READ = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.sliding_window", "rope.dimension_count", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
}  # fmt: skip
_HARMLESS = {
    "vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned", "tensor_data_layout",
    "attention.layer_norm_epsilon",
}  # fmt: skip
_PLAIN: dict[str, Any] = {
    "expert_count": 0, "expert_used_count": 0, "attention.causal": True, "use_parallel_residual": False,
    "pooling_type": 0, "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0,
}  # fmt: skip
"""Keys that may be there with the value that says nothing."""
_MOST = 1 << 24
"""Of any size; an embedding of the largest models has 2^14."""
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class DecoderFacts:
    """Sizes and constants of a decoder of the Llama family."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    """Of the feed-forward part."""
    vocab: int
    """Tokens that are scored."""
    context: int
    eps: float
    frequencies: NDArray[np.float64]
    """Radians a position, [head_dim / 2]."""
    paired: bool
    """Whether rows of queries and keys lie in pairs that are turned together."""
    head_norms: bool
    """Whether queries and keys are normalised head by head."""
    tied: bool
    """Whether the table of embeddings scores the tokens, too."""


def decoder_of(file: GgufFile) -> DecoderFacts:
    """The decoder in `file`, all of whose tensors are there and have the shapes that its facts tell.

    Raises: `ModelError` naming what is not known, missing or of another shape.
    """
    return _Reading(file).decoder


class _Reading:
    def __init__(self, file: GgufFile) -> None:
        self._file = file
        file.check_formats()
        self._family = file.family()
        if self._family not in _FAMILIES:
            raise self._unknown(f"is a {self._family[:80]!r} model")
        parts = file.metadata.get("split.count", 0)
        if parts not in (0, 1):
            raise ModelError(
                f"{file.path} is one of {str(parts)[:20]} parts; join them with llama-gguf-split --merge, or use "
                "--engine llamacpp"
            )
        self._keys()
        self._sizes = self._read_sizes()
        self._layers = self._whole("block_count", most=_MOST_LAYERS)
        norms = self._tensors()
        context = self._whole("context_length")
        window = self._number("attention.sliding_window", 0)
        self.decoder = DecoderFacts(
            family=self._family,
            layers=self._layers,
            width=self._sizes["width"],
            heads=self._heads,
            kv_heads=self._kv_heads,
            head_dim=self._head_dim,
            hidden=self._sizes["hidden"],
            vocab=self._sizes["vocab"],
            # Within the window a position sees all others, as here; beyond it, it would not.
            context=min(context, int(window)) if window > 0 else context,
            eps=self._number("attention.layer_norm_rms_epsilon"),
            frequencies=self._frequencies(),
            paired=_FAMILIES[self._family],
            head_norms=norms,
            tied="output.weight" not in file.tensors,
        )

    def _keys(self) -> None:
        prefix = f"{self._family}."
        for key, value in self._file.metadata.items():
            if not key.startswith(prefix):
                continue
            name = key[len(prefix) :]
            plain = name in _PLAIN and value == _PLAIN[name]
            if name not in _READ and name not in _HARMLESS and not plain:
                raise self._unknown(f"says {key[:80]} = {str(value)[:40]}")

    def _read_sizes(self) -> dict[str, int]:
        width, self._heads = self._whole("embedding_length"), self._whole("attention.head_count")
        self._kv_heads = self._whole("attention.head_count_kv", self._heads)
        shared = width // self._heads
        self._head_dim = self._whole("attention.key_length", shared)
        if self._whole("attention.value_length", shared) != self._head_dim:
            raise self._unknown("has keys and values of different lengths")
        if self._whole("rope.dimension_count", self._head_dim) != self._head_dim or self._head_dim % 2:
            raise self._unknown("turns a part of each head only")
        if self._heads % self._kv_heads:
            raise self._broken(f"has {self._heads} heads of queries for {self._kv_heads} of keys")
        embeddings = self._file.tensors.get("token_embd.weight")
        if embeddings is None or len(embeddings.shape) != 2:
            raise self._broken("has no table of embeddings")
        return {
            "width": width, "heads": self._heads * self._head_dim, "kv": self._kv_heads * self._head_dim,
            "hidden": self._whole("feed_forward_length"), "vocab": embeddings.shape[0], "head": self._head_dim,
        }  # fmt: skip

    def _tensors(self) -> bool:
        """Check every tensor. Returns: whether queries and keys have norms."""
        sizes, found = self._sizes, self._file.tensors
        needed: dict[str, tuple[str, ...]] = {"token_embd.weight": ("vocab", "width"), "output_norm.weight": ("width",)}
        extra: dict[str, tuple[str, ...]] = {"output.weight": ("vocab", "width"), "rope_freqs.weight": ()}
        norms = f"blk.0.{_HEAD_NORMS[0]}.weight" in found
        for i in range(self._layers):
            for name, shape in _MATRICES.items():
                needed[f"blk.{i}.{name}.weight"] = shape
                extra[f"blk.{i}.{name}.bias"] = shape[:1]
            for name, size in _NORMS.items():
                needed[f"blk.{i}.{name}.weight"] = (size,)
            if norms:
                needed |= {f"blk.{i}.{name}.weight": ("head",) for name in _HEAD_NORMS}
        for name in needed:
            if name not in found:
                raise self._broken(f"lacks {name}")
        for name, tensor in found.items():
            if name not in needed and name not in extra:
                raise self._unknown(f"has {name[:80]!r}, which is no part of a plain decoder")
            names = needed.get(name) or extra[name]
            told = tuple(sizes[each] for each in names) or (self._head_dim // 2,)
            if tensor.shape != told:
                raise self._broken(f"has {name} with shape {tensor.shape}, not {told}")
            if len(told) == 1 and tensor.format.floats is None:
                raise self._broken(f"stores {name} as {tensor.format.name}")
        return norms

    def _frequencies(self) -> NDArray[np.float64]:
        kind = self._file.metadata.get(f"{self._family}.rope.scaling.type", "linear")
        factor = self._number("rope.scaling.factor", self._number("rope.scale_linear", 1.0))
        if kind == "none" or factor == 0:
            factor = 1.0
        elif kind != "linear":
            raise self._unknown(f"scales positions by {str(kind)[:40]!r}")
        base = self._number("rope.freq_base", 10000.0)
        if base <= 0 or factor <= 0:
            raise self._broken(f"turns positions with base {base:g} and factor {factor:g}")
        steps = np.arange(0, self._head_dim, 2) / self._head_dim
        frequencies: NDArray[np.float64] = base**-steps / factor
        tensor = self._file.tensors.get("rope_freqs.weight")
        return frequencies / vector(self._file, tensor) if tensor else frequencies

    def _whole(self, name: str, default: int | None = None, most: int = _MOST) -> int:
        value = self._file.metadata.get(f"{self._family}.{name}", default)
        if value is None:
            raise self._broken(f"does not say {self._family}.{name}")
        if isinstance(value, list):  # one for each layer
            raise self._unknown(f"has layers of different {name}")
        if type(value) is not int or not 0 < value <= most:
            raise self._broken(f"says {self._family}.{name} = {str(value)[:40]}")
        return value

    def _number(self, name: str, default: float | None = None) -> float:
        value = self._file.metadata.get(f"{self._family}.{name}", default)
        if value is None:
            raise self._broken(f"does not say {self._family}.{name}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self._broken(f"says {self._family}.{name} = {str(value)[:40]}")
        return float(value)

    def _unknown(self, what: str) -> ModelError:
        remedy = _ELSE.format(", ".join(_FAMILIES))
        return ModelError(f"{self._file.path} {what}, which the onnx engine does not run; {remedy}")

    def _broken(self, what: str) -> ModelError:
        return ModelError(f"{self._file.path} {what}; fetch it again")


def vector(file: GgufFile, tensor: GgufTensor) -> NDArray[np.float32]:
    """A tensor of one dimension, in single precision."""
    found: NDArray[np.float32] = tensor.format.dense(file.raw(tensor))[0]
    return found

"""Writes small decoders of the Llama family as GGUF, by the gguf package, and computes their rows with NumPy.

Neither shares code with the package: the gguf package writes the file and turns its weights into numbers, and the
forward here goes by llama.cpp's order of coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Where the half-precision scales of a piece lie; the rest of it may be any bytes.
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,),
           "IQ4_XS": (0,)}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")
BY_THE_PACKAGE = (*FLOATS, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
TYPES = (*BY_THE_PACKAGE, *_SCALES)


@dataclass
class Made:
    """One decoder to write."""

    family: str = "llama"
    kind: str = "F32"
    """Of its matrices."""
    embeddings: str | None = None
    """Of the table of embeddings; None: the same."""
    value: str | None = None
    """Of the values' matrices, which makes queries, keys and values three kinds; None: the same."""
    tied: bool = True
    biased: bool = False
    factors: bool = False
    """Whether frequencies are divided one by one, as in Llama 3.1."""
    width: int = 256
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    layers: int = 2
    context: int = 64
    tokens: list[str] = field(default_factory=lambda: [*_alphabet(), "<|endoftext|>", *_words()])
    facts: dict[str, Any] = field(default_factory=dict)
    """Further metadata; those that begin with a dot belong to the architecture, None leaves a key out."""
    seed: int = 0

    @property
    def head_dim(self) -> int:
        return 64

    def write(self, path: Path) -> Path:
        """Write the file."""
        writer = gguf.GGUFWriter(None, self.family)
        for name, value in self._facts().items():
            key = f"{self.family}{name}" if name.startswith(".") else name
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif value is not None:
                writer.add_array(key, value)
        for name, (kind, raw) in self.tensors().items():
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def _facts(self) -> dict[str, Any]:
        normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
        end = self.tokens.index("<|endoftext|>") if "<|endoftext|>" in self.tokens else None
        return {
            ".block_count": self.layers, ".context_length": self.context, ".embedding_length": self.width,
            ".feed_forward_length": self.hidden, ".attention.head_count": self.heads,
            ".attention.head_count_kv": self.kv_heads, ".attention.key_length": self.head_dim,
            ".attention.value_length": self.head_dim, ".rope.freq_base": 5000.0,
            ".attention.layer_norm_rms_epsilon": 1e-5, ".vocab_size": len(self.tokens),
            "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": [control if t.startswith("<|") else normal for t in self.tokens],
            "tokenizer.ggml.merges": _merges(), "tokenizer.ggml.eos_token_id": end,
            **self.facts,
        }  # fmt: skip

    def tensors(self) -> dict[str, tuple[str, Array]]:
        """Format and raw bytes of each."""
        random = np.random.default_rng(self.seed)
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        vocab, width, hidden = len(self.tokens), self.width, self.hidden
        made: dict[str, tuple[str, Array]] = {}

        def add(name: str, kind: str, *shape: int) -> None:
            made[name] = kind, _raw(random, kind, shape)

        add("token_embd.weight", self.embeddings or self.kind, vocab, width)
        add("output_norm.weight", "F32", width)
        if not self.tied:
            add("output.weight", self.kind, vocab, width)
        if self.factors:
            made["rope_freqs.weight"] = "F32", np.linspace(1, 4, self.head_dim // 2, dtype=np.float32)
        shapes = {"attn_q": (wide, width), "attn_k": (narrow, width), "attn_v": (narrow, width),
                  "attn_output": (width, wide), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
                  "ffn_down": (width, hidden)}  # fmt: skip
        for i in range(self.layers):
            for name, shape in shapes.items():
                kind = self.value if name == "attn_v" and self.value else self.kind
                add(f"blk.{i}.{name}.weight", kind, *shape)
                if self.biased and name in ("attn_q", "attn_k", "attn_v"):
                    add(f"blk.{i}.{name}.bias", "F32", shape[0])
            for name in ("attn_norm", "ffn_norm"):
                add(f"blk.{i}.{name}.weight", "F32", width)
            if self.family == "qwen3":
                for name in ("attn_q_norm", "attn_k_norm"):
                    add(f"blk.{i}.{name}.weight", "F32", self.head_dim)
        return made

    def rows(self, tokens: list[int], *, rounded: bool = True) -> Array:
        """Logits of every token, float64. `rounded`: activations meet codes as 8-bit numbers with a scale a block."""
        kinds = {name: kind for name, (kind, _) in self.tensors().items()}
        w = {name: _numbers(kind, raw) for name, (kind, raw) in self.tensors().items()}
        n = len(tokens)

        def product(x: Array, name: str, stored: str | None = None) -> Array:
            kind = stored or kinds[name]
            block = 16 if kind in ("Q2_K", "Q3_K", "Q6_K") else 32
            return (_eight_bits(x, block) if rounded and kind not in FLOATS else x) @ w[name].T

        def norm(x: Array, name: str) -> Array:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name]

        frequencies = 5000.0 ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        if self.factors:
            frequencies = frequencies / w["rope_freqs.weight"]
        angles = np.outer(np.arange(n), frequencies)[:, None]
        seen = np.tril(np.ones((n, n), bool))
        x = w["token_embd.weight"][tokens]
        for i in range(self.layers):
            h = norm(x, f"blk.{i}.attn_norm.weight")
            q, k, v = (product(h, f"blk.{i}.attn_{part}.weight") for part in "qkv")
            if self.biased:
                q, k, v = (y + w[f"blk.{i}.attn_{part}.bias"] for y, part in zip((q, k, v), "qkv", strict=True))
            q, k, v = (y.reshape(n, -1, self.head_dim) for y in (q, k, v))
            if self.family == "qwen3":
                q, k = norm(q, f"blk.{i}.attn_q_norm.weight"), norm(k, f"blk.{i}.attn_k_norm.weight")
            q, k = (_turn(y, angles, paired=self.family == "llama") for y in (q, k))
            group = self.heads // self.kv_heads
            k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
            scores = np.einsum("qhd,khd->hqk", q, k) * self.head_dim**-0.5
            scores = np.exp(np.where(seen, scores, -np.inf) - scores.max(-1, keepdims=True))
            share = scores / scores.sum(-1, keepdims=True)
            x = x + product(np.einsum("hqk,khd->qhd", share, v).reshape(n, -1), f"blk.{i}.attn_output.weight")
            h = norm(x, f"blk.{i}.ffn_norm.weight")
            gate = product(h, f"blk.{i}.ffn_gate.weight")
            h = gate / (1 + np.exp(-gate)) * product(h, f"blk.{i}.ffn_up.weight")
            x = x + product(h, f"blk.{i}.ffn_down.weight")
        return product(norm(x, "output_norm.weight"), "token_embd.weight" if self.tied else "output.weight")


def _raw(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    """A tensor as a file holds it; a matrix keeps the size of what it is multiplied with."""
    if len(shape) == 1:
        return (1 + 0.2 * random.standard_normal(shape)).astype(np.float32)
    number = gguf.GGMLQuantizationType[kind]
    spread = shape[1] ** -0.5
    if kind in BY_THE_PACKAGE:
        made: Array = gguf.quantize((spread * random.standard_normal(shape)).astype(np.float32), number)
        return made
    values, size = gguf.GGML_QUANT_SIZES[number]
    pieces = random.integers(0, 256, (shape[0] * shape[1] // values, size), dtype=np.uint8)

    def scaled(scale: Array) -> Array:
        for i, at in enumerate(_SCALES[kind]):
            pieces[:, at : at + 2] = (scale / (2 * i + 1)).astype(np.float16)[:, None].view(np.uint8)
        return pieces.reshape(shape[0], -1)

    size_of_one = _numbers(kind, scaled(np.ones(len(pieces)))).std()
    return scaled(spread / size_of_one * random.uniform(0.5, 1.5, len(pieces)))


def _numbers(kind: str, raw: Array) -> Array:
    if kind in ("F32", "F16"):
        return raw.astype(np.float64)
    number = gguf.GGMLQuantizationType[kind]
    return np.asarray(gguf.dequantize(raw, number), np.float64)


def _eight_bits(x: Array, block: int) -> Array:
    """Numbers rounded to multiples of a 127th of the largest of their block."""
    blocks = x.reshape(*x.shape[:-1], -1, block)
    scale = np.abs(blocks).max(-1, keepdims=True) / 127
    return (np.rint(blocks / np.where(scale == 0, 1, scale)) * scale).reshape(x.shape)


def _turn(x: Array, angles: Array, *, paired: bool) -> Array:
    """RoPE over [n, heads, head_dim]: coordinates 2i and 2i + 1 together, or i and i + half."""
    half = x.shape[-1] // 2
    first, second = (slice(0, None, 2), slice(1, None, 2)) if paired else (slice(half), slice(half, None))
    turned = np.empty_like(x)
    turned[..., first] = x[..., first] * np.cos(angles) - x[..., second] * np.sin(angles)
    turned[..., second] = x[..., second] * np.cos(angles) + x[..., first] * np.sin(angles)
    return turned


def _alphabet() -> list[str]:
    """The 256 letters of byte-level vocabularies."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + i) for i in range(len(rest)))]


def _words() -> list[str]:
    return [merge.replace(" ", "") for merge in _merges()]


def _merges() -> list[str]:
    return ["t h", "th e", "Ġ the", "i n", "Ġ in", "1 2", "12 3", "Ċ Ċ", "Ġ Ġ"]

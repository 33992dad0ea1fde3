"""Writes small GGUF models of other architectures than Llama, with random weights and without a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, TOKENS, CONTEXT, WINDOW = 16, 32, 2048, 64
_FEED_FORWARD = {
    "blk.{}.ffn_norm": (WIDTH,), "blk.{}.ffn_gate": (32, WIDTH), "blk.{}.ffn_up": (32, WIDTH),
    "blk.{}.ffn_down": (WIDTH, 32),
}  # fmt: skip


def write_mamba(path: Path) -> Path:
    """Recurrent throughout."""
    inner, state, rank = 32, 4, 1
    facts = {"ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    layer = {
        "blk.{}.ssm_in": (2 * inner, WIDTH), "blk.{}.ssm_conv1d": (inner, 4), "blk.{}.ssm_conv1d.bias": (inner,),
        "blk.{}.ssm_x": (rank + 2 * state, inner), "blk.{}.ssm_dt": (inner, rank), "blk.{}.ssm_dt.bias": (inner,),
        "blk.{}.ssm_a.": (inner, state), "blk.{}.ssm_d.": (inner,), "blk.{}.ssm_out": (WIDTH, inner),
    }  # fmt: skip
    return _write(path, "mamba", {**facts, "attention.head_count": 0}, {"output_norm": (WIDTH,)}, layer, layers=1)


def write_lfm2(path: Path) -> Path:
    """A hybrid: its layers that do not attend are short convolutions, and here all are."""
    layer = {
        "blk.{}.shortconv.conv": (WIDTH, 3), "blk.{}.shortconv.in_proj": (3 * WIDTH, WIDTH),
        "blk.{}.shortconv.out_proj": (WIDTH, WIDTH), **_FEED_FORWARD,
    }  # fmt: skip
    facts = {"shortconv.l_cache": 3, "attention.head_count": 2, "attention.head_count_kv": [0]}
    return _write(path, "lfm2", facts, {"token_embd_norm": (WIDTH,)}, layer, layers=1)


def write_gemma2(path: Path) -> Path:
    """Every second layer sees the last `WINDOW` positions only."""
    layer = {
        "blk.{}.attn_q": (WIDTH, WIDTH), "blk.{}.attn_k": (WIDTH, WIDTH), "blk.{}.attn_v": (WIDTH, WIDTH),
        "blk.{}.attn_output": (WIDTH, WIDTH), "blk.{}.post_attention_norm": (WIDTH,),
        "blk.{}.post_ffw_norm": (WIDTH,), **_FEED_FORWARD,
    }  # fmt: skip
    facts = {"attention.sliding_window": WINDOW, "attention.head_count": 2}
    return _write(path, "gemma2", facts, {"output_norm": (WIDTH,)}, layer, layers=2)


def _write(
    path: Path,
    architecture: str,
    facts: dict[str, Any],
    ends: dict[str, tuple[int, ...]],
    layer: dict[str, tuple[int, ...]],
    *,
    layers: int,
) -> Path:
    """Names of tensors lack their `.weight`, unless they end in a dot (which is dropped) or in `.bias`."""
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_file_type(0)
    writer.add_tokenizer_model("no_vocab")
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    sizes = {"context_length": CONTEXT, "vocab_size": TOKENS, "embedding_length": WIDTH, "block_count": layers,
             "feed_forward_length": 32}  # fmt: skip
    for name, value in {**sizes, **facts}.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f"{architecture}.{name}", value)
    shapes = {"token_embd": (TOKENS, WIDTH), **ends, "blk.{}.attn_norm": (WIDTH,), **layer}
    random = np.random.default_rng(0)
    for short, shape in shapes.items():
        for i in range(layers if "{}" in short else 1):
            name = short.format(i)
            name = name.rstrip(".") if name.endswith(".") else name if name.endswith(".bias") else f"{name}.weight"
            writer.add_tensor(name, random.normal(size=shape).astype(np.float32))
    return save(writer, path)


def save(writer: Any, path: Path) -> Path:
    """Writes what the writer holds to `path`, and returns that."""
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

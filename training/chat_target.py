"""The chat pair's target in torch, out of its GGUF file: to write text, to learn from and to measure against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFReader
from numpy.typing import NDArray

from training.errors import UserError
from training.model import Config, Llama, fill

_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load(path: Path, context: int) -> Llama:
    """The Llama in `path`, in fp32, for texts of at most `context` tokens."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    reader = GGUFReader(path)

    def said(name: str) -> Any:
        field = reader.fields.get(name)
        if field is None:
            raise UserError(f"{path} does not say {name}; it is no Llama that this recipe knows")
        return field.contents()

    def fact(name: str) -> Any:
        return said(f"llama.{name}")

    tensors = {each.name: gguf.quants.dequantize(each.data, each.tensor_type) for each in reader.tensors}
    config = Config(
        vocab=len(tensors["token_embd.weight"]), width=fact("embedding_length"), layers=fact("block_count"),
        heads=fact("attention.head_count"), ffn=fact("feed_forward_length"), context=context,
        rope_theta=fact("rope.freq_base"), eps=fact("attention.layer_norm_rms_epsilon"),
        kv_heads=fact("attention.head_count_kv"), tied="output.weight" not in tensors,
        bos=said("tokenizer.ggml.bos_token_id"), eos=said("tokenizer.ggml.eos_token_id"),
    )  # fmt: skip
    found = {"model.embed_tokens": tensors["token_embd.weight"], "model.norm": tensors["output_norm.weight"]}
    if not config.tied:
        found["lm_head"] = tensors["output.weight"]
    for i in range(config.layers):
        for theirs, ours in _PARTS.items():
            tensor = tensors[f"blk.{i}.{theirs}.weight"]
            heads = {"attn_q": config.heads, "attn_k": config.keys}.get(theirs)
            found[f"model.layers.{i}.{ours}"] = tensor if heads is None else _halves(tensor, heads)
    return fill(Llama(config), {f"{name}.weight": torch.from_numpy(np.array(array)) for name, array in found.items()})


def _halves(matrix: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp turns neighbours in a head together, and everyone else the halves of it: rows in the latter order."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)

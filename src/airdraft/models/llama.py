"""What shapes a Llama: the numbers of its config.json and its tensors. What no plain Llama has is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airdraft.errors import ModelError
from airdraft.models.files.config import ModelConfig, needed, read_config, read_json, shown

CONVERT = "convert it with llama.cpp's convert_hf_to_gguf.py"
_REFUSED = {"model_type": "llama", "hidden_act": "silu", "is_encoder_decoder": False, "rope_interleaved": False,
            "architectures": ["LlamaForCausalLM"]}  # fmt: skip
"""What must have this value, or none. A rope of neighbouring pairs is called interleaved."""
_WRITTEN = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id",
}  # fmt: skip
_HARMLESS = {
    "transformers_version", "_name_or_path", "dtype", "torch_dtype", "initializer_range", "attention_dropout",
    "use_cache", "pad_token_id", "pretraining_tp", "output_attentions", "output_hidden_states", "return_dict",
    "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "tokenizer_file", "is_llama_config",
    "transformers.js_config", "_attn_implementation", "_attn_implementation_autoset", "unsloth_fixed",
    "unsloth_version",
}  # fmt: skip
"""What a config says of training, of other programs, or of how a model is run."""
_ROPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Ways to turn positions into angles that GGUF can say, each with its numbers."""
NORM_NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
MATRIX_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Names within a layer in GGUF, by those in a checkpoint."""
COMPUTED = ".rotary_emb.inv_freq"
"""Old checkpoints hold the angles, which are computed from the config anyway."""


@dataclass(frozen=True)
class LlamaRope:
    """How positions become angles."""

    kind: str
    theta: float
    numbers: dict[str, float]

    def factors(self, head_dim: int) -> NDArray[np.float32] | None:
        """By how much each frequency is divided; None: as `kind` says. For `llama3` as in transformers.

        Long wavelengths by `factor`, short ones by 1, and those between by something between.
        """
        if self.kind != "llama3":
            return None
        factor, low, high, trained = (
            self.numbers[name]
            for name in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        wavelengths = 2 * math.pi * self.theta ** (np.arange(0, head_dim, 2) / head_dim)
        share = np.clip((trained / wavelengths - low) / (high - low), 0.0, 1.0)
        return (1.0 / ((1 - share) / factor + share)).astype(np.float32)


@dataclass(frozen=True)
class Llama:
    """What shapes a Llama."""

    facts: ModelConfig
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope: LlamaRope
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    bos: int | None

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...], int | None]]:
        """By its name in a checkpoint each tensor's name in GGUF, its shape, and the heads whose pairs it holds."""
        vocab, hidden, inner = self.facts.vocab_size, self.hidden, self.inner
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[str, tuple[int, ...], int | None]] = {
            "model.embed_tokens.weight": ("token_embd.weight", (vocab, hidden), None),
            "model.norm.weight": ("output_norm.weight", (hidden,), None),
        }
        if not self.tied:
            found["lm_head.weight"] = ("output.weight", (vocab, hidden), None)
        matrices = {
            "self_attn.q_proj": (queries, hidden, self.heads, self.attention_bias),
            "self_attn.k_proj": (keys, hidden, self.kv_heads, self.attention_bias),
            "self_attn.v_proj": (keys, hidden, None, self.attention_bias),
            "self_attn.o_proj": (hidden, queries, None, self.attention_bias),
            "mlp.gate_proj": (inner, hidden, None, self.mlp_bias),
            "mlp.up_proj": (inner, hidden, None, self.mlp_bias),
            "mlp.down_proj": (hidden, inner, None, self.mlp_bias),
        }
        for layer in range(self.layers):
            own, there = f"model.layers.{layer}.", f"blk.{layer}."
            for norm, name in NORM_NAMES.items():
                found[f"{own}{norm}.weight"] = (f"{there}{name}.weight", (hidden,), None)
            for matrix, (rows, columns, heads, bias) in matrices.items():
                name = MATRIX_NAMES[matrix]
                found[f"{own}{matrix}.weight"] = (f"{there}{name}.weight", (rows, columns), heads)
                if bias:
                    found[f"{own}{matrix}.bias"] = (f"{there}{name}.bias", (rows,), heads)
        return found


def read_llama(folder: Path) -> Llama:
    """What the config says. Raises: `ModelError` if it is anything that is neither written nor known to do nothing."""
    path = folder / "config.json"
    return llama_of(read_json(path), path, read_config(folder))


def llama_of(config: dict[str, Any], path: Path, facts: ModelConfig, remedy: str = CONVERT) -> Llama:
    """As `read_llama`, of what the file `path` says. remedy: what to do about what is not known."""
    for name, value in _REFUSED.items():
        if config.get(name) not in (value, None):
            raise ModelError(f"{path} has {name} = {shown(config[name])}, which this writer does not know; {remedy}")
    unknown = [name for name in config if name not in {*_WRITTEN, *_HARMLESS, *_REFUSED} and config[name] is not None]
    if unknown:
        raise ModelError(
            f"{path} has {shown(unknown[0])} = {shown(config[unknown[0]])}, which this writer does not know; "
            f"take it out if it changes nothing, or {remedy}"
        )
    heads = needed(config, path, "num_attention_heads")
    kv_heads, head_dim = facts.kv_heads or heads, facts.head_dim or 0
    if heads % kv_heads or head_dim < 2 or head_dim % 2:
        raise ModelError(f"{path} has {heads} heads of {head_dim} over {kv_heads}, which no Llama has; mend that")
    bos = config.get("bos_token_id")
    return Llama(
        facts,
        needed(config, path, "hidden_size"),
        needed(config, path, "intermediate_size"),
        needed(config, path, "num_hidden_layers"),
        heads, kv_heads, head_dim,
        _number(config, path, "rms_norm_eps"),
        _rope(config, path, remedy),
        _flag(config, path, "tie_word_embeddings"), _flag(config, path, "attention_bias"),
        _flag(config, path, "mlp_bias"),
        bos if type(bos) is int and 0 <= bos < facts.vocab_size else None,
    )  # fmt: skip


def _number(values: dict[str, Any], path: Path, name: str) -> float:
    """A number above 0. Raises: `ModelError`."""
    value = values.get(name)
    if value is None:
        raise ModelError(f"{path} does not say {name}; add it")
    if type(value) not in (int, float) or not 0 < value < 1e15:
        raise ModelError(f"{path} says {name} = {shown(value)}; it must be a number above 0")
    return float(value)


def _flag(config: dict[str, Any], path: Path, name: str) -> bool:
    value = config.get(name) or False
    if type(value) is not bool:
        raise ModelError(f"{path} says {name} = {shown(value)}; it must be true or false")
    return value


def _rope(config: dict[str, Any], path: Path, remedy: str) -> LlamaRope:
    """As transformers reads it: `rope_parameters` since version 5, `rope_theta` and `rope_scaling` before.

    Raises: `ModelError` if they contradict each other, or say what GGUF has no word for.
    """
    said: dict[str, Any] = {}
    for where in ("rope_parameters", "rope_scaling"):
        values = config.get(where)
        if not isinstance(values, dict | None):
            raise ModelError(f"{path} says {where} = {shown(values)}; it must be an object")
        values = {("rope_type" if name == "type" else name): value for name, value in (values or {}).items()}
        if said and values and said != values:
            raise ModelError(f"{path} has rope_parameters and rope_scaling, which differ; keep one")
        said = said or values
    kind = said.pop("rope_type", None) or "default"
    if not isinstance(kind, str) or kind not in _ROPES:
        raise ModelError(f"{path} has a rope of type {shown(kind)}, which this writer does not know; {remedy}")
    thetas = {name: _number(values, path, name) for values in (said, config) for name in ("rope_theta",)
              if values.get(name) is not None}  # fmt: skip
    if None not in (said.get("rope_theta"), config.get("rope_theta")) and said["rope_theta"] != config["rope_theta"]:
        raise ModelError(f"{path} has two values of rope_theta, which differ; keep one")
    said.pop("rope_theta", None)
    if said.get("partial_rotary_factor") == 1:
        del said["partial_rotary_factor"]
    unknown = [name for name in said if name not in _ROPES[kind] and said[name] is not None]
    if unknown:
        raise ModelError(
            f"{path} has {shown(unknown[0])} = {shown(said[unknown[0]])} in a rope of type {kind}, which this writer "
            f"does not know; {remedy}"
        )
    rope = LlamaRope(
        kind, thetas.get("rope_theta", 10000.0), {name: _number(said, path, name) for name in _ROPES[kind]}
    )
    if kind == "llama3" and rope.numbers["high_freq_factor"] <= rope.numbers["low_freq_factor"]:
        raise ModelError(f"{path} has a high_freq_factor that is not above low_freq_factor; mend that")
    return rope


def paired(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of queries or keys [heads × head_dim, ...] in llama.cpp's order.

    RoPE turns pairs of coordinates: transformers pairs i with i + head_dim/2, llama.cpp 2i with 2i + 1.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def unpaired(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows as they were before `paired`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))

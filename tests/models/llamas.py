"""Small random Llamas of every variant, and their rows by a Llama in NumPy: of the checkpoint, and of a GGUF file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from airdraft.models.files.folder import shipped

Array = NDArray[np.float64]
VOCAB, CONTEXT, TRAINED = 4096, 256, 64
BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": VOCAB,
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 12, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": TRAINED}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "theta as before": {"rope_theta": 100_000.0},
    "theta as since transformers 5": {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
    "linear as before": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
    "llama3 as before": {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **_LLAMA3}},
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **_LLAMA3}},
    "grouped heads": {"num_key_value_heads": 2},
    "one head of keys": {"num_key_value_heads": 1},
    "heads wider than hidden": {"head_dim": 20},
    "tied": {"tie_word_embeddings": True},
    "another epsilon": {"rms_norm_eps": 0.01},
    "biases of attention": {"attention_bias": True, "num_key_value_heads": 2},
    "biases of the MLP": {"mlp_bias": True},
    "half precision": {"dtype": "float16"},
    "all at once": {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e5, **_LLAMA3}, "num_key_value_heads": 2,
        "head_dim": 20, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 0.01,
    },
}  # fmt: skip


def write_llama(folder: Path, **changes: Any) -> Path:
    """A random Llama in `folder`, with the shipped pair's tokenizer."""
    folder.mkdir(parents=True)
    config = BASE | changes
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(shipped("target") / "tokenizer.json", folder)
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    random = np.random.default_rng(0)
    tensors = {"model.embed_tokens.weight": random.normal(size=(VOCAB, hidden)),
               "model.norm.weight": random.normal(1, 0.2, hidden)}  # fmt: skip
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = random.normal(size=(VOCAB, hidden))
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = random.normal(1, 0.2, hidden)
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = random.normal(0, 1.5 / np.sqrt(shape[1]), shape)
            if config["attention_bias" if name.startswith("self") else "mlp_bias"]:
                tensors[f"model.layers.{layer}.{name}.bias"] = random.normal(0, 0.5, shape[0])
    kind = np.float16 if config.get("dtype") == "float16" else np.float32
    made = {name: tensor.astype(kind) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(made, folder / "model.safetensors", {"format": "pt"})
    return folder


def checkpoint_rows(folder: Path, tokens: list[int]) -> Array:
    """Rows [len(tokens), vocab] of a checkpoint, as transformers defines a Llama."""
    config = json.loads((folder / "config.json").read_text())
    loaded = safetensors.numpy.load_file(folder / "model.safetensors")
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
             "lm_head": "output"}  # fmt: skip
    tensors = {}
    for name, tensor in loaded.items():
        short = name
        for long, there in names.items():
            short = short.replace(long, there)
        tensors[short] = tensor.astype(np.float64)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    frequencies = 1 / theta ** (np.arange(0, config["head_dim"], 2) / config["head_dim"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "linear":
        frequencies /= rope["factor"]
    if kind == "llama3":
        low, high, trained = rope["low_freq_factor"], rope["high_freq_factor"], TRAINED
        wavelengths = 2 * np.pi / frequencies
        smooth = (trained / wavelengths - low) / (high - low)
        between = (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies
        long = np.where(wavelengths > trained / low, frequencies / rope["factor"], frequencies)
        is_between = (wavelengths >= trained / high) & (wavelengths <= trained / low)
        frequencies = np.where(is_between, between, long)
    return _rows(tensors, tokens, config["num_attention_heads"], config["num_key_value_heads"],
                 config["num_hidden_layers"], config["rms_norm_eps"], frequencies, neighbours=False)  # fmt: skip


def gguf_rows(path: Path, tokens: list[int]) -> Array:
    """Rows [len(tokens), vocab] of a GGUF file, from nothing but what stands in it, as its specification defines it."""
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {name.removeprefix("llama."): field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float64)
               for tensor in reader.tensors}  # fmt: skip
    width = fields["rope.dimension_count"]
    assert width == fields["attention.key_length"] == fields["attention.value_length"]
    frequencies = 1 / fields["rope.freq_base"] ** (np.arange(0, width, 2) / width)
    if "rope_freqs.weight" in tensors:
        frequencies /= tensors["rope_freqs.weight"]
    if fields.get("rope.scaling.type", "none") != "none":
        assert fields["rope.scaling.type"] == "linear"
        frequencies /= fields["rope.scaling.factor"]
    return _rows(tensors, tokens, fields["attention.head_count"], fields["attention.head_count_kv"],
                 fields["block_count"], fields["attention.layer_norm_rms_epsilon"], frequencies,
                 neighbours=True)  # fmt: skip


def _rows(
    tensors: dict[str, Array], tokens: list[int], heads: int, kv_heads: int, layers: int, epsilon: float,
    frequencies: Array, *, neighbours: bool,
) -> Array:  # fmt: skip
    """`neighbours`: whether a rotary pair is two neighbours, or a coordinate of each half."""

    def linear(name: str, x: Array) -> Array:
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", np.zeros(1))

    def norm(name: str, x: Array) -> Array:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * tensors[f"{name}.weight"]

    def turned(x: Array) -> Array:  # [n, heads, width]
        angles = np.arange(len(tokens))[:, None, None] * frequencies
        half = x.shape[-1] // 2
        a, b = (x[..., ::2], x[..., 1::2]) if neighbours else (x[..., :half], x[..., half:])
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    n, width = len(tokens), 2 * len(frequencies)
    future = np.triu(np.full((n, n), -np.inf), 1)
    x = tensors["token_embd.weight"][tokens]
    for layer in range(layers):
        own = f"blk.{layer}."
        h = norm(f"{own}attn_norm", x)
        q = turned(linear(f"{own}attn_q", h).reshape(n, heads, width))
        k = turned(linear(f"{own}attn_k", h).reshape(n, kv_heads, width)).repeat(heads // kv_heads, 1)
        if f"{own}attn_q_norm.weight" in tensors:
            q, k = (turned(norm(f"{own}attn_{part}_norm", linear(f"{own}attn_{part}", h).reshape(n, -1, width)))
                    for part in "qk")  # fmt: skip
            k = k.repeat(heads // kv_heads, 1)
        v = linear(f"{own}attn_v", h).reshape(n, kv_heads, width).repeat(heads // kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width) + future
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + linear(f"{own}attn_output", np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1))
        h = norm(f"{own}ffn_norm", x)
        gate = linear(f"{own}ffn_gate", h)
        x = x + linear(f"{own}ffn_down", gate / (1 + np.exp(-gate)) * linear(f"{own}ffn_up", h))
    head = "output" if "output.weight" in tensors else "token_embd"
    return linear(head, norm("output_norm", x))

"""A Llama decoder in plain torch: HF tensor names, so that its state dict is the safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.errors import UserError


@dataclass(frozen=True)
class Config:
    """Shape of a model; everything else about it is fixed (RMSNorm, SwiGLU, RoPE, no biases)."""

    vocab: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    ffn: int = 704
    context: int = 1024
    rope_theta: float = 10000.0
    eps: float = 1e-5
    kv_heads: int = 0
    """Heads of keys and values; 0: as many as of queries."""
    tied: bool = False
    """Whether the head is the embedding."""
    bos: int = 0
    eos: int = 0

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def keys(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with: layers and head; the input lookup costs nothing."""
        attention = 2 * self.width * (self.width + self.keys * self.head_dim)
        return self.layers * (attention + 3 * self.width * self.ffn) + self.vocab * self.width

    @property
    def parameters(self) -> int:
        lookup = 0 if self.tied else self.vocab * self.width
        return self.matmul_parameters + lookup + (2 * self.layers + 1) * self.width

    def hf(self) -> str:
        """config.json as transformers, vLLM and llama.cpp read it."""
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.keys,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": None,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tied,
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "pad_token_id": self.eos,
            "initializer_range": 0.02,
            "torch_dtype": "float32",
            "use_cache": True,
        }
        return json.dumps(config, indent=2) + "\n"


def config_from_hf(text: str) -> Config:
    """The inverse of `Config.hf`."""
    raw = json.loads(text)
    heads, kv_heads = raw["num_attention_heads"], raw.get("num_key_value_heads") or raw["num_attention_heads"]
    return Config(
        vocab=raw["vocab_size"],
        width=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        ffn=raw["intermediate_size"],
        context=raw["max_position_embeddings"],
        rope_theta=raw["rope_theta"],
        eps=raw["rms_norm_eps"],
        kv_heads=0 if kv_heads == heads else kv_heads,
        tied=raw.get("tie_word_embeddings", False),
        bos=raw["bos_token_id"],
        eos=raw["eos_token_id"],
    )


def rope_tables(config: Config) -> tuple[Tensor, Tensor]:
    """cos and sin, each [context, head_dim], for the rotate-half layout."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angles = torch.outer(torch.arange(config.context, dtype=torch.float64), config.rope_theta**-steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on [batch, heads, n, head_dim] with cos/sin that broadcast to it."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


class Cache:
    """Keys and values of a batch, allocated once: growing them by concatenation would copy it all every token."""

    def __init__(self, config: Config, batch: int, size: int, like: Tensor) -> None:
        shape = (config.layers, 2, batch, config.keys, size, config.head_dim)
        self.data = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.length = 0

    def put(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v [batch, heads, n, head_dim] after the tokens held; returns all keys and values so far."""
        end = self.length + k.shape[2]
        self.data[layer, 0, :, :, self.length : end] = k
        self.data[layer, 1, :, :, self.length : end] = v
        return self.data[layer, 0, :, :, :end], self.data[layer, 1, :, :, :end]


class Norm(nn.Module):
    """RMSNorm, computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; one fused product for q, k and v because narrow products waste the cores."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.heads, self.keys, self.head_dim, self.index = config.heads, config.keys, config.head_dim, index
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, config.keys * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.width, config.keys * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        batch, n, width = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        qkv = F.linear(x, weight).view(batch, n, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.keys, self.keys], dim=1)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        if cache is not None:
            k, v = cache.put(self.index, k, v)
            k, v = k.to(q.dtype), v.to(q.dtype)
        if self.keys < self.heads:
            k, v = (part.repeat_interleave(self.heads // self.keys, dim=1) for part in (k, v))
        if mask is None and q.device.type == "cpu":
            # Training: torch's fused attention for CPUs takes 1.5 times as long as two products and a softmax.
            hidden = torch.full((n, n), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
            y = ((q @ k.transpose(-1, -2)) * self.head_dim**-0.5 + hidden).softmax(-1).to(v.dtype) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, n, width))
        return out


class MLP(nn.Module):
    """SwiGLU, gate and up in one product."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class Layer(nn.Module):
    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.width, config.eps)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = Norm(config.width, config.eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = Norm(config.width, config.eps)


class Llama(nn.Module):
    """`forward` for training (whole rows, causal), `step` for generation with a cache."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocab, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 if "embed" in name else parameter.shape[1] ** -0.5 * 0.6)
        nn.init.normal_(self.lm_head.weight, std=0.01)
        for layer in self.model.layers:
            for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):  # type: ignore[union-attr]
                nn.init.zeros_(matrix.weight)  # type: ignore[union-attr,arg-type]  # each layer starts as identity

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, n, vocab] for rows of tokens [batch, n] that start at position 0."""
        n = tokens.shape[1]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, self.cos[:n], self.sin[:n], None, None)
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits

    def step(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache, last_only: bool = False) -> Tensor:
        """Logits [batch, n, vocab] of n more tokens after those in `cache`, which grows by n.

        positions [batch, n]; mask [batch, held + n] is 1 where a key is real (0 for padding on the left).
        """
        n, total = tokens.shape[1], mask.shape[1]
        query = torch.arange(total - n, total, device=tokens.device)[:, None]
        key = torch.arange(total, device=tokens.device)[None, :]
        allowed = (key <= query)[None, None] & mask.bool()[:, None, None, :]
        allowed = allowed | (key == query)[None, None]  # padding sees itself: no 0/0 in its softmax
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin, allowed, cache)
        cache.length += n
        logits: Tensor = self.lm_head(self.model.norm(x[:, -1:] if last_only else x))
        return logits


def save(model: Llama, folder: Path) -> None:
    """config.json and model.safetensors (fp32, HF names)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.config.hf(), "utf-8")
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tied:
        del tensors["lm_head.weight"]
    temporary = folder / "model.safetensors.new"
    save_file(tensors, str(temporary), metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")  # a reader never sees half a file


def load(folder: Path) -> Llama:
    """The model of a folder written by `save`."""
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"no model at {folder}: train it first")
    model = Llama(config_from_hf((folder / "config.json").read_text("utf-8")))
    return fill(model, load_file(str(folder / "model.safetensors")))


def fill(model: Llama, tensors: dict[str, Tensor]) -> Llama:
    """The model with these weights, of any float type, by their names in a safetensors file."""
    if model.config.tied:
        tensors = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    model.load_state_dict(tensors)
    return model.eval()


def describe(config: Config) -> dict[str, float]:
    """The shape as plain numbers, for cards and logs."""
    return asdict(config) | {"parameters": config.parameters, "matmul_parameters": config.matmul_parameters}

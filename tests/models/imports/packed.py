"""Small checkpoints whose matrices are in the codes of AWQ and GPTQ, as people publish them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.models.files.folder import shipped

numpy_files = pytest.importorskip("safetensors.numpy", reason="writing checkpoints takes safetensors")

HIDDEN, INNER, HEADS, LAYERS, VOCAB = 128, 256, 4, 2, 4096


@dataclass
class Packed:
    """A small decoder in codes; how they lie is spelled out bit by bit, code after code."""

    method: str = "gptq"
    bits: int = 4
    group: int = 32
    form: str = "gptq"
    symmetric: bool = False
    act_order: bool = False
    family: str = "llama"
    seed: int = 0
    plain: dict[str, np.ndarray] = field(default_factory=dict)
    """What the matrices stand for, [out, in]."""
    told: dict[str, Any] = field(default_factory=dict)
    """The config that was written last."""

    def write(self, folder: Path, **changed: Any) -> Path:
        rng = np.random.default_rng(self.seed)
        tensors: dict[str, np.ndarray] = {}
        shapes = {f"self_attn.{part}_proj": (HIDDEN, HIDDEN) for part in "qkvo"}
        shapes |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = (rng.standard_normal((VOCAB, HIDDEN)) * HIDDEN**-0.5).astype(np.float16)
        tensors["model.norm.weight"] = np.ones(HIDDEN, np.float16)
        for i in range(LAYERS):
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"model.layers.{i}.{name}.weight"] = rng.uniform(0.5, 1.5, HIDDEN).astype(np.float16)
            for name, shape in shapes.items():
                stem = f"model.layers.{i}.{name}"
                tensors |= {f"{stem}.{part}": each for part, each in self._codes(rng, stem, *shape).items()}
                if self.family == "qwen2" and name[10:] in ("q_proj", "k_proj", "v_proj"):
                    tensors[f"{stem}.bias"] = rng.standard_normal(shape[0]).astype(np.float16)
        folder.mkdir()
        numpy_files.save_file(tensors, folder / "model.safetensors")
        self.plain |= {
            name: each for name, each in tensors.items() if each.dtype == np.float16 and "scales" not in name
        }
        said = {"quant_method": self.method, "bits": self.bits, "group_size": self.group}
        said |= {"checkpoint_format": self.form} if self.method == "gptq" else {"version": "gemm", "zero_point": True}
        config = {
            "model_type": self.family, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "rope_theta": 5000.0, "tie_word_embeddings": False, "eos_token_id": 2,
            "quantization_config": said | changed,
        }  # fmt: skip
        return self._tell(folder, config)

    def write_plain(self, folder: Path) -> Path:
        """The same decoder without codes, once it has been written."""
        folder.mkdir()
        numpy_files.save_file(
            {name: np.ascontiguousarray(each, np.float32) for name, each in self.plain.items()},
            folder / "model.safetensors",
        )
        return self._tell(folder, {name: each for name, each in self.told.items() if name != "quantization_config"})

    def _tell(self, folder: Path, config: dict[str, Any]) -> Path:
        self.told = config
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copyfile(shipped("target") / "tokenizer.json", folder / "tokenizer.json")
        return folder

    def _codes(self, rng: np.random.Generator, stem: str, out: int, channels: int) -> dict[str, np.ndarray]:
        group = channels if self.group == -1 else self.group
        groups, several, top = channels // group, 32 // self.bits, 1 << self.bits
        of = np.arange(channels) // group
        if self.act_order:
            of = rng.permutation(of)
        codes = rng.integers(0, top, (channels, out))
        zeros = np.full((groups, out), top // 2) if self.symmetric else rng.integers(1, top, (groups, out))
        scales = (rng.uniform(0.5, 1.5, (groups, out)) * channels**-0.5 / top).astype(np.float16)
        self.plain[f"{stem}.weight"] = (scales[of].astype(np.float64) * (codes - zeros[of])).T
        stored = zeros - (1 if self.method == "gptq" and self.form == "gptq" else 0)
        places = [0, 2, 4, 6, 1, 3, 5, 7] if self.method == "awq" else list(range(several))

        def along_rows(numbers: np.ndarray) -> np.ndarray:
            made = np.zeros((len(numbers), out // several), np.uint32)
            for column in range(out // several):
                for at, place in enumerate(places):
                    made[:, column] |= (numbers[:, column * several + place] << (self.bits * at)).astype(np.uint32)
            return made.view(np.int32)

        if self.method == "awq":
            return {"qweight": along_rows(codes), "qzeros": along_rows(stored), "scales": scales}
        made = np.zeros((channels // several, out), np.uint32)
        for channel in range(channels):
            made[channel // several] |= (codes[channel] << (self.bits * (channel % several))).astype(np.uint32)
        return {"qweight": made.view(np.int32), "qzeros": along_rows(stored), "scales": scales,
                "g_idx": of.astype(np.int32)}  # fmt: skip

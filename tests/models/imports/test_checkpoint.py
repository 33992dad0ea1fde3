"""Checkpoints whose matrices are in the codes of AWQ and GPTQ, read as what the packer here put there."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.errors import ModelError
from airdraft.models.files.folder import shipped
from airdraft.models.imports.checkpoint import Checkpoint
from airdraft.models.imports.write import import_checkpoint
from airdraft.models.registry import load

numpy_files = pytest.importorskip("safetensors.numpy", reason="writing checkpoints takes safetensors")

TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]
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


EVERY = [
    Packed("awq"), Packed("awq", group=128, family="qwen2"), Packed(), Packed(form="gptq_v2", group=64),
    Packed(symmetric=True), Packed(act_order=True), Packed(act_order=True, bits=8, family="qwen2"),
    Packed(bits=8, form="gptq_v2"), Packed(bits=2), Packed(group=-1),
]  # fmt: skip


@pytest.mark.parametrize("packed", EVERY)
def test_what_was_packed_is_read(packed: Packed, tmp_path: Path) -> None:
    file = Checkpoint(packed.write(tmp_path / "model"))
    names = {f"blk.{i}.{there}.weight": f"model.layers.{i}.{own}.weight" for i in range(LAYERS) for there, own in (
        ("attn_q", "self_attn.q_proj"), ("attn_output", "self_attn.o_proj"), ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"))} | {"output.weight": "lm_head.weight"}  # fmt: skip
    for there, own in names.items():
        tensor = file.tensors[there]
        found = tensor.format.dense(file.raw(tensor))
        order = file.orders.get(there.removesuffix(".weight"))
        wanted = packed.plain[own]
        np.testing.assert_allclose(found, wanted if order is None else wanted[:, order], rtol=0, atol=1e-6)
        assert tensor.size == found.shape[0] * tensor.format.row_bytes(found.shape[1]) == file.raw(tensor).size
        part = file.raw(tensor, 3, 6)
        np.testing.assert_array_equal(part, file.raw(tensor)[3:9])


def rows(packed: Packed, tokens: list[int]) -> np.ndarray:
    """Logits by plain NumPy in float64, rows of queries and keys as transformers has them."""
    w = {name: each.astype(np.float64) for name, each in packed.plain.items()}
    n, dim = len(tokens), HIDDEN // HEADS
    angles = np.outer(np.arange(n), 5000.0 ** -(np.arange(0, dim, 2) / dim))[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name]

    def turn(x: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(LAYERS):
        own = f"model.layers.{i}."
        h = norm(x, f"{own}input_layernorm.weight")
        q, k, v = ((h @ w[f"{own}self_attn.{part}_proj.weight"].T + w.get(f"{own}self_attn.{part}_proj.bias", 0.0))
                   .reshape(n, HEADS, dim) for part in "qkv")  # fmt: skip
        scores = np.einsum("qhd,khd->hqk", turn(q), turn(k)) * dim**-0.5
        scores = np.exp(np.where(np.tri(n, dtype=bool), scores, -np.inf) - scores.max(-1, keepdims=True))
        share = scores / scores.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", share, v).reshape(n, -1) @ w[f"{own}self_attn.o_proj.weight"].T
        h = norm(x, f"{own}post_attention_layernorm.weight")
        gate = h @ w[f"{own}mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{own}mlp.up_proj.weight"].T)) @ w[f"{own}mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T


@pytest.mark.parametrize("packed", [EVERY[1], EVERY[5], EVERY[6]])
def test_an_import_runs_in_the_default_engine(packed: Packed, tmp_path: Path) -> None:
    source = packed.write(tmp_path / "model")
    said = CliRunner().invoke(app, ["import", str(source), str(tmp_path / "out")])
    assert said.exit_code == 0, said.output
    assert packed.method.upper() in said.stdout
    model, _ = load(str(tmp_path / "out"))
    found = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))
    wanted = rows(packed, TOKENS)
    assert np.abs(found - wanted).max() < 0.1 * wanted.std()  # activations are rounded to 8 bits


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method = 'bitsandbytes'"), ({"bits": 3}, "bits = 3"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"), ({"group_size": 48}, "groups of 48"),
        ({"dynamic": {"-:lm_head": {}}}, "dynamic"), ({"group_size": 64}, "qzeros"),
        ({"group_size": "x"}, "group_size"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = Packed().write(tmp_path / "model", **changed)
    with pytest.raises(ModelError, match=said):
        import_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = Packed().write(tmp_path / "model") / "model.safetensors"
    whole = path.read_bytes()
    for at, broken in enumerate([
        b"", whole[:7], whole[:200], b"\xff" * 8 + whole[8:], whole[:-100], whole.replace(b'"F16"', b'"F17"', 1),
        whole.replace(b'"shape":[4096', b'"shape":[4095', 1), whole[:8] + b"[" + whole[9:],
        whole.replace(b"q_proj.scales", b"q_proj.scalez"),
    ]):  # fmt: skip
        path.write_bytes(broken)
        assert broken != whole, at
        with pytest.raises(ModelError, match=r"fetch it again|read here"):
            Checkpoint(path.parent)

"""Checkpoints whose matrices are in the codes of AWQ and GPTQ, read as what the packer here put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.errors import ModelError
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.shelf import found as shelf
from airdraft.models.fit import Fit
from airdraft.models.imports.checkpoint import Checkpoint
from airdraft.models.imports.write import import_checkpoint
from airdraft.models.registry import load, load_target, resolve, text_files, weights_of
from airdraft.models.text import Tokenizer

from .packed import HEADS, HIDDEN, LAYERS, Packed

TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]

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


def test_mistral_is_a_llama_within_its_window(tmp_path: Path) -> None:
    packed = Packed(family="mistral")
    source = packed.write(tmp_path / "model")
    config = packed.told | {"sliding_window": 48, "architectures": ["MistralForCausalLM"]}
    (source / "config.json").write_text(json.dumps(config))
    assert import_checkpoint(source, tmp_path / "out").context == 48
    model, _ = load(str(tmp_path / "out"))
    wanted = rows(packed, TOKENS)
    assert np.abs(model.forward(model.new_cache(), 0, TOKENS, len(TOKENS)) - wanted).max() < 0.1 * wanted.std()
    (source / "config.json").write_text(json.dumps(config | {"architectures": ["MistralForTokens"]}))
    with pytest.raises(ModelError, match=r"architectures = .'MistralForTokens'., which is not known here"):
        import_checkpoint(source, tmp_path / "other")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "airdraft" / "checkpoint"


@pytest.mark.parametrize("packed", [EVERY[1], EVERY[5]])
def test_a_folder_is_a_model(packed: Packed, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is imported once, whatever it is called, and its rows are those of a folder that was made on purpose."""
    source = packed.write(tmp_path / "model")
    draft, words = load(str(source))
    assert capfd.readouterr().err == f"airdraft: importing {source}\n"
    assert isinstance(draft, OnnxModel)
    assert draft.name == "model"
    source = source.rename(tmp_path / "other")
    target, _ = load_target(str(source), engine="onnx", fit=Fit(context=20))
    assert (target.info.name, target.info.max_context) == ("other", 20)
    assert capfd.readouterr().err == ""
    assert [path for path in cache.iterdir() if not path.name.startswith(".")] == [resolve(str(source))]
    assert weights_of(str(source)) == [source / "config.json", source / "model.safetensors"]
    assert words.encode("in the") == Tokenizer(text_files(str(source))).encode("in the")
    import_checkpoint(source, tmp_path / "out")
    whole, _ = load(str(tmp_path / "out"))
    found = [each.forward(each.new_cache(), 0, TOKENS, len(TOKENS)) for each in (draft, whole)]
    np.testing.assert_array_equal(*found)


def test_what_a_folder_holds_decides(tmp_path: Path, cache: Path) -> None:
    """Weights, config, and what lies beside them; not what a config tells of its history."""
    source = Packed().write(tmp_path / "model")
    seen = [resolve(str(source))]
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"transformers_version": "5.0"}, indent=3))
    assert resolve(str(source)) == seen[0]
    (source / "config.json").write_text(json.dumps(config | {"rope_theta": 6000.0}))
    seen.append(resolve(str(source)))
    (source / "generation_config.json").write_text(json.dumps({"temperature": 0.5}))
    seen.append(resolve(str(source)))
    (source / "generation_config.json").rename(source / "tokenizer_config.json")
    seen.append(resolve(str(source)))
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    seen.append(resolve(str(source)))
    assert len(set(seen)) == len(list(cache.iterdir())) == 5


def test_a_folder_that_does_not_fit(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Packed().write(tmp_path / "model")
    with pytest.raises(ModelError, match="up to 64; give 1 to 64"):
        load(str(source), fit=Fit(context=65))
    with pytest.raises(ModelError, match="gpu-layers is not for the engine onnx"):
        load(str(source), fit=Fit(gpu_layers=1))
    monkeypatch.setattr("airdraft.models.fit.memory_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"with the weights of .*model, and this machine has 0\.0 GB"):
        load_target(str(source), fit=Fit(context=64))
    assert not cache.exists()


def test_a_shelf_lists_a_folder_and_its_import(tmp_path: Path, cache: Path) -> None:
    below = tmp_path / "models"
    below.mkdir()
    source, none = Packed("awq").write(below / "model"), Packed().write(below / "none", bits=3)
    made = resolve(str(source))
    found = {each.name: each for each in shelf([below])}
    assert (found[str(source)].engine, found[str(source)].format, found[str(source)].usable) == ("onnx", "AWQ", True)
    assert "bits = 3" in found[str(none)].note
    assert not found[str(none)].usable
    assert (found[str(made)].place, found[str(made)].note) == ("imported", "imported from model")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "quant_method = 'bitsandbytes'"), ({"bits": 3}, "bits = 3"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"), ({"group_size": 48}, "groups of 48"),
        ({"dynamic": {"-:lm_head": {}}}, "dynamic"), ({"group_size": 64}, "qzeros"),
        ({"group_size": "x"}, "group_size"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(changed: dict[str, Any], said: str, tmp_path: Path, cache: Path) -> None:
    source = Packed().write(tmp_path / "model", **changed)
    with pytest.raises(ModelError, match=said):
        import_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if "bitsandbytes" not in said:  # which transformers may run, where its library is
        with pytest.raises(ModelError, match=said):
            load(str(source))
        assert not any(cache.glob("*"))


def test_another_family_in_codes_is_refused_with_a_remedy(tmp_path: Path, cache: Path) -> None:
    source = Packed().write(tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    for changed in (
        {"model_type": "mixtral"},
        {"num_local_experts": 8},
        {"rope_scaling": {"type": "yarn", "factor": 4}},
    ):
        (source / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(ModelError, match=r"does not know; .*fetch a GGUF file of the model, or use --engine hf"):
            load(str(source))


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

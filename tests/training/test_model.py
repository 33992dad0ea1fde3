"""The exported graph, the cache and the fused products all compute the same Llama."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from training import export_onnx, model  # noqa: E402

CONFIG = model.Config(vocab=64, width=32, layers=2, heads=2, ffn=64, context=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tiny = model.Llama(CONFIG)
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("tiny")
    model.save(tiny, path)
    export_onnx.export(path)
    return path


def run_onnx(
    folder: Path, ids: np.ndarray, mask: np.ndarray, positions: np.ndarray, past: list[np.ndarray],
    tree_mask: np.ndarray | None = None,
) -> list:  # fmt: skip
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    for i in range(CONFIG.layers):
        feed[f"past_key_values.{i}.key"], feed[f"past_key_values.{i}.value"] = past[2 * i], past[2 * i + 1]
    return session.run(None, feed if tree_mask is None else feed | {"tree_mask": tree_mask})


def empty(batch: int) -> list[np.ndarray]:
    return [np.zeros((batch, CONFIG.heads, 0, CONFIG.head_dim), np.float32)] * (2 * CONFIG.layers)


def test_config_survives_its_hf_form() -> None:
    assert model.config_from_hf(CONFIG.hf()) == CONFIG


def test_parameter_counts_match_the_module() -> None:
    tiny = model.Llama(CONFIG)
    assert sum(p.numel() for p in tiny.parameters()) == CONFIG.parameters


def test_onnx_in_two_steps_equals_torch(folder: Path) -> None:
    ids = np.random.default_rng(1).integers(0, CONFIG.vocab, (2, 12))
    with torch.no_grad():
        wanted = model.load(folder)(torch.tensor(ids)).numpy()
    positions = np.tile(np.arange(12), (2, 1))
    first = run_onnx(folder, ids[:, :7], np.ones((2, 7), np.int64), positions[:, :7], empty(2))
    second = run_onnx(folder, ids[:, 7:], np.ones((2, 12), np.int64), positions[:, 7:], first[1:])
    assert np.abs(np.concatenate([first[0], second[0]], axis=1) - wanted).max() < 1e-4
    assert second[1].shape == (2, CONFIG.heads, 12, CONFIG.head_dim)


def test_left_padding_changes_nothing(folder: Path) -> None:
    ids = np.random.default_rng(2).integers(1, CONFIG.vocab, (1, 6))
    alone = run_onnx(folder, ids, np.ones((1, 6), np.int64), np.arange(6)[None], empty(1))[0]
    padded = np.concatenate([np.zeros((1, 4), np.int64), ids], axis=1)
    both = np.concatenate([padded, np.random.default_rng(3).integers(1, CONFIG.vocab, (1, 10))])
    mask = np.array([[0] * 4 + [1] * 6, [1] * 10])
    positions = np.array([[0] * 4 + list(range(6)), list(range(10))])
    out = run_onnx(folder, both, mask, positions, empty(2))[0]
    assert np.abs(out[0, 4:] - alone[0]).max() < 1e-4
    assert np.isfinite(out).all()


def test_a_tree_may_be_given_or_left_out(folder: Path) -> None:
    """Left out it changes no bit; given, a branch does not see the other."""
    ids, mask, neutral = np.arange(1, 7)[None], np.ones((1, 6), np.int64), np.zeros((1, 1, 1, 1), np.float32)
    plain = run_onnx(folder, ids, mask, np.arange(6)[None], empty(1))
    told = run_onnx(folder, ids, mask, np.arange(6)[None], empty(1), neutral)
    assert all(np.array_equal(one, other) for one, other in zip(plain, told, strict=True))
    hidden = np.zeros((1, 1, 6, 6), np.float32)
    hidden[..., 4:, 2:4] = -1e9  # 3 4 and 5 6 are branches after 1 2
    tree = run_onnx(folder, ids, mask, np.array([[0, 1, 2, 3, 2, 3]]), empty(1), hidden)[0]
    other = run_onnx(folder, ids[:, [0, 1, 4, 5]], mask[:, :4], np.arange(4)[None], empty(1))[0]
    assert np.abs(tree[0, 4:] - other[0, 2:]).max() < 1e-4
    assert np.array_equal(tree[0, :4], plain[0][0, :4])


def test_cache_step_equals_whole_row(folder: Path) -> None:
    torch.manual_seed(0)
    tiny = model.load(folder)
    ids = torch.randint(1, CONFIG.vocab, (1, 9))
    with torch.no_grad():
        wanted = tiny(ids)
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
        mask = torch.tensor([[0] * 3 + [1] * 9])
        positions = torch.tensor([[0] * 3 + list(range(9))])
        cache = model.Cache(CONFIG, 1, 12, torch.zeros(()))
        first = tiny.step(padded[:, :5], positions[:, :5], mask[:, :5], cache)
        rest = tiny.step(padded[:, 5:], positions[:, 5:], mask, cache)
    assert torch.allclose(torch.cat([first[:, 3:], rest], dim=1), wanted, atol=1e-4)


def test_weights_are_stored_once(folder: Path) -> None:
    weights = (folder / "model.safetensors").stat().st_size
    assert weights > 4 * CONFIG.parameters
    assert (folder / "model.onnx").stat().st_size < weights  # tables and graph only
    ranges = export_onnx.weight_ranges(folder / "model.safetensors")
    assert max(offset + length for _, offset, length in ranges.values()) == weights


def test_graph_loads_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert run_onnx(folder, np.array([[1]]), np.array([[1]]), np.array([[0]]), empty(1))[0].shape == (1, 1, 64)

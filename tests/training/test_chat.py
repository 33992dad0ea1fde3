"""The recipe of the chat draft: blocks of few bits, the graph that shares them, prompts, each step on tiny models."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("gguf")

from airdraft.models.engines.onnx import OnnxModel  # noqa: E402
from airdraft.models.files.folder import shipped  # noqa: E402
from airdraft.models.gguf import write_gguf  # noqa: E402
from airdraft.models.text import Tokenizer  # noqa: E402
from training import blocks, chat, chat_card, chat_prompts, chat_target, export_blocks, model  # noqa: E402

TINY = model.Config(vocab=96, width=64, layers=2, heads=2, ffn=96, context=64, tied=True, bos=1, eos=2)


def some(config: model.Config, std: float = 0.3) -> model.Llama:
    torch.manual_seed(0)
    made = model.Llama(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return made.eval()


@pytest.mark.parametrize(("bits", "most"), [(8, 0.008), (4, 0.11)])
def test_blocks_are_near_what_they_stand_for(bits: int, most: float) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    matrix[7] = 0
    found = blocks.quantise(matrix, bits, 32)
    assert found.codes.shape == (50, 4, 32 * bits // 8)
    assert (found.matrix()[7] == 0).all()
    assert np.sqrt(((found.matrix() - matrix) ** 2).mean()) < most
    again = blocks.quantise(found.matrix(), bits, 32)
    assert np.abs(again.matrix() - found.matrix()).max() < 0.3 * most


@pytest.mark.parametrize("near", [32, 64])
def test_the_graph_is_the_model_of_its_blocks(near: int, tmp_path: Path) -> None:
    tiny = some(TINY)
    model.save(tiny, tmp_path / "trained")
    export_blocks.folder(tmp_path / "trained", tmp_path / "out", near)
    _, weights = export_blocks.weights_of(tmp_path / "trained")
    rounded = {}
    for name, weight in weights.items():
        if name == export_blocks.EMBEDDING:
            spread = np.sqrt(weight.std(axis=0))
            parts = [(weight / spread)[:, :near], (weight / spread)[:, near:]]
            found = [
                blocks.quantise(part, bits, 32).matrix()
                for part, bits in zip(parts, (8, 4), strict=True)
                if part.shape[1]
            ]
            rounded[name] = np.concatenate(found, axis=1) * spread
        else:
            rounded[name] = blocks.quantise(weight, 8, 32).matrix() if weight.ndim == 2 else weight
    wanted = model.fill(model.Llama(TINY), {name: torch.from_numpy(weight) for name, weight in rounded.items()})
    ids = np.random.default_rng(1).integers(0, 96, 40).tolist()
    loaded = OnnxModel(tmp_path / "out")
    cache = loaded.new_cache()
    rows = [loaded.forward(cache, 0, ids[:25], 25), loaded.forward(cache, 25, ids[25:], 15)]
    with torch.no_grad():
        truth = wanted(torch.tensor([ids]))[0].numpy()
    # What is left is the rounding of activations to 8 bits.
    assert np.abs(np.concatenate(rows) - truth).max() < 0.1 * truth.std()
    alone = loaded.forward(loaded.new_cache(), 0, ids, 1)[0]  # as if the others were not scored
    assert np.abs(alone - rows[1][-1]).max() < 0.1 * truth.std()


def test_other_models_are_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="head is its embedding"):
        export_blocks.export(replace(TINY, tied=False), {}, tmp_path, 32)


def test_the_compact_tokenizer_is_the_same() -> None:
    folder = shipped("target")
    table = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    table["model"]["merges"] = [each.split(" ") if isinstance(each, str) else each for each in table["model"]["merges"]]
    small = json.loads(export_blocks.compact(table))
    assert [each.split(" ") for each in small["model"]["merges"]] == table["model"]["merges"]
    assert small | {"model": None} == table | {"model": None}
    assert small["model"]["vocab"] == table["model"]["vocab"]


def test_shared_heads_and_a_tied_head(tmp_path: Path) -> None:
    config = replace(TINY, width=128, heads=4, kv_heads=2)
    tiny = some(config)
    assert sum(p.numel() for p in tiny.parameters()) == config.parameters
    model.save(tiny, tmp_path)
    again = model.load(tmp_path)
    assert again.config == config
    ids = torch.randint(0, 96, (2, 9))
    with torch.no_grad():
        assert torch.equal(again(ids), tiny(ids))
        cache = model.Cache(config, 2, 9, torch.zeros(()))
        places, mask = torch.arange(9).repeat(2, 1), torch.ones(2, 9, dtype=torch.long)
        stepped = [again.step(ids[:, a:b], places[:, a:b], mask[:, :b], cache) for a, b in ((0, 5), (5, 9))]
        assert torch.allclose(torch.cat(stepped, 1), tiny(ids), atol=1e-4)


@pytest.mark.parametrize("which", ["target", "draft"])
def test_a_llama_out_of_gguf(which: str, tmp_path: Path) -> None:
    folder = shipped(which)  # type: ignore[arg-type]
    write_gguf(folder, tmp_path / "model.gguf")
    found, wanted = chat_target.load(tmp_path / "model.gguf", 64), model.load(folder)
    torch.manual_seed(0)
    ids = torch.randint(0, 4096, (1, 30))
    with torch.no_grad():
        assert torch.allclose(found(ids), wanted(ids), atol=1e-4)


def test_held_prompts_are_about_something_else() -> None:
    ours, held = (set(itertools.islice(chat_prompts.prompts(1, held=held), 3000)) for held in (False, True))
    assert len(ours) > 2000
    assert not ours & held
    assert all(each.startswith("<|im_start|>system\n") for each in ours if "<|im_start|>" in each)
    assert list(itertools.islice(chat_prompts.prompts(1), 50)) == list(itertools.islice(chat_prompts.prompts(1), 50))


def test_acceptance_of_the_target_itself_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_card, "LENGTH", 50)
    tiny, other = some(TINY, 0.2), some(replace(TINY, layers=1), 0.2)
    drafts = {"same": chat_card.of_torch(tiny), "other": chat_card.of_torch(other)}
    found = chat_card.acceptance(tiny, drafts, [[1, 5], [7]], 0.7)
    assert found["same"] == pytest.approx({"coupled": 1, "overlap": 1, "greedy": 1})
    assert 0 < found["other"]["overlap"] < 0.9
    assert found["other"]["coupled"] < 0.9


def test_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a tiny target, the shipped one as GGUF, whose tokenizer has no ChatML; figures mean nothing here."""
    write_gguf(shipped("draft"), tmp_path / "model.gguf")
    out = tmp_path / "out"
    out.mkdir()
    (out / "tokenizer.json").write_bytes((shipped("target") / "tokenizer.json").read_bytes())
    monkeypatch.setattr(chat_card, "LENGTH", 12)
    monkeypatch.setattr(chat_card, "_RUNS", 3)
    words = ["--target", str(tmp_path / "model.gguf"), "--work", str(tmp_path / "work"), "--out", str(out)]
    words += ["--text-minutes", "0.02", "--minutes", "0.05", "--rows", "4", "--context", "160", "--layers", "1"]
    words += ["--width", "64", "--near", "32", "--texts", "2", "--no-compile"]
    assert chat.main(words) == 0
    assert OnnxModel(out).vocab_size == 4096
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert card["bytes"] == sum((out / name).stat().st_size for name in ("config.json", "generation_config.json",
        "model.onnx", "model.onnx.data", "tokenizer.json"))  # fmt: skip
    assert f"{card['acceptance']['0.7']['shipped']['coupled']:.3f}" in (out / "README.md").read_text("utf-8")
    assert Tokenizer(out).vocab_size == 4096


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["draft", "--width", "100"], ["export", "--near", "48"], ["export"], ["text", "--target", "/no"]],
)
def test_mistakes_exit_2(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat.main([*argv, "--work", str(tmp_path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1

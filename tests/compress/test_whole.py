"""Whole models made smaller: the files that come out, and what is said of them."""

from __future__ import annotations

import ast
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.compress.layers import Applied, Run, layers, linear, normed
from airdraft.compress.methods import METHODS
from airdraft.compress.quality import Comparison
from airdraft.compress.whole import Recipe, Texts, compress, windows
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import write_gguf
from airdraft.models.imports.decoder import decoder_of
from airdraft.models.imports.read import GgufFile
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from tests.models.imports.made import Made

TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]
VARIANTS: list[dict[str, Any]] = [
    {}, {"family": "qwen2", "biased": True}, {"family": "qwen3"}, {"tied": False, "factors": True},
    {"heads": 2, "kv_heads": 2, "kind": "Q8_0"},
]  # fmt: skip


def rows(path: Path, tokens: list[int]) -> np.ndarray:
    """Logits of every token by the layers in NumPy."""
    file = GgufFile(path)
    d = decoder_of(file)
    run = Run(d, file.numbers("token_embd.weight")[[tokens]])
    for layer in layers(file, d.layers):
        run.x = run.through(layer)
    head = file.numbers("token_embd.weight" if d.tied else "output.weight")
    return linear({"head.weight": head}, "head", normed(run.x[0], file.numbers("output_norm.weight"), d.eps))


def texts_of(made: Made, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    return windows(rng.integers(0, len(made.tokens), (8, 32)).tolist(), 32, 8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_in_numpy_are_the_models_own(variant: dict[str, Any], tmp_path: Path) -> None:
    made = Made(**variant)
    found = rows(made.write(tmp_path / "model.gguf"), TOKENS)
    wanted = made.rows(TOKENS, rounded=False)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std()


def test_what_is_seen_piece_by_piece_is_the_same() -> None:
    x = np.random.default_rng(0).normal(size=(9000, 5))
    whole, pieces = Applied.nothing(5, len(x)), Applied.nothing(5, len(x))
    whole.add(x)
    for first in range(0, len(x), 700):
        pieces.add(x[first : first + 700])
    assert whole.sample.shape == (3000, 5)
    for name, wanted in vars(whole).items():
        np.testing.assert_allclose(getattr(pieces, name), wanted, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        ("rtn", {}),
        ("gptq", VARIANTS[1]),
        ("awq", VARIANTS[3]),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("gptq", VARIANTS[2]), ("awq", VARIANTS[4]))),
    ],
)
def test_what_is_written_is_the_model_nearly(method: Any, variant: dict[str, Any], tmp_path: Path) -> None:
    made = Made(**variant)
    source, out = made.write(tmp_path / "model.gguf"), tmp_path / "out" / "small.gguf"
    quality = compress(source, out, Recipe(method, "W8"), texts_of(made))
    wanted, found = rows(source, TOKENS), rows(out, TOKENS)
    assert np.abs(found - wanted).max() < 0.2 * wanted.std()
    assert quality.positions == 2 * 31
    assert 0.9 < quality.coupled <= quality.one_minus_tv <= 1
    before, after = GgufFile(source), GgufFile(out)
    assert {**after.metadata, "general.file_type": 0} == {**before.metadata, "general.file_type": 0}
    assert {name: each.shape for name, each in after.tensors.items()} == {
        name: each.shape for name, each in before.tensors.items()
    }
    assert {each.format.name for each in after.tensors.values()} == {"Q8_0", "F32"}
    model, _ = load(str(out))
    cache = model.new_cache()
    assert np.abs(model.forward(cache, 0, TOKENS, len(TOKENS)) - found).max() < 0.2 * wanted.std()


@pytest.mark.parametrize(
    ("method", "bits", "variant"),
    [
        ("tensor", "W8A8", {}), ("smoothquant", "W6A6", VARIANTS[1]), ("outliertune", "W8A8", VARIANTS[2]),
        ("mergequant", "W4A4", VARIANTS[3]),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("outliertune", "W6A6", VARIANTS[1]), ("osplus", "W4A4", {}), ("repquant", "W6A6", VARIANTS[4]),
                ("crossquant", "W8A8", VARIANTS[3]), ("qllm", "W6A6", {}),
            )
        ),
    ],
)  # fmt: skip
def test_integers_run_as_they_were_compared(method: Any, bits: str, variant: dict[str, Any], tmp_path: Path) -> None:
    """The graph computes what the layers in NumPy did, for which the report speaks: all but sums are integers."""
    made = Made(**variant)
    source, out = made.write(tmp_path / "model.gguf"), tmp_path / "small"
    texts = texts_of(made)
    quality = compress(source, out, Recipe(method, bits), texts)
    model, _ = load(str(out))
    comparison = Comparison(0.7)
    for text in texts.held_out:
        found = model.forward(model.new_cache(), 0, text.tolist(), len(text))
        comparison.add(rows(source, text.tolist())[:-1], found[:-1], text[1:])
    run = comparison.quality()
    assert abs(run.one_minus_tv - quality.one_minus_tv) < 0.02
    assert abs(np.log(run.perplexity / quality.perplexity)) < 0.02


@pytest.mark.slow
def test_calibration_is_worth_something(tmp_path: Path) -> None:
    """Four bits of the draft that ships, on code: both methods leave less of an error than the nearest codes do."""
    source = tmp_path / "draft.gguf"
    write_gguf(shipped("draft"), source)
    tokenizer = Tokenizer(shipped("target"))
    code = [tokenizer.encode(Path(module.__file__).read_text("utf-8")) for module in (ast, json.decoder, textwrap)]
    texts = windows(code, 128, 64)
    found = {
        method: compress(source, tmp_path / f"{method}.gguf", Recipe(method, "W4"), texts).one_minus_tv
        for method in METHODS
    }
    assert found["rtn"] < found["awq"] < found["gptq"]


def stopping(kind: type[BaseException], after: float) -> Any:
    """A progress that raises once more than the share `after` is done."""

    def stop(share: float) -> None:
        if share > after:
            raise kind("stop")

    return stop


@pytest.mark.parametrize(
    ("method", "bits", "name"),
    [("rtn", "W8", "out.gguf"), pytest.param("mergequant", "W4A4", "out", marks=pytest.mark.slow)],
)
def test_nothing_is_left_of_what_failed(method: Any, bits: str, name: str, tmp_path: Path) -> None:
    made = Made()
    source = made.write(tmp_path / "model.gguf")
    with pytest.raises(RuntimeError, match="stop"):
        compress(source, tmp_path / name, Recipe(method, bits), texts_of(made), stopping(RuntimeError, 0.5))
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(
    ("method", "bits", "name"),
    [("gptq", "W4", "out.gguf"), pytest.param("mergequant", "W4A4", "out", marks=pytest.mark.slow)],
)
def test_a_run_that_was_stopped_goes_on(method: Any, bits: str, name: str, tmp_path: Path) -> None:
    """What comes out is what an unbroken run writes, and no completed layer is computed again, unless all is asked
    anew."""
    made = Made(layers=3)
    source, recipe = made.write(tmp_path / "model.gguf"), Recipe(method, bits)
    (tmp_path / "at once").mkdir()
    (tmp_path / "in pieces").mkdir()
    whole, out = tmp_path / "at once" / name, tmp_path / "in pieces" / name
    quality = compress(source, whole, recipe, texts_of(made))
    for stopped in (0.0, 0.3):  # after the first layer, and after the second
        with pytest.raises(KeyboardInterrupt):
            compress(source, out, recipe, texts_of(made), stopping(KeyboardInterrupt, stopped))
        assert not out.exists()
    shares: list[float] = []
    found = compress(source, out, recipe, texts_of(made), shares.append)
    assert asdict(found) == pytest.approx(asdict(quality), rel=1e-6)  # sums are rounded by where arrays lie
    assert shares == [0.75, 1.0]
    files = [[each for each in sorted(place.parent.rglob("*")) if each.suffix != ".json" and each.is_file()]
             for place in (whole, out)]  # fmt: skip
    assert len(files[0]) == len(files[1]) > 0
    for made_at_once, made_in_pieces in zip(*files, strict=True):
        one, other = (np.fromfile(each, np.uint8) for each in (made_at_once, made_in_pieces))
        assert one.size == other.size
        assert np.mean(one != other) < 1e-3  # a weight that lies between two may be rounded either way

    again = tmp_path / "in pieces" / f"again {name}"
    with pytest.raises(KeyboardInterrupt):
        compress(source, again, recipe, texts_of(made), stopping(KeyboardInterrupt, 0.0))
    shares.clear()
    compress(source, again, recipe, texts_of(made, seed=1), shares.append)  # another text: nothing of it may be kept
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_three_and_two_bits_run_where_rows_are_whole_pieces(tmp_path: Path) -> None:
    made = Made()
    source, one = made.write(tmp_path / "model.gguf"), {}
    for bits, form in (("W3", "Q3_K"), ("W2", "Q2_K")):
        out = tmp_path / f"{bits}.gguf"
        one[bits] = compress(source, out, Recipe("gptq", bits), texts_of(made)).one_minus_tv
        assert {each.format.name for each in GgufFile(out).tensors.values()} == {"Q8_0", form, "F32"}
        model, _ = load(str(out))
        found, wanted = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS)), rows(out, TOKENS)
        assert np.abs(found - wanted).max() < 0.2 * wanted.std()
    assert one["W2"] < one["W3"]
    narrow = Made(hidden=288).write(tmp_path / "narrow.gguf")
    with pytest.raises(ModelError, match=r"ffn_down.* 288 columns, and Q3_K"):
        compress(narrow, tmp_path / "b.gguf", Recipe("gptq", "W3"), texts_of(made))


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    made = Made(hidden=272)
    with pytest.raises(ModelError, match=r"ffn_down.* 272 columns"):
        compress(made.write(tmp_path / "a.gguf"), tmp_path / "b.gguf", Recipe("rtn", "W4"), texts_of(made))
    whole = Made().write(tmp_path / "c.gguf")
    with pytest.raises(BadParameterError, match="beyond the"):
        compress(whole, tmp_path / "b.gguf", Recipe("rtn", "W4"), windows([[9999] * 128], 32, 8))
    with pytest.raises(BadParameterError, match="context"):
        compress(whole, tmp_path / "b.gguf", Recipe("rtn", "W4"), windows([[1] * 512], 128, 8))
    with pytest.raises(BadParameterError, match="tokens, and"):
        windows([[1] * 100], 32, 8)
    for wrong in (("gptq", "W8A8"), ("mergequant", "W4"), ("gptq", "W5")):
        with pytest.raises(BadParameterError, match=r"made by|unknown"):
            Recipe(*wrong)
    with pytest.raises(ModelError, match="cannot be written"):
        compress(whole, whole / "b.gguf", Recipe("rtn", "W4"), texts_of(made))


def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "code.py"
    text.write_text("def add(a, b):\n    return a + b\n\n\n" * 100, encoding="utf-8")
    out = tmp_path / "draft.gguf"
    words = ["compress", "draft", str(out), "--bits", "W8", "--calibrate", str(text), "--json", "--method", "rtn"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["bytes"] == out.stat().st_size < 0.35 * found["source_bytes"]
    assert found["coupled"] > 0.95
    assert load(str(out))[1].digest == load("draft")[1].digest  # one vocabulary: it drafts for the same target


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """Text to calibrate with."""
    path = tmp_path / "code.py"
    path.write_text(Path(json.decoder.__file__).read_text("utf-8")[:6000], "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_for_a_device_the_bits_are_chosen(code: Path, tmp_path: Path) -> None:
    """What is kept is the smallest of those that are as fast as any, and nothing of the others is left."""
    out = tmp_path / "small.gguf"
    words = ["--for", "device", "--target", "target", "--calibrate", str(code), "--json", "--rtt-ms", "1"]
    said = CliRunner().invoke(app, ["compress", "draft", str(out), *words])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["bytes"] == out.stat().st_size == pytest.approx(1e6 * found["chosen"]["mb"])
    assert found["chosen"] in found["frontier"]
    assert json.loads(out.with_suffix(".json").read_text("utf-8"))["bits"] == found["chosen"]["name"][:2]
    assert load(str(out))[1].digest == load("target")[1].digest
    assert {file.name for file in tmp_path.iterdir()} == {"code.py", "small.gguf", "small.json"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--for", "device"], "give --target"),
        (["--for", "device", "--target", "target", "--bits", "W8"], "--bits has no use with --for device"),
        (["--for", "device", "--target", "target", "--profile", "none"], "'none' is no device"),
        (["--for", "device", "--target", "chat-draft"], "do not share one vocabulary"),
        (["--for", "device", "--target", "target", "--rtt-ms", "nan"], "rtt-ms"),
        (["--rtt-ms", "100"], "--rtt-ms has no use without --for device"),
        (["--target", "target"], "--target has no use without --for device"),
    ],
)
def test_what_has_no_use_or_is_missing_is_said(words: list[str], why: str, code: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["compress", "draft", str(tmp_path / "a.gguf"), "--calibrate", str(code), *words])
    assert isinstance(said.exception, BadParameterError)
    assert why in str(said.exception)
    assert {file.name for file in tmp_path.iterdir()} == {"code.py"}

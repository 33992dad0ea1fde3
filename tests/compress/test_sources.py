"""Checkpoints as people have them, made smaller: half precision, in parts, with biases, of every family."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from airdraft.cli import app
from airdraft.compress.integers import Way
from airdraft.compress.methods import METHODS
from airdraft.compress.quality import Comparison
from airdraft.compress.whole import CHECKPOINT, Recipe, Texts, compress, source_of, windows
from airdraft.core.policy import Facts
from airdraft.errors import BadParameterError, ModelError
from airdraft.lab.suited import suited
from airdraft.models.files.folder import shipped
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import import_gguf
from airdraft.models.profile import profile
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer

from ..models.hub_server import environment, hub_server
from ..models.llamas import BASE, VOCAB, checkpoint_rows

safetensors = pytest.importorskip("safetensors", reason="writing checkpoints takes safetensors")
pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from tests.models.imports.packed import Packed  # noqa: E402

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {}, "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {
        "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 48,
        "attention_bias": None, "mlp_bias": None,
    },
    "qwen2": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False,
        "attention_bias": None, "mlp_bias": None,
    },
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "mlp_bias": None},
}  # fmt: skip


@dataclass
class Published:
    """A random checkpoint: a folder as people have it, and another with the same numbers in single precision."""

    family: str
    kind: str = "BF16"
    parts: int = 2
    changes: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, plain: Path | None = None) -> Path:
        config = {name: value for name, value in (BASE | SIZES | FAMILIES[self.family] | self.changes).items()
                  if value is not None}  # fmt: skip
        tensors = self.tensors(config)
        stored = {name: (each.shape, self._raw(each)) for name, each in tensors.items()}
        folder.mkdir()
        size = -(-len(stored) // self.parts)
        names = [*stored]
        places: dict[str, str] = {}
        for i in range(self.parts):
            part = names[i * size : (i + 1) * size]
            name = "model.safetensors" if self.parts == 1 else f"model-{i + 1:05}-of-{self.parts:05}.safetensors"
            self._file(folder / name, {each: stored[each] for each in part})
            places |= dict.fromkeys(part, name)
        if self.parts > 1:
            index = {"metadata": {}, "weight_map": places}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for place in (folder, plain) if plain else (folder,):
            place.mkdir(exist_ok=True)
            (place / "config.json").write_text(json.dumps(config))
            shutil.copy(shipped("target") / "tokenizer.json", place)
        if plain:
            from safetensors.numpy import save_file

            save_file({name: self.read_back(each) for name, each in tensors.items()}, plain / "model.safetensors")
        return folder

    def tensors(self, config: dict[str, Any]) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
        queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
        shapes = {
            "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        biased = {name for name in shapes if config.get("attention_bias" if name.startswith("self") else "mlp_bias")}
        if self.family == "qwen2":
            biased = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        norms |= {"self_attn.q_norm": width, "self_attn.k_norm": width} if self.family == "qwen3" else {}
        made = {
            "model.embed_tokens.weight": random.normal(size=(VOCAB, hidden)),
            "model.norm.weight": random.normal(1, 0.2, hidden),
            "lm_head.weight": random.normal(size=(VOCAB, hidden)),
        }
        for i in range(config["num_hidden_layers"]):
            own = f"model.layers.{i}."
            made |= {f"{own}{name}.weight": random.normal(1, 0.2, size) for name, size in norms.items()}
            for name, shape in shapes.items():
                made[f"{own}{name}.weight"] = random.normal(0, 1.5 / np.sqrt(shape[1]), shape)
                if name in biased:
                    made[f"{own}{name}.bias"] = random.normal(0, 0.5, shape[0])
        return made

    def read_back(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers as the folder's kind keeps them, in single precision."""
        if self.kind == "BF16":
            return (numbers.astype("<f4").view("<u4") & np.uint32(0xFFFF0000)).view("<f4")
        return numbers.astype("<f2").astype("<f4")

    def _raw(self, numbers: np.ndarray) -> bytes:
        kept = self.read_back(numbers)
        return ((kept.view("<u4") >> 16).astype("<u2") if self.kind == "BF16" else kept.astype("<f2")).tobytes()

    def _file(self, path: Path, stored: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
        """A file of safetensors, byte for byte: the library's side for NumPy knows no bfloat16."""
        header, at = {}, 0
        for name, (shape, raw) in stored.items():
            header[name] = {"dtype": self.kind, "shape": shape, "data_offsets": [at, at := at + len(raw)]}
        said = json.dumps(header).encode()
        path.write_bytes(len(said).to_bytes(8, "little") + said + b"".join(raw for _, raw in stored.values()))


def random_texts(count: int = 8) -> Texts:
    return windows(np.random.default_rng(0).integers(0, VOCAB, (count, 32)).tolist(), 32, count)


TOKENS = random_texts().calibration[0, :12].tolist()
"""Within what was calibrated, so that no activation lies beyond its codes."""


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of logits, root mean square, as a share of their spread."""
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std())


def rows(out: Path) -> np.ndarray:
    """By the onnx engine."""
    model, _ = load(str(out))
    return model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))


def check_rows(out: Path, plain: Path) -> None:
    """What was written has the original's rows nearly, and is far from what the original is without its biases."""
    from safetensors.numpy import load_file, save_file

    found, wanted = rows(out), checkpoint_rows(plain, TOKENS)
    assert error(found, wanted) < 0.1
    tensors = load_file(plain / "model.safetensors")
    without = {name: np.zeros_like(each) if name.endswith(".bias") else each for name, each in tensors.items()}
    save_file(without, plain / "model.safetensors")
    if any(name.endswith(".bias") for name in tensors):
        assert error(checkpoint_rows(plain, TOKENS), wanted) > 0.5


WEIGHTS = [
    *((family, *each) for family in ("llama", "qwen2") for each in zip(METHODS, ("gguf", "onnx", "gguf"), strict=True)),
    *((family, "gptq", "gguf") for family in ("llama with biases", "mistral", "qwen3")),
]
INTEGERS = [
    *(("qwen2", way) for way in get_args(Way)), ("llama", "outliertune"), ("llama with biases", "mergequant"),
    ("qwen3", "smoothquant"),
]  # fmt: skip
FEW = {("llama", "gptq", "gguf"), ("qwen2", "awq", "onnx"), ("mistral", "gptq", "gguf"), ("qwen2", "outliertune")}


@pytest.mark.parametrize(
    ("family", "method", "form"),
    [pytest.param(*each, marks=() if each in FEW else pytest.mark.slow) for each in WEIGHTS],
)
def test_weights_in_eight_bits_have_the_rows_of_the_original(
    family: str, method: Any, form: Any, tmp_path: Path
) -> None:
    source = Published(family, "F16" if family == "mistral" else "BF16").write(tmp_path / "model", tmp_path / "plain")
    out = tmp_path / ("out.gguf" if form == "gguf" else "out")
    compress(source, out, Recipe(method, "W8", form=form), random_texts())
    check_rows(out, tmp_path / "plain")


@pytest.mark.parametrize(
    ("family", "method"), [pytest.param(*each, marks=() if each in FEW else pytest.mark.slow) for each in INTEGERS]
)
def test_integers_have_the_rows_of_the_original(family: str, method: Any, tmp_path: Path) -> None:
    source = Published(family).write(tmp_path / "model", tmp_path / "plain")
    compress(source, tmp_path / "out", Recipe(method, "W8A8", "F16"), random_texts())
    check_rows(tmp_path / "out", tmp_path / "plain")


@pytest.mark.parametrize(
    "family", ["qwen2", *(pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES if each != "qwen2")]
)
def test_llama_cpp_runs_what_is_written(family: str, tmp_path: Path) -> None:
    """Biases, norms of heads and the order of rows are where it looks for them."""
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    source = Published(family).write(tmp_path / "model", tmp_path / "plain")
    compress(source, tmp_path / "out.gguf", Recipe("gptq", "W8"), random_texts())
    model, _ = load(str(tmp_path / "out.gguf"), engine="llamacpp")
    found = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))
    assert error(found, checkpoint_rows(tmp_path / "plain", TOKENS)) < 0.1


def test_parts_make_no_difference(tmp_path: Path) -> None:
    """One file or three, a folder's name aside: the same bytes are written."""
    made = []
    for parts in (1, 3):
        place = tmp_path / str(parts)
        place.mkdir()
        source = Published("qwen2", parts=parts).write(place / "model")
        compress(source, place / "out.gguf", Recipe("rtn", "W4"), random_texts())
        made.append((place / "out.gguf").read_bytes())
    assert made[0] == made[1]


def test_a_run_of_a_folder_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """And begins anew when a part of its weights has changed meanwhile."""
    source, out = Published("llama").write(tmp_path / "model"), tmp_path / "out.gguf"
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        raise KeyboardInterrupt

    def run(progress: Any) -> list[float]:
        shares.clear()
        compress(source, out, Recipe("rtn", "W4"), random_texts(), progress)
        return shares

    for change in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run(stop)
        if change:
            path = source / "model-00002-of-00002.safetensors"
            raw = bytearray(path.read_bytes())
            raw[-2] ^= 1
            path.write_bytes(raw)
        found = run(shares.append)
        assert found == ([pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0] if change else [pytest.approx(2 / 3), 1.0])


@pytest.mark.parametrize("packed", [Packed("awq"), Packed(act_order=True, family="qwen2")])
def test_checkpoints_in_codes_are_sources_too(packed: Packed, tmp_path: Path) -> None:
    """Their channels come back in the model's order."""
    file = source_of(packed.write(tmp_path / "model"))
    heads = 4 if packed.family == "llama" else 0
    for there, own in (("attn_q", "self_attn.q_proj"), ("ffn_down", "mlp.down_proj")):
        wanted = packed.plain[f"model.layers.1.{own}.weight"]
        if heads and there == "attn_q":
            wanted = wanted.reshape(heads, 2, -1, wanted.shape[1]).swapaxes(1, 2).reshape(wanted.shape)
        np.testing.assert_allclose(file.numbers(f"blk.1.{there}.weight"), wanted, rtol=0, atol=1e-6)
    compress(tmp_path / "model", tmp_path / "out.gguf", Recipe("gptq", "W8"), random_texts())
    plain = packed.write_plain(tmp_path / "plain")
    config = json.loads((plain / "config.json").read_text("utf-8"))
    (plain / "config.json").write_text(json.dumps(config | {"head_dim": 32}))
    assert error(rows(tmp_path / "out.gguf"), checkpoint_rows(plain, TOKENS)) < 0.1


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("rtn", "W4"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("gptq", "W4"), ("outliertune", "W8A8"))),
    ],
)
def test_a_layer_is_in_memory_at_a_time(method: Any, bits: str, tmp_path: Path) -> None:
    """20 layers more, in single precision 16 MB, take not a twentieth of that, and of a file's bytes none are kept."""
    peaks, sizes = [], []
    for layers in (2, 22):
        changes = {"num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 384, "head_dim": 32}
        source = Published("qwen2", changes=changes).write(tmp_path / str(layers))
        tracemalloc.start()
        compress(source, tmp_path / f"small-{layers}", Recipe(method, bits), random_texts(4))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(2 * sum(file.stat().st_size for file in source.glob("*.safetensors")))
    assert peaks[1] - peaks[0] < 0.05 * (sizes[1] - sizes[0])


@pytest.mark.slow
def test_texts_go_through_a_layer_few_at_a_time(tmp_path: Path) -> None:
    """What 40 texts more take is what they are between layers, not what they are within one: 1 MB of scores each."""
    source, peaks = Published("llama").write(tmp_path / "model"), []
    for count in (8, 48):
        ids = np.random.default_rng(0).integers(0, VOCAB, (count, 256)).tolist()
        tracemalloc.start()
        compress(source, tmp_path / f"{count}.gguf", Recipe("rtn", "W4"), windows(ids, 256, count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 25e6


def test_the_command_takes_parts_in_half_precision(tmp_path: Path) -> None:
    """Any format is a draft for the same target, the report names what was asked for, and nothing else is left."""
    source = Published("qwen2").write(tmp_path / "model")
    text = tmp_path / "code.py"
    text.write_text("def add(a, b):\n    return a + b\n\n\n" * 100, encoding="utf-8")
    for words in (["out.gguf"], ["out", "--format", "onnx"]):
        out = tmp_path / words[0]
        said = CliRunner().invoke(
            app, ["compress", str(source), str(out), *words[1:], "--calibrate", str(text), "--method", "rtn", "--json"]
        )
        assert said.exit_code == 0, said.output
        found = json.loads(said.stdout)
        assert found["source_bytes"] == sum(file.stat().st_size for file in source.glob("*.safetensors"))
        report = json.loads((out.with_suffix(".json") if out.is_file() else out / "report.json").read_text("utf-8"))
        assert report["source"] == str(source)
        assert load(str(out))[1].digest == load("draft")[1].digest
    assert {file.name for file in tmp_path.iterdir()} == {"model", "code.py", "out.gguf", "out.json", "out"}


def test_a_checkpoint_on_the_hub(tmp_path: Path) -> None:
    """All its parts are fetched, and the report calls it by its id."""
    source = Published("qwen2", parts=3).write(tmp_path / "model")
    text = tmp_path / "code.py"
    text.write_text("def add(a, b):\n    return a + b\n\n\n" * 100, encoding="utf-8")
    out = tmp_path / "out.gguf"
    with hub_server() as hub:
        hub.repos["org/small"] = {file.name: file.read_bytes() for file in source.iterdir()}
        words = ["compress", "org/small", str(out), "--calibrate", str(text), "--method", "rtn"]
        program = f"import sys; sys.argv = ['airdraft', *{words!r}]; from airdraft.cli import main; main()"
        said = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(tmp_path, hub.url), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert json.loads(out.with_suffix(".json").read_text("utf-8"))["source"] == "org/small"
    compress(source, tmp_path / "own.gguf", Recipe("rtn", "W4"), random_texts())
    found, wanted = GgufFile(out), GgufFile(tmp_path / "own.gguf")
    for name, there in wanted.tensors.items():
        np.testing.assert_array_equal(found.raw(found.tensors[name]), wanted.raw(there))


def test_weights_alone_are_a_graph_as_well(tmp_path: Path) -> None:
    """Its codes are those of the GGUF file, as an import writes them, and the tokenizer is the checkpoint's own."""
    source = Published("llama").write(tmp_path / "model")
    for form in ("gguf", "onnx"):
        compress(source, tmp_path / f"a.{form}", Recipe("rtn", "W4", form=form), random_texts())
    import_gguf(tmp_path / "a.gguf", tmp_path / "imported")
    assert (tmp_path / "a.onnx" / "model.onnx").read_bytes() == (tmp_path / "imported" / "model.onnx").read_bytes()
    assert (tmp_path / "a.onnx" / "model.onnx_data").read_bytes() == (
        tmp_path / "imported" / "model.onnx_data"
    ).read_bytes()
    operators = {
        node.op_type for node in onnx.load(tmp_path / "a.onnx" / "model.onnx", load_external_data=False).graph.node
    }
    assert "MatMulNBits" in operators
    assert json.loads((tmp_path / "a.onnx" / "tokenizer.json").read_text("utf-8")) == json.loads(
        (source / "tokenizer.json").read_text("utf-8")
    )


def blocks(graph: Path) -> set[int]:
    """Lengths of blocks of the layers' products."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return {
        onnx.helper.get_node_attr_value(node, "block_size")
        for node in nodes if node.op_type == "MatMulNBits" and node.input[1].startswith("blk.")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "bits", "group", "most"),
    [
        ("gptq", "W4", 64, 0.4), ("rtn", "W8", 16, 0.1), ("gptq", "W3", None, 0.6),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (
            ("awq", "W4", 128, 0.4), ("rtn", "W8", 128, 0.1), ("gptq", "W2", None, 1.0), ("gptq", "W2", 64, 1.0),
            ("gptq", "W4", 16, 0.4),
        )),
    ],
)  # fmt: skip
def test_a_graph_takes_blocks_of_any_length(method: Any, bits: str, group: int, most: float, tmp_path: Path) -> None:
    """Also in 3 and 2 bits, where a GGUF file takes whole pieces of 256 alone; and it runs as it was compared."""
    changes = {"hidden_size": 128, "intermediate_size": 384, "head_dim": 32}
    source = Published("qwen2", changes=changes).write(tmp_path / "model", tmp_path / "plain")
    recipe = Recipe(method, bits, "F16", form="onnx", group=group)
    quality = compress(source, tmp_path / "out", recipe, random_texts())
    assert blocks(tmp_path / "out" / "model.onnx") == {group or 16}
    assert error(rows(tmp_path / "out"), checkpoint_rows(tmp_path / "plain", TOKENS)) < most
    model, _ = load(str(tmp_path / "out"))
    comparison = Comparison(0.7)
    for text in random_texts().held_out:
        found = model.forward(model.new_cache(), 0, text.tolist(), len(text))
        comparison.add(checkpoint_rows(tmp_path / "plain", text.tolist())[:-1], found[:-1], text[1:])
    assert abs(comparison.quality().one_minus_tv - quality.one_minus_tv) < 0.06  # activations have 8 bits there


def test_groups_where_there_is_a_place_for_them(tmp_path: Path) -> None:
    source = Published("llama", changes={"hidden_size": 128, "head_dim": 32}).write(tmp_path / "model")
    compress(source, tmp_path / "served", Recipe("rtn", "W4", "F16", form=CHECKPOINT, group=32), random_texts())
    said = json.loads((tmp_path / "served" / "config.json").read_text("utf-8"))["quantization_config"]
    assert said["config_groups"]["group_0"]["weights"]["group_size"] == 32
    with pytest.raises(ModelError, match=r"ffn_down.* 96 columns, .* of 64; choose .*a --group that divides them"):
        compress(source, tmp_path / "out", Recipe("rtn", "W4", form="onnx", group=64), random_texts())
    for group, words, why in (
        (64, {}, "a GGUF file has blocks of 32 for W4; leave --group out, or choose --format onnx"),
        (48, {"form": "onnx"}, "blocks of 48 have no kernel; choose 16, 32, 64, 128"),
        (16, {"form": CHECKPOINT, "head": "F16"}, "vLLM has no kernel for blocks of 16; choose 32, 64, 128"),
    ):
        with pytest.raises(BadParameterError, match=why):
            Recipe("rtn", "W4", group=group, **words)
    with pytest.raises(BadParameterError, match="W8A8 has a step for each row; leave --group out"):
        Recipe("token", "W8A8", group=32)


def test_a_tokenizer_that_gguf_has_no_words_for(tmp_path: Path) -> None:
    """It is refused by name for a GGUF file, and taken as it is for a graph."""
    source = Published("llama").write(tmp_path / "model")
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is no byte-level BPE"):
        compress(source, tmp_path / "out.gguf", Recipe("rtn", "W4"), random_texts())
    for form in ("onnx", CHECKPOINT):
        out = tmp_path / str(form)
        compress(source, out, Recipe("rtn", "W4", "F16", form=form), random_texts())
        assert json.loads((out / "tokenizer.json").read_text("utf-8")) == tokenizer
        assert Tokenizer(out).encode("DEF Add") == Tokenizer(source).encode("def add")


def test_numbers_that_are_none(tmp_path: Path) -> None:
    source = Published("llama").write(tmp_path / "model")
    path = source / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff")
    with pytest.raises(ModelError, match=r"model has blk\.1\.ffn_down\.weight in BF16 with numbers that are none"):
        compress(source, tmp_path / "out.gguf", Recipe("rtn", "W4"), random_texts())
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_no_room_that_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Published("llama").write(tmp_path / "model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    out = tmp_path / "place" / "out.gguf"
    why = r"it takes 0\.\d MB, and there is room for 0\.1 MB"
    with pytest.raises(ModelError, match=rf"^{out} cannot be written \({why}\); make room, or choose another place$"):
        compress(source, out, Recipe("rtn", "W4"), random_texts())
    assert not [*out.parent.iterdir()]
    target, _ = load("draft")
    with pytest.raises(ModelError, match=rf"^{out} cannot be written \({why}\); make room"):
        suited(source, out, random_texts(), target, VOCAB, (profile("phone-8b"), Facts(0.02, 0.05, 0.1, 1e6, 1e8, 1.0)))
    assert not [*out.parent.iterdir()]


@pytest.mark.parametrize(
    ("form", "bits", "most"),
    [
        ("gguf", "W4", 20_000), ("onnx", "W4", 640_000),
        pytest.param(CHECKPOINT, "W4", 110_000, marks=pytest.mark.slow),
        pytest.param("onnx", "W8A8", 640_000, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_no_room(form: str, bits: str, most: int, tmp_path: Path) -> None:
    """One line that names what was asked for, whichever file it was that was one too many; and nothing is left."""
    source = Published("llama").write(tmp_path / "model")
    text = tmp_path / "code.py"
    text.write_text("def add(a, b):\n    return a + b\n\n\n" * 100, encoding="utf-8")
    out = tmp_path / "place" / ("out.gguf" if form == "gguf" else "out")
    words = ["compress", str(source), str(out), "--calibrate", str(text), "--bits", bits, "--format", form]
    program = (
        "import resource, sys; from airdraft.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))\n"
        f"sys.argv = ['airdraft', *{words!r}]; main()"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert said.returncode == 2, said.stderr
    [line] = [each for each in said.stderr.splitlines() if each.startswith("airdraft: ")]
    assert line == f"airdraft: {out} cannot be written (File too large); make room, or choose another place"
    assert not [*(tmp_path / "place").iterdir()]

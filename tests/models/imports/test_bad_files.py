"""Files that are cut off, hostile or not understood: one line that names the thing, and nothing is left behind."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.imports.quants import OTHERS
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.write import import_gguf, write_text_files

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from ...suites import examples
from .made import Made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Made(kind="Q8_0").write(tmp_path_factory.mktemp("made") / "model.gguf").read_bytes()


def refused(path: Path, out: Path) -> str:
    """What the import of `path` says, which must leave nothing."""
    with pytest.raises(ModelError) as caught:
        import_gguf(path, out)
    with suppress(ModelError):  # and nothing worse, where its lists are skipped
        GgufFile(path, lists=False)
    assert list(out.parent.iterdir()) == [path]
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "; " in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("size", [0, 3, 4, 11, 24, 200, 5000, 0.5, 0.999])
def test_a_file_that_was_cut_off(size: float, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[: int(size * len(whole)) if isinstance(size, float) else size])
    assert "fetch it again" in refused(path, tmp_path / "out")


@examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_header_is_refused_or_harmless(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    header = len(whole) - 250_000  # the weights are larger than this
    at = data.draw(st.integers(0, header))
    new = data.draw(st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 8, b"\xff" * 4, b"\0" * 8]))
    path = tmp_path / "model.gguf"
    path.write_bytes(whole[:at] + new + whole[at + len(new) :])
    started = time.process_time()
    for read in (GgufFile, lambda path: GgufFile(path, lists=False), lambda path: write_text_files(path, tmp_path)):
        with suppress(ModelError):
            read(path)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (struct.pack("<QQ", 1 << 60, 0), "tells of"),
        (struct.pack("<QQ", 0, 1 << 60), "tells of"),
        (struct.pack("<QQQ", 0, 1, 1 << 62), "ends within its header"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 4, 1 << 40), "tells of"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 4, 1 << 21), "ends within its header"),
        *(
            (struct.pack("<QQQ1sIIQQQ", 0, 1, 1, b"k", 9, 8, 2, length, 0), "ends within its header")
            for length in (9, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
        ),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 9, 1), "has an array of kind 9"),
        (struct.pack("<QQQ1sI", 0, 1, 1, b"k", 99), "has a value of kind 99"),
        (struct.pack("<QQQ1sI", 1, 0, 1, b"t", 1 << 31), "dimensions"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 1 << 63, 0, 0), "was cut off"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 1, 0, (1 << 64) - 1), "was cut off"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 33, 2, 0), "not whole pieces of Q4_0"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 256, 16, 0) + bytes(200), "stores 't' as IQ2_XXS"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 256, 16, 0), "was cut off"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"t", 1, 256, 99, 0) + bytes(200), "stores 't' as format 99"),
    ],
)
def test_a_header_that_lies(body: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + body)
    started = time.process_time()
    assert said in refused(path, tmp_path / "out")
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"family": "gemma3"}, "is a 'gemma3' model"),
        ({"facts": {".expert_count": 8}}, "says llama.expert_count = 8"),
        ({"facts": {".attention.scale": 0.5}}, "says llama.attention.scale = 0.5"),
        ({"facts": {".rope.scaling.type": "yarn"}}, "scales positions by 'yarn'"),
        ({"facts": {".rope.dimension_count": 32}}, "turns a part of each head only"),
        ({"facts": {".attention.head_count_kv": [2, 1]}}, "has layers of different attention.head_count_kv"),
        ({"facts": {".attention.value_length": 32}}, "keys and values of different lengths"),
        ({"facts": {".context_length": None}}, "does not say llama.context_length"),
        ({"facts": {"split.count": 4}}, "is one of 4 parts"),
        ({"facts": {".block_count": 3}}, "lacks blk.2."),
        ({"facts": {".block_count": 1}}, "has 'blk.1."),
        ({"facts": {".feed_forward_length": 512}}, "with shape"),
        ({"facts": {".attention.head_count": 0}}, "says llama.attention.head_count = 0"),
        ({"facts": {".rope.freq_base": -1.0}}, "with base -1"),
        ({"facts": {"tokenizer.ggml.model": "bert"}}, "has a tokenizer of kind 'bert'"),
        ({"facts": {"tokenizer.ggml.pre": "new-one"}}, "cuts its texts by 'new-one'"),
        ({"facts": {"tokenizer.ggml.eos_token_id": 99999}}, "tokenizer.ggml.eos_token_id = 99999"),
        ({"facts": {"tokenizer.ggml.token_type": [1, 1]}}, "has 2 types for"),
        ({"facts": {"tokenizer.ggml.merges": ["ab"]}}, "has a merge that is no pair"),
        ({"facts": {"tokenizer.ggml.merges": ["q zz"]}}, "has a broken tokenizer"),
        ({"facts": {"tokenizer.chat_template": 5}}, "has a chat template that is no text"),
        ({"tokens": ["a", "a", "<|endoftext|>"]}, "has a token twice"),
    ],
)
def test_a_model_that_is_not_understood(made: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(Made(**made).write(tmp_path / "model.gguf"), tmp_path / "out")


@pytest.mark.parametrize("kind", OTHERS)
def test_the_text_of_a_file_in_another_format(kind: int, whole: bytes, tmp_path: Path) -> None:
    """What llama.cpp alone runs has a tokenizer all the same, and is checked for its size."""
    path = tmp_path / "model.gguf"
    name, form = b"blk.0.ffn_up.weight", OTHERS[kind]
    at = whole.index(name) + len(name) + 4 + 2 * 8
    path.write_bytes(whole[:at] + struct.pack("<I", kind) + whole[at + 4 :] + bytes(1 << 20))
    write_text_files(path, tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert GgufFile(path).tensors[name.decode()].size == 256 * 256 // form.values * form.size
    with pytest.raises(ModelError, match=f"stores 'blk.0.ffn_up.weight' as {form.name}, .* or use --engine llamacpp"):
        import_gguf(path, tmp_path / "out")
    import gguf

    if form.name != "Q8_1":  # which no file has; the package counts its two halves as singles
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (form.values, form.size)


def test_a_folder_that_holds_something_is_kept(whole: bytes, tmp_path: Path) -> None:
    path, out = tmp_path / "model.gguf", tmp_path / "out"
    path.write_bytes(whole)
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(ModelError, match="is not empty"):
        import_gguf(path, out)
    assert (out / "mine").read_text() == "kept"


def test_the_window_bounds_the_context(tmp_path: Path) -> None:
    path = Made(facts={".attention.sliding_window": 48}).write(tmp_path / "model.gguf")
    assert import_gguf(path, tmp_path / "out").context == 48


def test_tensors_come_as_views_of_the_file(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(whole)
    file = GgufFile(path)
    tensor = file.tensors["token_embd.weight"]
    raw = file.raw(tensor, 3, 2)
    assert raw.shape == (2, 272)
    assert not raw.flags.owndata
    assert raw.tobytes() == whole[tensor.start + 3 * 272 :][: 2 * 272]
    assert np.array_equal(file.raw(tensor)[3:5], raw)

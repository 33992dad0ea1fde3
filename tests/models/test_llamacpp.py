"""llama.cpp behind `LanguageModel` and `TargetEngine`: the rows of ONNX Runtime, from one pool of sequences."""

from __future__ import annotations

import contextlib
import gc
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import AirdraftError, ModelError
from airdraft.models.base import FloatArray, LanguageModel, Part, TargetEngine, Threads
from airdraft.models.engines.llamacpp import LlamaCppModel, gguf_file
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.fit import Fit
from airdraft.models.gguf import write_gguf
from airdraft.models.registry import load_target
from airdraft.models.text import Tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
gguf = pytest.importorskip("gguf", reason="needs the extra llamacpp")

TOLERANCE = 1e-4
"""In fp32, to ONNX Runtime and between batches: 1.5e-5 as a rule. Two tokens swapped far back make 0.8."""
COARSE = 1.0
"""Of 8-bit weights to fp32: 0.2 to 0.4 here, of rows that reach 14."""

TEXT = [0, 300, 17, 2049, 900, 31, 4000, 300, 300, 77, 1234, 5]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target-f32, draft-f32 and target-q8_0, each a folder with a GGUF file and its tokenizer."""
    root = tmp_path_factory.mktemp("gguf")
    write_gguf(shipped("target"), root / "target-f32" / "model.gguf")
    write_gguf(shipped("draft"), root / "draft-f32" / "model.gguf")
    write_gguf(shipped("target"), root / "target-q8_0" / "model.gguf", "q8_0")
    return root


@pytest.fixture(scope="session")
def model(folders: Path) -> LlamaCppModel:
    return LlamaCppModel(folders / "target-f32")


def rows_of(model: LanguageModel, tokens: list[int], rows: int = 1) -> FloatArray:
    """The last rows of one forward of everything."""
    return model.forward(model.new_cache(), 0, tokens, rows)


def close(found: Any, wanted: Any, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_it_is_both_a_language_model_and_a_target_engine(model: LlamaCppModel) -> None:
    alone: LanguageModel = model
    engine: TargetEngine = model
    assert alone.name == "target-f32"
    assert (alone.vocab_size, alone.max_context, alone.eos_ids) == (4096, 1024, (0,))
    info = engine.info
    assert (info.top_k, info.max_rollback, info.max_calls) == (None, None, 1)
    assert (info.max_batch, info.max_caches) == (8, 8)
    assert info.position_bytes == 2 * 4 * 4 * 64 * 4  # keys, values; layers, heads, sizes, fp32
    cache, saved = model.new_cache(), []
    for keep in range(2):
        model.forward(cache, keep, [1], 0)
        saved.append(model._library.api.llama_state_seq_get_size(model._rooms.context, cache.seat.room))
    assert 0 <= saved[1] - saved[0] - info.position_bytes < 64  # which position it is, besides


@pytest.mark.parametrize("which", ["target", "draft"])
def test_rows_are_those_of_onnx_runtime(which: str, folders: Path, request: pytest.FixtureRequest) -> None:
    other: OnnxModel = request.getfixturevalue(which)
    rows = rows_of(LlamaCppModel(folders / f"{which}-f32", sequences=1), TEXT, len(TEXT))
    assert rows.dtype == np.float32
    close(rows, rows_of(other, TEXT, len(TEXT)))


def test_rows_of_8_bit_weights_are_near(target: OnnxModel, folders: Path) -> None:
    rows = rows_of(LlamaCppModel(folders / "target-q8_0"), TEXT, len(TEXT))
    wanted = rows_of(target, TEXT, len(TEXT))
    close(rows, wanted, COARSE)
    assert np.abs(rows - wanted).max() > TOLERANCE


def test_one_forward_of_n_tokens_has_the_rows_of_n_forwards_of_one(model: LlamaCppModel) -> None:
    cache = model.new_cache()
    close([model.forward(cache, i, [token], 1)[0] for i, token in enumerate(TEXT)], rows_of(model, TEXT, len(TEXT)))


def test_8_bit_weights_set_no_widths_apart_but_one_alone(folders: Path) -> None:
    model = LlamaCppModel(folders / "target-q8_0")
    tokens = np.random.default_rng(1).integers(0, 4096, 120).tolist()
    together = rows_of(model, tokens, 120)
    for width in (2, 6, 60):
        cache = model.new_cache()
        found = [model.forward(cache, at, tokens[at : at + width], width) for at in range(0, 120, width)]
        np.testing.assert_array_equal(np.concatenate(found), together)
    cache = model.new_cache()
    assert (np.array([model.forward(cache, i, [token], 1)[0] for i, token in enumerate(tokens)]) != together).any()


def test_rows_are_the_last_ones(model: LlamaCppModel) -> None:
    everything = rows_of(model, TEXT, len(TEXT))
    for rows in range(len(TEXT) + 1):
        found = rows_of(model, TEXT, rows)
        assert found.shape == (rows, 4096)
        close(found, everything[len(TEXT) - rows :])


@pytest.mark.parametrize("keep", range(len(TEXT) + 1))
def test_a_cache_rolled_back_to_any_depth_is_as_good_as_a_fresh_one(model: LlamaCppModel, keep: int) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    branch = [8, 9, 10]
    close(model.forward(cache, keep, branch, 3), rows_of(model, TEXT[:keep] + branch, 3))


def test_interleaved_sequences_do_not_disturb_each_other(model: LlamaCppModel) -> None:
    caches = [model.new_cache(), model.new_cache()]
    for i in range(12):  # step 2 of three replaces the last token, so both roll back in turn as well
        for which, first in enumerate((10, 500)):
            mixed = model.forward(caches[which], _keep(i), [first + i], 1)
            held = [first + j for j in range(i) if _keep(j + 1) > _keep(j)]
            close(mixed, rows_of(model, [*held, first + i]))


def _keep(i: int) -> int:
    """0 1 1 2 3 3 4 5 5 ...: positions kept at step i when each third step replaces the last token."""
    return i - (i + 1) // 3


def test_a_batch_has_the_rows_of_its_parts_alone(model: LlamaCppModel) -> None:
    texts = [TEXT, TEXT[:1], [9] * 40, TEXT[::-1]]
    rows = [3, 1, 0, 12]
    caches = [model.new_cache() for _ in texts]
    batch = [Part(cache, 0, text, n) for cache, text, n in zip(caches, texts, rows, strict=True)]
    for found, text, n in zip(model.verify(batch), texts, rows, strict=True):
        assert not isinstance(found, AirdraftError)
        close(found, rows_of(model, text, n))
    # The same caches in another order, rolled back to different depths.
    keeps = [5, 0, 33, 11]
    batch = [Part(cache, keep, [7, 8], 2) for cache, keep in zip(caches, keeps, strict=True)]
    for found, text, keep in zip(reversed(model.verify(batch[::-1])), texts, keeps, strict=True):
        assert not isinstance(found, AirdraftError)
        close(found, rows_of(model, [*text[:keep], 7, 8], 2))


def test_an_empty_batch(model: LlamaCppModel) -> None:
    assert model.verify([]) == []


def test_one_parts_mistake_is_no_others(model: LlamaCppModel) -> None:
    caches = [model.new_cache() for _ in range(3)]
    for cache in caches:
        model.forward(cache, 0, TEXT[:4], 0)
    first, wrong, last = model.verify([
        Part(caches[0], 4, TEXT[4:], 1), Part(caches[1], 4, [4096], 1), Part(caches[2], 2, [5], 1)
    ])  # fmt: skip
    close(first, rows_of(model, TEXT))
    close(last, rows_of(model, [*TEXT[:2], 5]))
    with pytest.raises(ModelError, match="outside 0 to 4095; use the tokenizer of target-f32"):
        raise wrong  # type: ignore[misc]
    close(model.forward(caches[1], 4, TEXT[4:], 1), rows_of(model, TEXT))


def test_more_tokens_than_one_decode_takes(folders: Path) -> None:
    model = LlamaCppModel(folders / "draft-f32", sequences=4)
    wanted = rows_of(model, [1] * 1000 + TEXT, 12)
    caches = [model.new_cache() for _ in range(3)]  # 3 036 tokens, where one llama_decode takes 2 048
    for found in model.verify([Part(cache, 0, [1] * 1000 + TEXT, 12) for cache in caches]):
        close(found, wanted)


def test_the_last_position_can_be_used_and_none_beyond(model: LlamaCppModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, [1] * 1023, 0)
    assert model.forward(cache, 1023, [2], 1).shape == (1, 4096)
    with pytest.raises(ModelError, match=r"1025 positions exceed the 1024 of target-f32; shorten"):
        model.forward(cache, 1024, [3], 1)


@pytest.mark.parametrize(
    ("keep", "tokens", "rows", "message"),
    [
        (5, [1], 1, "cannot keep 5 positions of a cache of 4; feed"),
        (4, [], 0, "at least one token; feed"),
        (4, [1, 2], 3, "2 tokens give 0 to 2 rows, not 3; ask"),
        (4, [-1, 2], 1, "outside 0 to 4095; use the tokenizer"),
    ],
)
def test_misuse_is_named_and_leaves_the_cache(
    model: LlamaCppModel, keep: int, tokens: list[int], rows: int, message: str
) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT[:4], 0)
    with pytest.raises(ModelError, match=message):
        model.forward(cache, keep, tokens, rows)
    close(model.forward(cache, 4, TEXT[4:], 1), rows_of(model, TEXT))


def test_the_rows_are_the_callers(model: LlamaCppModel) -> None:
    cache = model.new_cache()
    rows = model.forward(cache, 0, TEXT, 1)
    before = rows.copy()
    model.forward(cache, 0, [5], 1)  # which fills llama.cpp's own buffer anew
    np.testing.assert_array_equal(rows, before)


def test_threads_take_turns(model: LlamaCppModel) -> None:
    def write(first: int) -> FloatArray:
        cache = model.new_cache()
        for i in range(11):
            model.forward(cache, i, [first + i], 0)
        return model.forward(cache, 11, [first + 11], 1)

    starts = [10, 500, 900, 1300]
    with ThreadPoolExecutor(4) as pool:
        for rows, first in zip(pool.map(write, starts), starts, strict=True):
            close(rows, rows_of(model, [first + i for i in range(12)]))


def test_greedy_text_is_that_of_onnx_runtime(model: LlamaCppModel, target: OnnxModel, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("def fibonacci(n):\n")
    assert _greedy(model, prompt) == _greedy(target, prompt)


def _greedy(model: LanguageModel, prompt: list[int]) -> list[int]:
    cache, written = model.new_cache(), list[int]()
    row = model.forward(cache, 0, prompt, 1)[0]
    for _ in range(64):
        written.append(int(row.argmax()))
        row = model.forward(cache, len(prompt) + len(written) - 1, written[-1:], 1)[0]
    return written


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_llama_cpp_itself_writes_the_same_text(model: LlamaCppModel, folders: Path, tokenizer: Tokenizer) -> None:
    """The file is right for others too: their tokenizer, their loop, no code of ours but the writer."""
    from llama_cpp import Llama

    other = Llama(str(folders / "target-f32" / "model.gguf"), n_ctx=256, type_k=0, type_v=0, verbose=False)
    try:
        prompt = "def fibonacci(n):\n"
        ids = other.tokenize(prompt.encode())
        assert ids == tokenizer.encode(prompt)
        theirs = other.create_completion(prompt, max_tokens=64, temperature=0)["choices"][0]["text"]
    finally:
        other.close()
    assert theirs == tokenizer.decode(_greedy(model, ids))


def test_dropped_caches_give_back_sequence_and_positions(folders: Path) -> None:
    model = LlamaCppModel(folders / "draft-f32", sequences=2, positions=560)
    kept = model.new_cache()
    model.forward(kept, 0, TEXT, 0)
    for _ in range(10):
        cache = model.new_cache()
        model.forward(cache, 0, [1] * 280, 0)
        with pytest.raises(ModelError, match="all 2 caches in use; drop one, or load it with more"):
            model.new_cache()
        del cache
        gc.collect()
    close(model.forward(kept, len(TEXT), [5], 1), rows_of(model, [*TEXT, 5]))


def test_an_error_does_not_hold_on_to_its_cache(folders: Path) -> None:
    model = LlamaCppModel(folders / "draft-f32", sequences=1)
    gc.disable()  # it would undo what a circle of references does
    try:
        cache = model.new_cache()
        errors = model.verify([Part(cache, 9, [1], 1)])
        del cache
        cache = model.new_cache()
        assert isinstance(errors[0], ModelError)
        with contextlib.suppress(ModelError):
            model.forward(cache, 9, [1], 1)
        del cache
        model.new_cache()
    finally:
        gc.enable()


def test_full_memory_is_named_and_leaves_the_caches(folders: Path) -> None:
    model = LlamaCppModel(folders / "draft-f32", sequences=3, positions=300)
    assert model.max_context == 300
    caches = [model.new_cache() for _ in range(3)]
    model.forward(caches[0], 0, [1] * 150, 0)
    model.forward(caches[1], 0, TEXT, 0)  # a room of 150 as well
    fits, full, shrinks = model.verify([
        Part(caches[1], len(TEXT), [7], 1), Part(caches[2], 0, [1] * 88, 1), Part(caches[0], 100, [7], 1)
    ])  # fmt: skip
    with pytest.raises(
        ModelError, match="holds 300 positions, and 3 texts as long as the longest of them need 450; dr"
    ):
        raise full  # type: ignore[misc]
    close(fits, rows_of_fresh(folders, [*TEXT, 7]))
    close(shrinks, rows_of_fresh(folders, [1] * 100 + [7]))
    del caches[0], shrinks
    gc.collect()
    assert model.forward(caches[1], 0, [1] * 150, 1).shape == (1, 4096)  # caches[0] was the longest
    with pytest.raises(ModelError, match="holds 300 positions, and 2 texts as long as the longest of them need 302; d"):
        model.forward(caches[1], 150, [1], 1)


def test_rooms_grow_and_keep_what_they_hold(folders: Path) -> None:
    """To the bit: in number, in length, and past a sequence that was dropped between others."""
    model = LlamaCppModel(folders / "target-q8_0", sequences=5)
    texts = [np.random.default_rng(i).integers(0, 4096, 40 + i).tolist() for i in range(5)]
    alone = [model.forward(model.new_cache(), 0, [*text, 9, 8], 2) for text in texts]
    assert (model._rooms.count, model._rooms.length) == (2, 512)
    caches = [model.new_cache() for _ in texts]
    for cache, text in zip(caches, texts, strict=True):
        model.forward(cache, 0, text, 0)
    assert (model._rooms.count, model._rooms.length) == (5, 512)
    del caches[1], texts[1], alone[1]
    gc.collect()
    long = model.new_cache()
    model.forward(long, 0, [1] * 600, 0)
    assert (model._rooms.count, model._rooms.length) == (5, 1024)
    assert len({cache.seat.room for cache in (*caches, long)}) == 5
    for cache, text, rows in zip(caches, texts, alone, strict=True):
        np.testing.assert_array_equal(model.forward(cache, len(text), [9, 8], 2), rows)


def test_a_call_that_llama_cpp_breaks_off_empties_the_caches_of_its_batch(folders: Path) -> None:
    from llama_cpp import llama_cpp as api

    model = LlamaCppModel(folders / "draft-f32", sequences=2)
    cache, other = model.new_cache(), model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    model.forward(other, 0, TEXT, 0)
    stop = api.ggml_abort_callback(lambda _: True)
    api.llama_set_abort_callback(model._rooms.context, stop, None)
    with pytest.raises(ModelError, match=r"draft-f32 cannot run 1 tokens \(llama_decode: 2, .*empty now, feed"):
        model.forward(cache, 4, [7], 1)
    api.llama_set_abort_callback(model._rooms.context, api.ggml_abort_callback(), None)
    with pytest.raises(ModelError, match="cannot keep 5 positions of a cache of 0; feed the tokens again"):
        model.forward(cache, 5, [7], 1)
    close(model.forward(cache, 0, [*TEXT, 7], 1), rows_of_fresh(folders, [*TEXT, 7]))
    close(model.forward(other, len(TEXT), [7], 1), rows_of_fresh(folders, [*TEXT, 7]))


def rows_of_fresh(folders: Path, tokens: list[int]) -> FloatArray:
    return rows_of(LlamaCppModel(folders / "draft-f32", sequences=1), tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": 0}, "1 to 256 sequences, not 0; choose"),
        ({"sequences": 257}, "1 to 256 sequences, not 257; choose"),
        ({"positions": 0}, "1 to 2147483647 positions, not 0; choose"),
        ({"positions": 2**31}, "1 to 2147483647 positions, not 2147483648; choose"),
        ({"threads": 0}, "1 to 512 threads, not 0; choose"),
    ],
)
def test_sizes_out_of_range(options: dict[str, int], message: str, folders: Path) -> None:
    with pytest.raises(ModelError, match=message):
        LlamaCppModel(folders / "draft-f32", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "bytes_each", "apart"), [("f16", 2, 0.02), ("q8_0", 34 / 32, 0.5)])
def test_keys_and_values_in_fewer_bits(
    kind: str, bytes_each: float, apart: float, model: LlamaCppModel, folders: Path
) -> None:
    small = LlamaCppModel(folders / "target-f32", kv_type=kind)
    assert small.info.position_bytes == 2 * 4 * 4 * 64 * bytes_each
    assert small.info.digest != model.info.digest
    rows, wanted = rows_of(small, TEXT, len(TEXT)), rows_of(model, TEXT, len(TEXT))
    assert 0 < np.abs(rows - wanted).max() < apart
    # Rooms grow, and what they hold moves with them.
    cache, long = small.new_cache(), TEXT * 60
    for start in range(0, len(long), 60):
        row = small.forward(cache, start, long[start : start + 60], 1)
    np.testing.assert_allclose(row, rows_of(model, long), rtol=0, atol=2 * apart)


def test_a_trial_tells_what_quantised_keys_cost(folders: Path) -> None:
    plain, small = (load_target(str(folders / "target-f32"), engine="llamacpp", fit=Fit(kv_type=kind))[0].info
                    for kind in (None, "q8_0"))  # fmt: skip
    assert plain.exactness.width == 0
    assert small.exactness.width is not None
    assert small.digest != plain.digest


def test_a_context_in_rooms(folders: Path) -> None:
    file = folders / "target-f32"
    for context in (1, 300, 1024):
        found, _ = load_target(str(file), engine="llamacpp", fit=Fit(context=context))
        assert found.info.max_context in (context, context - 1)
        most = found.info.max_context
        assert len(rows_of(found, [1] * most)) == 1  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="exceed"):
            rows_of(found, [1] * (most + 1))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"a context of 1025 positions .* has up to 1024; give 1 to 1024"):
        LlamaCppModel(file, context=1025)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_type": "q3"}, r"keeps no keys and values in 'q3' here; choose one of f32, f16, q8_0"),
        ({"gpu_layers": 2}, r"2 layers are to run on a GPU, and this llama\.cpp was built without"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(options: dict[str, Any], message: str, folders: Path) -> None:
    if "gpu_layers" in options and llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp was built for a GPU")
    with pytest.raises(ModelError, match=message):
        LlamaCppModel(folders / "draft-f32", **options)
    assert LlamaCppModel(folders / "draft-f32", gpu_layers=0).info.vocab_size == 4096


def test_heads_that_are_no_whole_blocks(tmp_path: Path) -> None:
    from .ggufs import write_gemma2

    with pytest.raises(ModelError, match=r"has heads of 8 numbers, and q8_0 takes blocks of 32; keep .* in f16 or f32"):
        LlamaCppModel(write_gemma2(tmp_path / "model.gguf"), kv_type="q8_0")


def test_another_number_of_threads(folders: Path) -> None:
    model = LlamaCppModel(folders / "target-f32")
    rows = rows_of(model, TEXT, len(TEXT))
    model.use_threads(Threads(2))
    close(rows_of(model, TEXT, len(TEXT)), rows)
    caches = [model.new_cache() for _ in range(5)]  # another context
    for cache in caches:
        close(model.forward(cache, 0, TEXT, len(TEXT)), rows)
    assert model.info.threads == Threads(2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to a limit of its memory")
def test_more_positions_than_memory(folders: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from airdraft.errors import ModelError\n"
        "from airdraft.models.engines.llamacpp import LlamaCppModel\n"
        "model = LlamaCppModel(Path(sys.argv[1]), sequences=200, threads=1)\n"  # each thread takes memory
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)\n"
        "caches = [model.new_cache() for _ in range(200)]\n"
        "try:\n"
        "    for cache in caches: model.forward(cache, 0, [1] * 1000, 0)\n"  # 4 GB of keys and values
        "except ModelError as error: print(error)\n"
        "model.forward(caches[0], 1000, [1], 1)\n"  # and all is as it was
    )
    said = _python(code, str(folders / "target-f32"))
    assert re.fullmatch(
        r"llama\.cpp has no memory for \d+ texts of 1024 positions \(.+\); load the model with f.*\n", said
    )


def _python(code: str, *words: str) -> str:
    """Standard output of a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout


def test_a_file_or_its_folder(folders: Path, tmp_path: Path) -> None:
    file = folders / "draft-f32" / "model.gguf"
    assert gguf_file(file) == gguf_file(file.parent) == file
    assert LlamaCppModel(file).name == "model"
    assert LlamaCppModel(file, name="mine").name == "mine"
    with pytest.raises(ModelError, match=r"has no \.gguf file; fetch one, or write it with `airdraft gguf`"):
        LlamaCppModel(tmp_path)
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf"):
        (tmp_path / name).touch()
    assert gguf_file(tmp_path).name == "a-00001-of-00002.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ModelError, match=r"has a-00001-of-00002\.gguf, b\.gguf; name the file you mean"):
        gguf_file(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 1000, 300_000, 6_000_000])
def test_a_broken_file(size: int, folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes((folders / "draft-f32" / "model.gguf").read_bytes()[:size])
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be loaded \(.+\); fetch or write it again") as raised:
        LlamaCppModel(file)
    assert "\n" not in str(raised.value)


def test_it_is_silent(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows_of(LlamaCppModel(folders / "draft-f32"), TEXT)
    assert capfd.readouterr() == ("", "")


def test_models_with_recurrent_layers_are_refused(tmp_path: Path) -> None:
    from .ggufs import write_lfm2, write_mamba

    for family, write in (("mamba", write_mamba), ("lfm2", write_lfm2)):
        with pytest.raises(ModelError, match=f"is a {family} model and its recurrent state cannot be rolled back; ch"):
            LlamaCppModel(write(tmp_path / "model.gguf"))


def test_a_model_with_a_sliding_window_rolls_back_further_than_its_window(tmp_path: Path) -> None:
    from .ggufs import TOKENS, WINDOW, write_gemma2

    model = LlamaCppModel(write_gemma2(tmp_path / "model.gguf"), sequences=2)
    assert (model.vocab_size, model.max_context, model.eos_ids) == (TOKENS, 2048, ())
    tokens = np.random.default_rng(1).integers(0, TOKENS, 1800).tolist()
    keep = 3 * WINDOW
    cache = model.new_cache()
    rows = model.forward(cache, 0, tokens, len(tokens))
    model.forward(cache, keep, [5], 1)
    close(model.forward(cache, keep, tokens[keep : keep + 9], 9), rows[keep : keep + 9])


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (("llama.attention.causal", False), "is a llama model and it is not causal; choose"),
        (("llama.pooling_type", 1), "is a llama model and it makes embeddings; choose"),
    ],
)
def test_models_that_write_no_text_are_refused(
    fact: tuple[str, Any], message: str, folders: Path, tmp_path: Path
) -> None:
    """The draft once more, with a metadatum that says what it is not."""
    from .ggufs import save

    reader = gguf.GGUFReader(folders / "draft-f32" / "model.gguf")
    writer = gguf.GGUFWriter(None, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    name, value = fact
    writer.add_bool(name, value) if isinstance(value, bool) else writer.add_uint32(name, value)
    with pytest.raises(ModelError, match=message):
        LlamaCppModel(save(writer, tmp_path / "other.gguf"))


def test_without_the_extra_the_module_imports_and_says_what_to_install(folders: Path) -> None:
    code = (
        "import sys; sys.modules['llama_cpp'] = None\n"
        "from pathlib import Path\n"
        "from airdraft.errors import ModelError\n"
        "from airdraft.models.engines.llamacpp import LlamaCppModel\n"
        "try: LlamaCppModel(Path(sys.argv[1]))\n"
        "except ModelError as error: print(error)\n"
    )
    said = _python(code, str(folders / "draft-f32"))
    assert said == "the llamacpp engine needs llama-cpp-python; install airdraft[llamacpp]\n"


def test_a_model_is_freed_when_it_is_dropped(folders: Path, tmp_path: Path) -> None:
    """A loaded file is mapped into memory, which shows whether it is still open."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("the system does not show what is mapped")
    file = Path(shutil.copyfile(folders / "draft-f32" / "model.gguf", tmp_path / "dropped.gguf"))
    model = LlamaCppModel(file)
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    assert "dropped.gguf" in maps.read_text()
    del model
    gc.collect()
    assert "dropped.gguf" not in maps.read_text()
    del cache  # whose model is gone already

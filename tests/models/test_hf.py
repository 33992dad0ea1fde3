"""The hf engine over small random checkpoints of several families: rows as of the whole text at once, in any order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.base import FloatArray, LanguageModel, Part, TargetEngine
from airdraft.models.engines.hf import HfModel
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.config import read_config
from airdraft.models.files.folder import shipped
from airdraft.models.sharing import Sharing

from ..suites import examples

torch = pytest.importorskip("torch", reason="the hf engine takes airdraft[hf]")

pytestmark = pytest.mark.usefixtures("one_thread")
transformers = pytest.importorskip("transformers", reason="the hf engine takes airdraft[hf]")

SPLICED = {"llama", "qwen3", "gpt2"}
"""Families whose texts can share a beginning."""
TOLERANCE = 1e-4
"""Between rows of forwards of different widths: rounding, 1e-5 at most. Logits here spread over several units."""
TEXT = [int(token) for token in np.random.default_rng(0).integers(0, 97, 24)]

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
PLAIN = SIZES | HEADS | {"initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": PLAIN | {"tie_word_embeddings": True},
    "qwen3": PLAIN | {"tie_word_embeddings": False},
    "mistral": PLAIN | {"sliding_window": 8},
    "gemma2": PLAIN | SLIDING | {"query_pre_attn_scalar": 8},
    "gemma3_text": PLAIN | SLIDING | {"query_pre_attn_scalar": 8},
    # The last two layers look into the caches of the first two.
    "gemma3n_text": PLAIN | SLIDING | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "laurel_rank": 4,
                                       "layer_types": ["sliding_attention", "full_attention"] * 2,
                                       "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8,
                                       "activation_sparsity_pattern": [0.0] * 4},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.3,
             "bos_token_id": 0, "eos_token_id": 2},
    # Positions by a bias on distance, and none as an input.
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 3, "n_head": 4, "max_position_embeddings": 64,
              "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0},
    # Its stacks run over the text again and again, each time with keys and values of their own; rounding grows with
    # every time, and by far the most where weights are as large as those above (in fp64 it is 1e-15 with any).
    "hrm_text": PLAIN | {"initializer_range": 0.15},
}  # fmt: skip


def write(folder: Path, family: str, **changes: Any) -> Path:
    """A random checkpoint of that family."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **(FAMILIES.get(family, PLAIN) | changes))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def opened(folder: Path, **options: Any) -> HfModel:
    return HfModel(folder, device="cpu", **options)


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("hf") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> HfModel:
    return opened(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return opened(write(tmp_path_factory.mktemp("hf") / "llama", "llama"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Callable[[list[int]], FloatArray]:
    """The rows of a text as transformers itself has them, without a cache."""
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def rows(tokens: list[int]) -> FloatArray:
        with torch.inference_mode():
            found: FloatArray = oracle(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
        return found

    return rows


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_facts(model: HfModel, folder: Path) -> None:
    config = read_config(folder)
    assert model.name == folder.name
    assert (model.vocab_size, model.max_context, model.eos_ids) == (97, 64, (2,))
    assert (model.vocab_size, model.max_context, model.eos_ids) == (
        config.vocab_size,
        config.max_context,
        config.eos_ids,
    )


def test_it_is_a_language_model_and_a_target_engine(llama: HfModel) -> None:
    model: LanguageModel = llama
    rows = model.forward(model.new_cache(), 0, TEXT, 3)
    assert (rows.shape, rows.dtype) == ((3, 97), np.float32)
    engine: TargetEngine = llama
    info = engine.info
    assert (info.top_k, info.max_rollback, info.max_calls, info.max_caches) == (None, None, 1, None)
    assert info.max_batch > 1
    assert info.position_bytes == 2 * 3 * 2 * 8 * 4


def test_rows_depend_on_what_came_before(whole: Callable[[list[int]], FloatArray]) -> None:
    """Else no other test here could fail."""
    changed = [*TEXT[:-7], (TEXT[-7] + 1) % 97, *TEXT[-6:]]
    assert np.abs(whole(TEXT)[-1] - whole(changed)[-1]).max() > 100 * TOLERANCE


def test_rows_are_those_of_the_whole_text(model: HfModel, whole: Callable[[list[int]], FloatArray]) -> None:
    cache = model.new_cache()
    fed = [model.forward(cache, 0, TEXT[:6], 6), *(model.forward(cache, i, [TEXT[i]], 1) for i in range(6, 18))]
    fed += [model.forward(cache, 18, TEXT[18:], 6)]
    close(np.concatenate(fed), whole(TEXT))


@pytest.mark.parametrize("rows", [0, 1, 7, len(TEXT)])
def test_rows_are_the_last_ones(model: HfModel, whole: Callable[[list[int]], FloatArray], rows: int) -> None:
    found = model.forward(model.new_cache(), 0, TEXT, rows)
    assert found.shape == (rows, 97)
    close(found, whole(TEXT)[len(TEXT) - rows :])


def test_a_cache_rolls_back_to_any_depth(model: HfModel, whole: Callable[[list[int]], FloatArray]) -> None:
    cache = model.new_cache()
    for keep in range(len(TEXT) + 1):
        model.forward(cache, 0, TEXT, 0)
        close(model.forward(cache, keep, [8, 9, 10], 3), whole([*TEXT[:keep], 8, 9, 10])[keep:])


def test_rolled_back_and_fed_again_the_rows_are_equal_to_the_bit(model: HfModel) -> None:
    cache = model.new_cache()
    model.forward(cache, 0, TEXT, 0)
    once = model.forward(cache, 11, [8, 9, 10], 3)
    model.forward(cache, 11, [96] * 20, 0)
    np.testing.assert_array_equal(model.forward(cache, 11, [8, 9, 10], 3), once)


def test_interleaved_caches_do_not_disturb_each_other(model: HfModel, whole: Callable[[list[int]], FloatArray]) -> None:
    one, two = model.new_cache(), model.new_cache()
    for i in range(12):
        close(model.forward(one, i, [TEXT[i]], 1), whole(TEXT[: i + 1])[-1:])
        close(model.forward(two, max(0, i - 1), [7, 8], 1), whole([*[7] * i, 8] if i else [7, 8])[-1:])


def test_a_batch_has_the_rows_of_each_alone(model: HfModel, whole: Callable[[list[int]], FloatArray]) -> None:
    held = [0, 3, 12, 20, 12]
    caches = [model.new_cache() for _ in held]
    for cache, n in zip(caches, held, strict=True):
        if n:
            model.forward(cache, 0, [*TEXT[:n], 9], 0)  # one to roll back
    tokens = [[1, 2, 3], [4], TEXT[4:20], [5, 6], [*TEXT, *TEXT[:12]]]  # the last one runs alone
    rows = [3, 1, 4, 0, 2]
    parts = [Part(*each) for each in zip(caches, held, tokens, rows, strict=True)]
    for found, part in zip(model.verify(parts), parts, strict=True):
        assert isinstance(found, np.ndarray)
        assert found.shape == (part.rows, 97)
        text = [*TEXT[: part.keep], *part.tokens]
        close(found, whole(text)[len(text) - part.rows :])
        after = model.forward(part.cache, len(text), [11], 1)  # the cache was left as long as the sequence
        close(after, whole([*text, 11])[-1:])


@examples(15)
@given(
    calls=st.lists(
        st.lists(
            st.tuples(st.integers(0, 63), st.lists(st.integers(0, 96), min_size=1, max_size=5)), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_history_of_batches(llama: HfModel, calls: list[list[tuple[int, list[int]]]]) -> None:
    caches, held = [llama.new_cache() for _ in range(4)], [list[int]() for _ in range(4)]
    for call in calls:
        parts = []
        for which, (depth, tokens) in enumerate(call):
            keep = depth % (len(held[which]) + 1)
            held[which] = held[which][:keep] + tokens
            parts.append(Part(caches[which], keep, tokens, len(tokens)))
        for which, found in enumerate(llama.verify(parts)):
            close(found, llama.forward(llama.new_cache(), 0, held[which], len(parts[which].tokens)))


def test_an_empty_batch(llama: HfModel) -> None:
    assert llama.verify([]) == []


def test_more_parts_than_max_batch(llama: HfModel) -> None:
    parts = [Part(llama.new_cache(), 0, [i % 97], 1) for i in range(llama.info.max_batch + 3)]
    alone = [llama.forward(llama.new_cache(), 0, part.tokens, 1) for part in parts]
    close(llama.verify(parts), alone)


def test_one_part_s_error_is_no_other_s(llama: HfModel) -> None:
    caches = [llama.new_cache() for _ in range(3)]
    parts = [Part(caches[0], 0, [1, 2], 1), Part(caches[1], 5, [1], 1), Part(caches[2], 0, [3], 1)]
    first, second, third = llama.verify(parts)
    assert isinstance(second, ModelError)
    assert "cannot keep 5 positions of a cache of 0" in str(second)
    close(first, llama.forward(llama.new_cache(), 0, [1, 2], 1))
    close(third, llama.forward(llama.new_cache(), 0, [3], 1))
    assert [cache.length for cache in caches] == [2, 0, 1]


def test_a_forward_that_fails_in_a_batch_fails_alone(tmp_path: Path) -> None:
    # GPT-2 has a table of positions: beyond it its forward raises.
    folder = write(tmp_path, "gpt2")
    model = opened(folder)
    model.info = replace(model.info, max_context=99)
    late, early = model.new_cache(), model.new_cache()
    text = [*TEXT, *TEXT, *TEXT[:16]]
    model.forward(late, 0, text, 0)
    model.forward(early, 0, TEXT[:4], 0)
    bad, good = model.verify([Part(late, 64, [1], 1), Part(early, 3, [1, 2], 1)])
    assert isinstance(bad, ModelError)
    assert "cannot run 1 tokens after 64" in str(bad)
    assert "\n" not in str(bad)
    close(good, model.forward(model.new_cache(), 0, [*TEXT[:3], 1, 2], 1))
    assert late.length == 64
    close(model.forward(late, 63, text[63:], 1), model.forward(model.new_cache(), 0, text, 1))


def test_the_rows_are_the_callers(llama: HfModel) -> None:
    cache = llama.new_cache()
    rows = llama.forward(cache, 0, TEXT, 1)
    before = rows.copy()
    rows += 1  # samplers work in place
    close(llama.forward(cache, len(TEXT) - 1, TEXT[-1:], 1), before)


@pytest.mark.parametrize(
    ("keep", "tokens", "rows", "message"),
    [
        (5, [1], 1, "cannot keep 5 positions of a cache of 4; feed"),
        (4, [], 0, "at least one token; feed"),
        (4, [1, 2], 3, "2 tokens give 0 to 2 rows, not 3; ask"),
        (4, [1, 97], 1, "outside 0 to 96; use the tokenizer of llama"),
        (4, [1] * 61, 1, "65 positions exceed the 64 of llama; shorten"),
    ],
)
def test_misuse_is_named_and_leaves_the_cache(
    llama: HfModel, keep: int, tokens: list[int], rows: int, message: str
) -> None:
    cache = llama.new_cache()
    llama.forward(cache, 0, TEXT[:4], 0)
    with pytest.raises(ModelError, match=message):
        llama.forward(cache, keep, tokens, rows)
    close(llama.forward(cache, 4, TEXT[4:], 1), llama.forward(llama.new_cache(), 0, TEXT, 1))


@pytest.mark.parametrize("which", ["target", "draft"])
def test_the_shipped_pair_agrees_with_its_onnx_export(which: Any, request: pytest.FixtureRequest) -> None:
    onnx: OnnxModel = request.getfixturevalue(which)
    model = opened(shipped(which))
    assert (model.name, model.vocab_size, model.max_context, model.eos_ids) == (which, 4096, 1024, (0,))
    text = [int(token) for token in np.random.default_rng(1).integers(0, 4096, 200)]
    cache = model.new_cache()
    found = [model.forward(cache, 0, text[:150], 150), model.forward(cache, 150, text[150:], 50)]
    close(np.concatenate(found), onnx.forward(onnx.new_cache(), 0, text, 200))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", TOLERANCE), ("bfloat16", 1.0)])
def test_dtypes(llama: HfModel, tmp_path: Path, dtype: str, tolerance: float) -> None:
    model = opened(write(tmp_path, "llama"), dtype=dtype, name="mine")
    assert model.name == "mine"
    rows = model.forward(model.new_cache(), 0, TEXT, 5)
    assert rows.dtype == np.float32
    off = np.abs(rows - llama.forward(llama.new_cache(), 0, TEXT, 5)).max()
    assert off < tolerance
    assert (off > 0) == (dtype == "bfloat16")


def test_a_checkpoint_of_16_bits_runs_in_fp32_on_the_cpu(llama: HfModel, tmp_path: Path) -> None:
    oracle = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "a", "llama"), dtype=torch.bfloat16)
    oracle.save_pretrained(tmp_path / "b")
    model = opened(tmp_path / "b")
    cache = model.new_cache()
    alone = [model.forward(cache, i, [token], 1)[0] for i, token in enumerate(TEXT)]
    close(alone, model.forward(model.new_cache(), 0, TEXT, len(TEXT)))


def test_a_context_that_the_model_or_the_memory_does_not_have(tmp_path: Path) -> None:
    folder = write(tmp_path, "llama")
    most = opened(folder).max_context
    assert opened(folder, context=most).max_context == most
    with pytest.raises(ModelError, match=rf"a context of {most + 1} positions .* has up to {most}; give 1 to {most}"):
        opened(folder, context=most + 1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**9}))
    with pytest.raises(ModelError, match=r"takes \d+\.\d GB with the weights .* this machine has"):
        opened(folder, context=10**9)


def test_threads_of_the_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        opened(write(tmp_path, "llama"), threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_angles_that_change_with_the_length_end_the_context_before(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, **factors}
    assert opened(write(tmp_path, "llama", rope_parameters=rope)).max_context == 16


def test_end_tokens_of_the_generation_config(tmp_path: Path) -> None:
    write(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 9]}))
    assert opened(tmp_path).eos_ids == read_config(tmp_path).eos_ids == (2, 9)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as raised:
        HfModel(folder, **({"device": "cpu"} | options))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mamba", {"state_size": 4, "num_hidden_layers": 2}),
        ("rwkv", {}),
        ("jamba", {}),
        ("qwen3_next", {}),
        ("lfm2", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}),
    ],
)
def test_what_cannot_be_rolled_back_is_refused_before_its_weights_are_read(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    transformers.AutoConfig.for_model(family, **changes).save_pretrained(tmp_path)
    assert f"is a {family}, whose layers keep a state that cannot be rolled back; take" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("family", "message"),
    [("bart", "is a bart, an encoder with a decoder; take"), ("vit", "is a vit, which is no causal language model")],
)
def test_what_is_no_decoder(tmp_path: Path, family: str, message: str) -> None:
    transformers.AutoConfig.for_model(family).save_pretrained(tmp_path)
    assert message in refusal(tmp_path)


def test_an_encoder_that_could_have_been_a_decoder(tmp_path: Path) -> None:
    sizes = SIZES | {"num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.3}
    assert "is a bert that looks at later tokens; take" in refusal(write(tmp_path, "bert", **sizes))


def test_a_model_whose_forward_takes_no_cache(tmp_path: Path) -> None:
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    assert "is a openai-gpt, which keeps no keys and values; take" in refusal(write(tmp_path, "openai-gpt", **sizes))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The draft in a folder that the test may damage."""
    return Path(shutil.copytree(shipped("draft"), tmp_path / "copy"))


def test_no_config(tmp_path: Path) -> None:
    assert "config.json is no file" in refusal(tmp_path)


def test_an_unknown_model_type(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "llama9"}))
    assert "is of model_type 'llama9', unknown to transformers" in refusal(copy)


def test_a_config_of_other_sizes(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"hidden_size": 100}))
    assert "fetch it again" in refusal(copy)


def test_a_config_that_is_none(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": "many"}))
    assert "config.json is no llama (" in refusal(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "has no weights (model.safetensors, say); fetch them" in refusal(copy)


def test_broken_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded (" in refusal(copy)


def test_weights_of_a_smaller_model(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    layers = config["num_hidden_layers"] + 1
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    assert f"tensors, model.layers.{layers - 1}." in refusal(copy)


def test_options_that_do_not_exist(copy: Path) -> None:
    assert "no dtype 'int3'; choose one of float32, bfloat16, float16" in refusal(copy, dtype="int3")
    assert "PyTorch has no device 'abacus' here (" in refusal(copy, device="abacus")


def test_loading_says_nothing(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened(copy).forward(opened(copy).new_cache(), 0, TEXT, 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_a_family_are_spliced_or_it_is_refused(family: str, tmp_path: Path) -> None:
    """Layers that slide, biases on distance: what lies in a beginning would be weighed as if it stood elsewhere."""
    context = {"n_positions": 400} if family == "gpt2" else {"max_position_embeddings": 400}
    folder = write(tmp_path, family, **context)
    if family not in SPLICED:
        with pytest.raises(ModelError, match=r"cannot be spliced; leave --splice out"):
            Sharing(opened(folder, splice=True))
        return
    engine = Sharing(opened(folder, splice=True))
    text, source = [at * 31 % 97 for at in range(330)], engine.new_cache()
    engine.forward(source, 0, text, 0)
    copies = [engine.copy(source, 300), engine.copy(source, 310)]
    assert {cache.start for cache in copies} == {256}
    rows = engine.verify([Part(cache, cache.length, text[cache.length :], 5) for cache in copies])
    plain = opened(folder)
    expected = plain.forward(plain.new_cache(), 0, text, 5)
    for found in rows:
        close(found, expected)

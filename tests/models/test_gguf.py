"""Writing GGUF: what stands in the file, that others read it so, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airdraft.errors import ModelError
from airdraft.models.files.folder import shipped
from airdraft.models.gguf import write_gguf
from airdraft.models.text import Tokenizer

from ..pairs import copied

gguf = pytest.importorskip("gguf", reason="needs the extra llamacpp")
pytest.importorskip("safetensors", reason="needs the extra llamacpp")

TEXTS = [
    "",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "I'll say it's 12345 things, WE'RE sure:\r\n\r\n\t tabs   and   spaces  \n\n\n   end ",
    "Grüße, 世界! Ω≈ç√∫ 🙂👍🏽 — “quotes” … ",
    "<|endoftext|> spelt out, and <|endof text|> not",
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The draft in a folder that the test may damage."""
    return copied("draft", tmp_path / "copy")


def change(path: Path, **changes: Any) -> None:
    """Sets keys of the JSON object in `path`; None deletes one."""
    content = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), "utf-8")


@pytest.mark.parametrize("which", ["target", "draft"])
def test_the_facts_of_the_shipped_pair(which: Any, tmp_path: Path) -> None:
    write_gguf(shipped(which), tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    config = json.loads((shipped(which) / "config.json").read_text("utf-8"))
    facts = {
        "general.architecture": "llama", "llama.context_length": 1024, "llama.vocab_size": 4096,
        "llama.block_count": config["num_hidden_layers"], "llama.attention.head_count": 4,
        "llama.attention.key_length": config["head_dim"], "llama.feed_forward_length": config["intermediate_size"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip
    assert {name: reader.fields[name].contents() for name in facts} == facts
    assert len(reader.tensors) == 3 + 9 * config["num_hidden_layers"]
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}


@pytest.mark.parametrize(("weights", "error"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 1e-2)])
def test_weights_are_stored_as_asked(weights: Any, error: float, tmp_path: Path) -> None:
    import safetensors.numpy

    write_gguf(shipped("draft"), tmp_path / "model.gguf", weights)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert tensors["output_norm.weight"].tensor_type.name == "F32"
    down = tensors["blk.1.ffn_down.weight"]
    assert down.tensor_type.name == weights.upper()
    wanted = safetensors.numpy.load_file(shipped("draft") / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    found = gguf.dequantize(down.data, down.tensor_type).astype(np.float32).reshape(wanted.shape)
    assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()


@pytest.mark.parametrize("text", TEXTS)
def test_llama_cpp_cuts_a_text_as_the_tokenizer_does(text: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    from llama_cpp import Llama

    write_gguf(shipped("target"), tmp_path / "model.gguf")
    other = Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    try:
        ids = other.tokenize(text.encode(), special=True)
        assert ids == Tokenizer(shipped("target")).encode(text)
        assert other.detokenize(ids, special=True).decode() == f"<|endoftext|>{text}"
    finally:
        other.close()


def test_grouped_heads_and_a_tied_head(copy: Path) -> None:
    """Four query heads over two of keys, and no output matrix: each is there under its own count of heads."""
    import safetensors.numpy

    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for layer in range(2):
        for part in "kv":
            name = f"model.layers.{layer}.self_attn.{part}_proj.weight"
            tensors[name] = np.ascontiguousarray(tensors[name][:64])
    safetensors.numpy.save_file(tensors, path)
    change(copy / "config.json", num_key_value_heads=2, tie_word_embeddings=True)
    write_gguf(copy, copy / "model.gguf")
    reader = gguf.GGUFReader(copy / "model.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    assert "output.weight" not in found
    keys = tensors["model.layers.0.self_attn.k_proj.weight"]
    # Rotary pairs side by side, head by head: of 32 coordinates, i and i + 16 become 2i and 2i + 1.
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"][0:4], keys[[0, 16, 1, 17]])
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"][32:36], keys[[32, 48, 33, 49]])
    np.testing.assert_array_equal(found["blk.0.attn_v.weight"], tensors["model.layers.0.self_attn.v_proj.weight"])


def test_padded_rows_are_unused_tokens(copy: Path) -> None:
    import safetensors.numpy

    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = np.pad(tensors[name], ((0, 32), (0, 0)))
    safetensors.numpy.save_file(tensors, path)
    change(copy / "config.json", vocab_size=4128)
    write_gguf(copy, copy / "model.gguf")
    fields = gguf.GGUFReader(copy / "model.gguf").fields
    assert len(fields["tokenizer.ggml.tokens"].contents()) == 4128
    assert fields["tokenizer.ggml.token_type"].contents() == [3, *[1] * 4095, *[5] * 32]


def test_several_ends_of_text(copy: Path) -> None:
    change(copy / "generation_config.json", eos_token_id=[0, 7, 9])
    write_gguf(copy, copy / "model.gguf")
    fields = gguf.GGUFReader(copy / "model.gguf").fields
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot", "eom")] == [0, 7, 9]
    change(copy / "generation_config.json", eos_token_id=[0, 7, 9, 11])
    with pytest.raises(ModelError, match="4 tokens that end a text, and GGUF knows 3; convert"):
        write_gguf(copy, copy / "model.gguf")


def test_what_makes_a_folder_a_model_is_copied_beside(tmp_path: Path) -> None:
    out = tmp_path / "new" / "place" / "model.gguf"
    write_gguf(shipped("draft"), out)
    assert Tokenizer(out.parent).digest == Tokenizer(shipped("draft")).digest
    own = {file.name for file in shipped("draft").iterdir() if file.suffix == ".json"} | {
        "model.gguf",
        "tokenizer.json",
    }
    assert {file.name for file in out.parent.iterdir()} == own
    write_gguf(shipped("draft"), out, "q8_0")  # again, over the old
    with pytest.raises(ModelError, match=r"place holds another model's config\.json; choose a folder of its own"):
        write_gguf(shipped("target"), out)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type = 'mamba', which this writer does not know; convert"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"rope_scaling": {"rope_type": "llama3"}}, r"config\.json does not say factor; add it"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "a rope of type 'yarn', which this writer does not know; con",
        ),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "a rope of type 'dynamic'"),
        ({"rope_parameters": {"rope_type": ["llama3"]}}, r"a rope of type \['llama3'\]"),
        ({"rope_parameters": "none"}, "says rope_parameters = 'none'; it must be an object"),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor' = 0.5 in a rope",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e5}, "rope_theta": 1e4},
            "two values of rope_theta, which differ; keep one",
        ),
        ({"rope_parameters": {"rope_theta": 0}}, "says rope_theta = 0; it must be a number above 0"),
        (
            {"rope_parameters": {"rope_theta": 1e5}, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "which differ; keep",
        ),
        ({"attention_bias": True}, r"lacks model\.layers\.0\.self_attn\.q_proj\.bias, which its config wants"),
        ({"mlp_bias": True}, r"lacks model\.layers\.0\.mlp\.gate_proj\.bias, which its config wants"),
        ({"mlp_bias": "yes"}, "says mlp_bias = 'yes'; it must be true or false"),
        ({"tie_word_embeddings": 1}, "says tie_word_embeddings = 1; it must be true or false"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "has architectures = "),
        ({"quantization_config": {"bits": 4}}, "quant_method = None of its codes, and read here are awq, gptq"),
        ({"residual_multiplier": 0.5}, "has 'residual_multiplier' = 0.5, which this writer does not know"),
        ({"rope_interleaved": True}, "has rope_interleaved = True"),
        ({"num_key_value_heads": 3}, "has 4 heads of 32 over 3, which no Llama has; mend that"),
        ({"hidden_size": 64}, r"of shape \(4096, 128\), and its config wants \(4096, 64\)"),
        ({"num_hidden_layers": 3}, r"lacks model\.layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"has 'model\.layers\.1\..*', which is no part of such a model"),
        ({"rms_norm_eps": float("nan")}, "says rms_norm_eps = nan; it must be a number above 0"),
        ({"rms_norm_eps": None}, r"config\.json does not say rms_norm_eps; add it"),
    ],
)
def test_models_it_does_not_know(changes: dict[str, Any], message: str, copy: Path) -> None:
    change(copy / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        write_gguf(copy, copy / "model.gguf")
    assert not (copy / "model.gguf").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"model": {"type": "Unigram", "vocab": []}},
    ],
)
def test_tokenizers_it_does_not_know(changes: dict[str, Any], copy: Path) -> None:
    change(copy / "tokenizer.json", **changes)
    with pytest.raises(ModelError, match=r"tokenizer\.json is no byte-level BPE with a pre-tokenizer known here"):
        write_gguf(copy, copy / "model.gguf")


def test_a_tokenizer_of_gpt_2s_kind(copy: Path) -> None:
    path = copy / "tokenizer.json"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {**json.loads(path.read_text("utf-8"))["model"], "ignore_merges": False}
    change(path, pre_tokenizer=level, post_processor=None, model=model)
    write_gguf(copy, copy / "model.gguf")
    fields = gguf.GGUFReader(copy / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    other = llama_cpp.Llama(str(copy / "model.gguf"), vocab_only=True, verbose=False)
    try:
        for text in TEXTS[1:]:
            assert other.tokenize(text.encode(), add_bos=False, special=True) == Tokenizer(copy).encode(text)
    finally:
        other.close()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_and_broken_files(name: str, copy: Path) -> None:
    (copy / name).write_bytes(b"\x00\x01")
    with pytest.raises(ModelError, match=f"{name}.* cannot be read") as raised:
        write_gguf(copy, copy / "model.gguf")
    assert "\n" not in str(raised.value)
    (copy / name).unlink()
    with pytest.raises(ModelError, match=name):
        write_gguf(copy, copy / "model.gguf")


def test_a_tensor_of_another_kind_of_model(copy: Path) -> None:
    import safetensors.numpy

    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": np.zeros(128, np.float32)}, path)
    with pytest.raises(ModelError, match=r"has 'model\.layers\.0\.self_attn\.q_proj\.bias', which is no part"):
        write_gguf(copy, copy / "model.gguf")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"model\.gguf cannot be written \(.*\); choose another place"):
        write_gguf(shipped("draft"), tmp_path / "file" / "model.gguf")


def test_no_such_weight_type(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weight type 'q2'; there are f32, f16, q8_0"):
        write_gguf(shipped("draft"), tmp_path / "model.gguf", "q2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "message"),
    [(7, "says chat_template = 7"), ([{"name": "a"}], "it must be a text, or texts by name"), ([1], "by name")],
)
def test_chat_templates_that_are_none(found: Any, message: str, copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": found}))
    with pytest.raises(ModelError, match=message):
        write_gguf(copy, copy / "model.gguf")


def test_chat_templates_are_written_and_copied(copy: Path, tmp_path: Path) -> None:
    from airdraft.api.template import ChatTemplate

    said = {"bos_token": "<|endoftext|>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"}
    (copy / "tokenizer_config.json").write_text(json.dumps(said))
    (copy / "special_tokens_map.json").write_text("{}")
    write_gguf(copy, tmp_path / "one" / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "one" / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == said["chat_template"]
    template = ChatTemplate.of(tmp_path / "one" / "model.gguf")
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}], {}) == "<|endoftext|>hi"
    # A file of its own goes before, and several by name are all there.
    (copy / "chat_template.jinja").write_text("alone")
    write_gguf(copy, tmp_path / "two" / "model.gguf")
    assert gguf.GGUFReader(tmp_path / "two" / "model.gguf").fields["tokenizer.chat_template"].contents() == "alone"
    assert (tmp_path / "two" / "chat_template.jinja").read_text() == "alone"
    (copy / "chat_template.jinja").unlink()
    several = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    write_gguf(copy, tmp_path / "three" / "model.gguf")
    fields = gguf.GGUFReader(tmp_path / "three" / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == "plain"
    assert fields["tokenizer.chat_template.tool_use"].contents() == "tools"


def test_a_file_that_only_another_model_has_is_not_taken_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("another's")
    with pytest.raises(ModelError, match=r"holds another model's chat_template\.jinja; choose a folder of its own"):
        write_gguf(shipped("draft"), tmp_path / "model.gguf")


def test_no_end_of_text(copy: Path) -> None:
    change(copy / "generation_config.json", eos_token_id=None)
    change(copy / "config.json", eos_token_id=None)
    with pytest.raises(ModelError, match="no token that ends a text, and GGUF takes 11 then; add eos_token_id"):
        write_gguf(copy, copy / "model.gguf")


@pytest.mark.parametrize(("value", "weights", "message"), [
    (1e6, "f16", "has numbers beyond f16; choose f32"), (np.nan, "f32", "in F32 with numbers that are none"),
    (np.inf, "q8_0", "with numbers that are none"),
])  # fmt: skip
def test_numbers_that_cannot_be_stored(value: float, weights: Any, message: str, copy: Path) -> None:
    import safetensors.numpy

    path = copy / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["lm_head.weight"][3, 5] = value
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ModelError, match=message):
        write_gguf(copy, copy / "model.gguf", weights)


def test_a_file_that_is_there_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(ModelError, match=r"model\.gguf cannot be written \(No space left"):
        write_gguf(shipped("draft"), tmp_path / "model.gguf")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]

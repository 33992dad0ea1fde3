"""Which files of a repository are meant, by their names alone."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.files.variants import CHECKPOINT, GGUF, ONNX, Variant, pick, quant_of, quantised, stem_of

ALL = {ONNX: "", GGUF: "", CHECKPOINT: ""}
GGUFS = [
    "README.md", "M-1B-Q4_0.gguf", "M-1B-Q4_0_4_4.gguf", "M-1B-Q4_K_M.gguf", "M-1B-Q4_K_S.gguf", "M-1B-IQ4_XS.gguf",
    "M-1B-UD-Q5_K_XL.gguf", "M-1B-F16.gguf", "mmproj-M-F16.gguf", "M-1B-Q8_0-00001-of-00002.gguf",
    "M-1B-Q8_0-00002-of-00002.gguf", "old/M-1B-Q6_K.gguf", "new/M-1B-Q6_K.gguf",
]  # fmt: skip
GRAPHS = ["config.json", "tokenizer.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data",
          "onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "onnx/model_q4f16.onnx"]  # fmt: skip


@pytest.mark.parametrize(
    ("quant", "name"),
    [
        ("Q4_0", "M-1B-Q4_0.gguf"), ("q4_k_m", "M-1B-Q4_K_M.gguf"), ("IQ4_XS", "M-1B-IQ4_XS.gguf"),
        ("f16", "M-1B-F16.gguf"), ("Q5_K_XL", "M-1B-UD-Q5_K_XL.gguf"), ("ud-q5_k_xl", "M-1B-UD-Q5_K_XL.gguf"),
    ],
)  # fmt: skip
def test_the_one_of_that_quantisation(quant: str, name: str) -> None:
    assert quantised("org/m", GGUFS, quant) == name
    assert pick("org/m", GGUFS, ALL, quant=quant) == Variant(GGUF, name, (name,))


@pytest.mark.parametrize(
    ("quant", "said"),
    [
        ("Q3_K", "has no .gguf file of the quantisation 'Q3_K'; it has F16, IQ4_XS, Q4_0, Q4_0_4_4"),
        ("Q4_K", "has no .gguf file of the quantisation 'Q4_K'"),
        ("4_XS", "has no .gguf file of the quantisation '4_XS'"),
        ("Q6_K", "has several .gguf files of Q6_K; name one of new/M-1B-Q6_K.gguf, old/M-1B-Q6_K.gguf"),
        ("Q8_0", "has Q8_0 in several parts; name the first, M-1B-Q8_0-00001-of-00002.gguf"),
        (".*", "has no .gguf file of the quantisation '.*'"),
    ],
)
def test_none_several_or_parts(quant: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        quantised("org/m", GGUFS, quant)
    assert str(caught.value).startswith("org/m ")
    assert said in str(caught.value)
    assert "mmproj" not in str(caught.value)


def test_a_repository_without_gguf() -> None:
    with pytest.raises(ModelError, match=r"no \.gguf file of the quantisation 'Q4_0'; it has none at all"):
        quantised("org/m", GRAPHS, "Q4_0")


@pytest.mark.parametrize(
    ("names", "formats", "file", "wanted"),
    [
        (GRAPHS, ALL, None, Variant(ONNX, "onnx/model.onnx", ("onnx/model.onnx", "onnx/model.onnx_data"))),
        (GRAPHS, ALL, "onnx/model_q4.onnx",
         Variant(ONNX, "onnx/model_q4.onnx", ("onnx/model_q4.onnx", "onnx/model_q4.onnx_data"))),
        (GRAPHS, {CHECKPOINT: ""}, None, Variant(CHECKPOINT, "", ("model.safetensors",))),
        (GRAPHS, {}, None, Variant("")),
        (GRAPHS, {}, "onnx/model_q4.onnx", Variant("")),
        (["a.gguf"], {}, None, Variant(GGUF, "a.gguf", ("a.gguf",))),
        (["a.gguf", "tokenizer.json"], {}, None, Variant("")),
        (["a.gguf", "model.safetensors"], ALL, None, Variant(GGUF, "a.gguf", ("a.gguf",))),
        (GGUFS, ALL, "M-1B-Q8_0-00001-of-00002.gguf",
         Variant(GGUF, "M-1B-Q8_0-00001-of-00002.gguf",
                 ("M-1B-Q8_0-00001-of-00002.gguf", "M-1B-Q8_0-00002-of-00002.gguf"))),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
          "consolidated.safetensors", "original/x.safetensors"], ALL, None,
         Variant(CHECKPOINT, "", ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"))),
        (["pytorch_model.bin"], ALL, None, Variant(CHECKPOINT, "", ("pytorch_model.bin",))),
        (["q.onnx"], ALL, None, Variant(ONNX, "q.onnx", ("q.onnx",))),
    ],
)  # fmt: skip
def test_what_is_taken(names: list[str], formats: dict[str, str], file: str | None, wanted: Variant) -> None:
    assert pick("org/m", names, formats, file=file) == wanted


@pytest.mark.parametrize(
    ("names", "formats", "file", "said"),
    [
        (GGUFS, ALL, None, "org/m has several .gguf files; name one: org/m/M-1B-F16.gguf"),
        (["m-Q4_0.gguf", "m-Q8_0.gguf"], ALL, None, "has several .gguf files; name one: org/m:Q4_0, org/m:Q8_0"),
        (["a.onnx", "b.onnx"], ALL, None, "has no model.onnx; name one: org/m/a.onnx, org/m/b.onnx"),
        (["README.md"], ALL, None, "holds no model that can be run here; it needs a model.onnx or a .gguf file or"),
        (GRAPHS, ALL, "onnx/model_q8.onnx", "has no file 'onnx/model_q8.onnx'; it has onnx/model.onnx"),
        (GRAPHS, {GGUF: ""}, "onnx/model.onnx", "is named as onnx, and the engine takes gguf"),
    ],
)  # fmt: skip
def test_what_is_refused(names: list[str], formats: dict[str, str], file: str | None, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        pick("org/m", names, formats, file=file)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"), ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("x/gpt-oss-20b-MXFP4.gguf", "MXFP4"), ("m-BF16-00001-of-00003.gguf", "BF16"), ("model.gguf", ""),
        ("M-1B-UD-Q5_K_XL.gguf", "UD-Q5_K_XL"), ("M-1B-TQ1_0.gguf", "TQ1_0"),
    ],
)  # fmt: skip
def test_the_quantisation_that_a_name_tells(name: str, quant: str) -> None:
    assert quant_of(name) == quant


@given(st.lists(st.text(max_size=40), max_size=20), st.text(max_size=40))
def test_any_names(names: list[str], quant: str) -> None:
    """Names are strangers' data: a choice, or one line."""
    for call in (lambda: pick("org/m", names, ALL), lambda: pick("org/m", names, ALL, quant=quant)):
        with suppress(ModelError):
            assert call().file in ("", *names)
    for name in names:
        assert quant_of(name) == quant_of(stem_of(name)) or not quant_of(stem_of(name))

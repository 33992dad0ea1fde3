"""An imported GGUF against llama.cpp and Transformers on the same file: rows, tokens, and ends of a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.tokenizer import GgufTokenizer
from airdraft.models.imports.write import import_gguf
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from .made import FLOATS, Made
from .test_tokenizer import TEXTS, sentences

TOKENS = [7, 260, 31, 31, 99, 5, 256, 200, 64, 11, 83, 2]
CASES = [(family, kind) for family in ("llama", "qwen2", "qwen3") for kind in ("F32", "Q8_0", "Q4_0", "Q4_1")]


def apart(rows: np.ndarray, wanted: np.ndarray) -> float:
    """Root of the mean square of the difference, in standard deviations of a row."""
    return float(np.sqrt(((rows - wanted) ** 2).mean()) / wanted.std())


def ours(path: Path) -> np.ndarray:
    """Rows of the imported model."""
    import_gguf(path, path.with_suffix(""))
    model = OnnxModel(path.with_suffix(""))
    return model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))


@pytest.mark.parametrize(("family", "kind"), [*CASES, ("llama", "Q4_K"), ("llama", "Q6_K"), ("llama", "IQ4_XS")])
def test_rows_of_llama_cpp(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    from airdraft.models.engines.llamacpp import LlamaCppModel

    path = Made(family, kind, biased=family == "qwen2").write(tmp_path / "model.gguf")
    model = LlamaCppModel(path, sequences=1, positions=64, threads=1)
    wanted = model.forward(model.new_cache(), 0, TOKENS, len(TOKENS))
    # Both round activations to 8 bits, each in its own way: llama.cpp for K-quants with one scale for 256 of them.
    assert apart(ours(path), wanted) < (1e-3 if kind in FLOATS else 0.1)


# Of a Qwen3, Transformers 5 does not read the length of a head from the file.
@pytest.mark.parametrize(("family", "kind"), [case for case in CASES if case[0] != "qwen3"])
def test_rows_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra hf")
    pytest.importorskip("accelerate", reason="Transformers reads GGUF with accelerate")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    import torch

    path = Made(family, kind, biased=family == "qwen2").write(tmp_path / "model.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert apart(ours(path), wanted) < (1e-3 if kind in FLOATS else 0.1)  # there, activations are not rounded


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "default", "sentences"])
def test_tokens_of_llama_cpp(pre: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    made = sentences() if pre == "sentences" else Made(facts={
        "tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": 256,
    })  # fmt: skip
    path = made.write(tmp_path / "model.gguf")
    found = GgufTokenizer(GgufFile(path))
    (tmp_path / "tokenizer.json").write_text(json.dumps(found.tokenizer()))
    tokenizer = Tokenizer(tmp_path)
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in TEXTS:
        if pre == "qwen2" and "\u0301" in text:
            continue  # the original composes characters first, which llama.cpp leaves out
        assert tokenizer.encode(text) == llama.tokenize(text.encode(), add_bos=True, special=True), text
    api, vocabulary = llama_cpp.llama_cpp, llama_cpp.llama_cpp.llama_model_get_vocab(llama.model)
    ends = [i for i in range(len(made.tokens)) if api.llama_vocab_is_eog(vocabulary, i)]
    assert sorted(found.ends()) == ends

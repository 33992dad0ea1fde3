"""Tokenizers in the words of GGUF: what is read back, here and by llama.cpp, cuts texts as the original does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from airdraft.errors import ModelError
from airdraft.models.gguf import write_gguf
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.tokenizer import GgufTokenizer, pre_tokenizer_of
from airdraft.models.text import Tokenizer

from .llamas import write_llama

pytest.importorskip("gguf", reason="needs the extra llamacpp")

from tests.models.imports.made import Made

TEXTS = [
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "I'll say it's 12345 things, WE'RE sure:\r\n\r\n\t tabs   and   spaces  \n\n\n   end ",
    "Grüße, 世界! Ω≈ç√∫ 🙂 — “quotes” … ",
]
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}
KINDS: dict[str, dict[str, Any]] = {
    "smollm": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, LEVEL]}},
    "qwen2": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, LEVEL | {"use_regex": False}]},
    },
}  # fmt: skip
"""As the files of SmolLM2 and of Qwen have them."""


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"])
def test_what_an_import_writes_has_its_name_again(name: str, tmp_path: Path) -> None:
    made = Made(facts={"tokenizer.ggml.pre": name}).write(tmp_path / "model.gguf")
    assert pre_tokenizer_of(GgufTokenizer(GgufFile(made)).tokenizer()) == name


@pytest.mark.parametrize("step", [
    SPLIT | {"invert": True}, SPLIT | {"behavior": "Removed"}, DIGITS | {"individual_digits": False},
    {"type": "Punctuation"},
])  # fmt: skip
def test_other_cuts_have_no_name(step: dict[str, Any]) -> None:
    steps = {"type": "Sequence", "pretokenizers": [step, LEVEL | {"use_regex": False}]}
    assert pre_tokenizer_of({"model": {}, "normalizer": {"type": "NFC"}, "pre_tokenizer": steps}) is None


def check_read(folder: Path, out: Path) -> None:
    """What is in the GGUF file cuts texts as the folder's tokenizer does; by llama.cpp, too, where it is installed."""
    write_gguf(folder, out)
    own = Tokenizer(folder)
    found = tokenizers.Tokenizer.from_str(json.dumps(GgufTokenizer(GgufFile(out)).tokenizer()))
    for text in TEXTS:
        assert found.encode(text).ids == own.encode(text)
        assert found.decode(found.encode(text).ids) == text
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra llamacpp")
    other = llama_cpp.Llama(str(out), vocab_only=True, verbose=False)
    try:
        for text in TEXTS:
            assert other.tokenize(text.encode(), add_bos=True, special=True) == own.encode(text)
    finally:
        other.close()


@pytest.mark.parametrize("name", [*KINDS])
def test_byte_level_tokenizers_as_people_have_them(name: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    model = content["model"] | {"ignore_merges": False}
    path.write_text(json.dumps(content | {"model": model, "post_processor": None} | KINDS[name]), "utf-8")
    check_read(folder, tmp_path / "out" / "model.gguf")
    assert GgufFile(tmp_path / "out" / "model.gguf").metadata["tokenizer.ggml.pre"] == name


def pieces() -> tokenizers.Tokenizer:
    """A tokenizer of SentencePiece's kind, as Llama 2 and Mistral have: merges are all pairs that make a piece."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["▁", *"abcdefghinorstu", "▁n", "in", "re", "tu", "rn", "fi", "on", "fib", "▁re", "tur", "▁retu", "▁return",
             "return", "urn", "▁▁", "▁▁▁▁", "acc", "cci", "turn"]  # fmt: skip
    vocab = {token: i for i, token in enumerate([*first, *words])}
    merges = [
        (token[:at], token[at:])
        for token in words for at in range(1, len(token)) if token[:at] in vocab and token[at:] in vocab
    ]  # fmt: skip
    return tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)  # noqa: S106
    )


@pytest.mark.parametrize("way", ["normalizer", "pre-tokenizer"])
def test_a_tokenizer_of_sentence_pieces_kind(way: str, tmp_path: Path) -> None:
    folder, made = write_llama(tmp_path / "model", bos_token_id=1, eos_token_id=2), pieces()
    if way == "normalizer":
        made.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
        )
    else:
        made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    made.decoder = tokenizers.decoders.Sequence([
        tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse(),
        tokenizers.decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(folder / "tokenizer.json"))
    assert len(made.encode(" return fib").ids) < 8  # merges are at work
    check_read(folder, tmp_path / "out" / "model.gguf")


def test_merges_that_no_scores_tell(tmp_path: Path) -> None:
    folder, made = write_llama(tmp_path / "model", bos_token_id=1, eos_token_id=2), pieces()
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    content = json.loads(made.to_str())
    several = [merge for merge in content["model"]["merges"] if "".join(merge) == "turn"]
    assert len(several) > 1
    content["model"]["merges"].insert(0, several[-1])
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match="merges 'turn' in two places, which no scores of tokens tell"):
        write_gguf(folder, tmp_path / "out" / "model.gguf")


def test_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    far = {"id": 4_000_000_000, "content": "<far>", "special": True, "single_word": False, "lstrip": False,
           "rstrip": False, "normalized": False}  # fmt: skip
    path.write_text(json.dumps(content | {"added_tokens": [*content["added_tokens"], far]}), "utf-8")
    write_gguf(folder, tmp_path / "out" / "model.gguf")
    assert len(GgufTokenizer(GgufFile(tmp_path / "out" / "model.gguf")).tokens) == 4096


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pre_tokenizer": "ByteLevel"}, r"tokenizer\.json is no tokenizer \(.*\); fetch it again"),
        ({"model": []}, "is no byte-level BPE"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}}, "is no tokenizer"),
        ({"normalizer": {"type": "Sequence", "normalizers": []}}, "is no byte-level BPE"),
    ],
)
def test_broken_tokenizers(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    with pytest.raises(ModelError, match=why) as raised:
        write_gguf(folder, tmp_path / "out" / "model.gguf")
    assert "\n" not in str(raised.value)

"""Tokenizers of GGUF files cut texts as the originals do, and as the algorithms that they name."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from airdraft.api.template import ChatTemplate
from airdraft.models.files.folder import shipped
from airdraft.models.imports.cache import text_folder
from airdraft.models.imports.read import GgufFile
from airdraft.models.imports.tokenizer import GgufTokenizer
from airdraft.models.text import Tokenizer

pytest.importorskip("gguf", reason="writing the files takes the gguf package")

from ...suites import examples
from .made import Made

TEXTS = [
    "", " ", "Hello, world!", "  two  spaces\n\n\n\tand tabs \r\n", "in the 1234567 things", "I'LL say they've don't",
    "Ünïcødé 日本語 🤖👩‍👩‍👧 e\u0301\u00a0x", "def f(x):\n    return x[1:] != 'a'  # 50 %\n",
    "<|endoftext|>x<|endoftext|>",    "a" * 300, "\u2028\u3000\ufeff", "٣٤٥ Ⅷ ½", "…——“quotes”",
]  # fmt: skip
_SCORED = {"the": -1.0, "▁the": -2.0, "th": -3.0, "in": -3.5, "▁t": -4.0, "▁in": -4.5, "he": -5.0, "▁▁": -5.5,
           "aa": -6.0, "aaa": -6.5, "an": -7.0, "▁a": -7.5, "er": -8.0, "▁b": -8.5, "ba": -9.0, "ab": -9.5}  # fmt: skip


def sentences(**facts: Any) -> Made:
    """A model with a vocabulary like SentencePiece's."""
    letters = [*"abcdefghijklmnoprstuvwxyz.,", "▁"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_SCORED, *letters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [*_SCORED.values()] + [-100.0 - i for i in range(len(letters))]
    return Made(tokens=tokens, facts={
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": None, "tokenizer.ggml.merges": None,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0, **facts,
    })  # fmt: skip


def written(made: Made, tmp_path: Path) -> Tokenizer:
    path = made.write(tmp_path / "model.gguf")
    found = GgufTokenizer(GgufFile(path))
    (tmp_path / "tokenizer.json").write_text(json.dumps(found.tokenizer()))
    return Tokenizer(tmp_path)


def greedily(text: str) -> list[str]:
    """SentencePiece's algorithm: merge the neighbours that make the token of the highest score, the first of them."""
    pieces = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        pairs = enumerate(itertools.pairwise(pieces))
        found = [(-_SCORED[a + b], i) for i, (a, b) in pairs if a + b in _SCORED]
        if not found:
            return pieces
        _, i = min(found)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


@examples(300)
@given(text=st.text(st.sampled_from("abtheinr .,"), max_size=30))
def test_scores_rank_merges(text: str, scored: Tokenizer) -> None:
    assert [scored._tokenizer.id_to_token(i) for i in scored.encode(text)[1:]] == greedily(text)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return written(sentences(), tmp_path_factory.mktemp("scored"))


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_any_text_comes_back(text: str, scored: Tokenizer) -> None:
    assert scored.decode(scored.encode(text)) == text


def test_bytes_spell_what_has_no_token(scored: Tokenizer) -> None:
    names = [scored._tokenizer.id_to_token(i) for i in scored.encode("é")]
    assert names == ["<s>", "▁", "<0xC3>", "<0xA9>"]


def test_no_space_goes_first_if_the_file_says_so(tmp_path: Path) -> None:
    plain = written(sentences(**{"tokenizer.ggml.add_space_prefix": False}), tmp_path)
    assert [plain._tokenizer.id_to_token(i) for i in plain.encode("the a")] == ["<s>", "the", "▁a"]
    assert plain.decode(plain.encode(" the")) == " the"


@pytest.mark.parametrize(
    ("facts", "around"),
    [
        ({}, []),
        ({"tokenizer.ggml.add_bos_token": True}, []),  # there is none
        ({"tokenizer.ggml.bos_token_id": 0}, []),
        ({"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.add_bos_token": True}, [0]),
        ({"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.pre": "llama-bpe"}, [0]),
        ({"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.pre": "tekken", "tokenizer.ggml.add_bos_token": False}, []),
        ({"tokenizer.ggml.add_eos_token": True}, [256]),
    ],
)
def test_tokens_around_a_text(facts: dict[str, Any], around: list[int], tmp_path: Path) -> None:
    assert written(Made(facts=facts), tmp_path).encode("") == around


def test_both_ends_around_a_text(tmp_path: Path) -> None:
    keys = ("add_bos_token", "add_eos_token")
    facts = {"tokenizer.ggml.bos_token_id": 1, **{f"tokenizer.ggml.{key}": True for key in keys}}
    ids = written(Made(facts=facts), tmp_path).encode("the")
    assert (ids[0], ids[-1], len(ids)) == (1, 256, 3)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "a 1234's\n\n b", ["a", " 1234", "'s", "\n\n", " b"]),
        ("smollm", "a 123's\n\n b", ["a", " ", "1", "2", "3", "'s", "\n\n", " b"]),
        ("qwen2", "a 123'S!\n\n b", ["a", " ", "1", "2", "3", "'S", "!\n\n", " b"]),
        ("llama-bpe", "a 1234'S!\n\n b", ["a", " ", "123", "4", "'S", "!\n\n", " b"]),
        ("tekken", "aB 12/\n\n b", ["a", "B", " ", "1", "2", "/\n\n", " b"]),
        ("default", "a=1234!", ["a", "=", "123", "4", "!"]),
    ],
)
def test_cuts_by_name(pre: str, text: str, pieces: list[str], tmp_path: Path) -> None:
    tokenizer = written(Made(facts={"tokenizer.ggml.pre": pre}), tmp_path)._tokenizer
    cut = [text[slice(*span)] for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    assert cut == pieces


def test_ends_by_key_and_by_name(tmp_path: Path) -> None:
    tokens = [*Made().tokens, "<|im_end|>", "<|eot|>", "<|fim_pad|>", "<|other|>"]
    made = Made(tokens=tokens, facts={"tokenizer.ggml.eot_token_id": tokens.index("<|eot|>")})
    found = GgufTokenizer(GgufFile(made.write(tmp_path / "model.gguf"))).ends()
    assert [tokens[i] for i in found] == ["<|endoftext|>", "<|im_end|>", "<|eot|>", "<|fim_pad|>"]


def test_padding_is_no_vocabulary(tmp_path: Path) -> None:
    tokens = Made().tokens
    padded = [*tokens, "[PAD266]", "[PAD267]"]
    types = [3 if token.startswith("<|") else 1 for token in tokens] + [5, 5]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = written(Made(), tmp_path / "a")
    other = written(Made(tokens=padded, facts={"tokenizer.ggml.token_type": types}), tmp_path / "b")
    assert one.digest == other.digest
    assert other.vocab_size == len(tokens)


def test_the_shipped_tokenizer_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    from airdraft.models.gguf import write_gguf

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "draft.gguf"
    write_gguf(shipped("draft"), path)
    own, original = Tokenizer(text_folder(path)), Tokenizer(shipped("draft"))
    assert own.digest == original.digest
    assert own.vocab_size == original.vocab_size
    for text in TEXTS:
        assert own.encode(text) == original.encode(text), text
        assert own.decode(own.encode(text)) == original.decode(original.encode(text))


def test_the_template_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts = {"tokenizer.chat_template": "{% for m in messages %}[{{ m.content }}]{% endfor %}{{ eos_token }}"}
    template = ChatTemplate.of(Made(facts=facts).write(tmp_path / "model.gguf"))
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}], {}) == "[hi]<|endoftext|>"
    assert template.encode("<|endoftext|>") == [256]


def test_the_library_takes_every_kind(tmp_path: Path) -> None:
    for i, made in enumerate((Made(), sentences())):
        found = GgufTokenizer(GgufFile(made.write(tmp_path / f"{i}.gguf"))).tokenizer()
        assert tokenizers.Tokenizer.from_str(json.dumps(found)).get_vocab_size() == len(made.tokens)

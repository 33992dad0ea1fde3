"""Text to ids and back, whole and streamed, and the digest that tells two vocabularies apart."""

from __future__ import annotations

import functools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.errors import ModelError
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer, tokenizer_file

END = "<|endoftext|>"


@functools.cache
def opened() -> Tokenizer:
    """Hypothesis and fixtures of a function do not mix."""
    return Tokenizer(shipped("draft"))


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join([*map(stream.push, ids), stream.flush()])


texts = st.text(max_size=200).filter(lambda text: END not in text)


@given(texts)
def test_any_text_comes_back(text: str) -> None:
    assert opened().decode(opened().encode(text)) == text


def test_a_long_text_has_the_same_ids_and_leaves_the_interpreter_to_others() -> None:
    text = "x = 1\n" * 30_000
    tokenizer = opened()
    begun, turns = threading.Event(), 0

    def encode() -> list[int]:
        begun.set()
        return tokenizer.encode(text)

    with ThreadPoolExecutor(1) as other:
        encoded = other.submit(encode)
        begun.wait()
        while not encoded.done():  # hundreds of turns; with the interpreter locked the first lasts until the end
            time.sleep(0.001)
            turns += 1
    assert encoded.result() == tokenizer._tokenizer.encode(text).ids
    assert turns > 5
    with pytest.raises(ModelError, match="half a surrogate pair"):
        tokenizer.encode(text + "\ud800")


@given(texts)
def test_streamed_text_is_the_text(text: str) -> None:
    assert streamed(opened(), opened().encode(text)) == text


@given(st.lists(st.integers(0, 4095), max_size=60))
def test_streamed_ids_are_the_decoded_ids_even_where_they_are_no_utf8(ids: list[int]) -> None:
    assert streamed(opened(), ids) == opened().decode(ids)


@given(texts)
def test_each_push_is_final(text: str) -> None:
    stream, ids = opened().stream(), opened().encode(text)
    seen = ""
    for token in ids:
        seen += stream.push(token)
        assert text.startswith(seen)


@given(texts)
def test_the_bytes_of_tokens_are_the_texts(text: str) -> None:
    ids = [token for token in opened().encode(text) if not opened().is_special(token)]
    assert b"".join(map(opened().token_bytes, ids)) == text.encode()


def test_a_special_token_is_named(tokenizer: Tokenizer) -> None:
    assert tokenizer.is_special(0)
    assert tokenizer.token_bytes(0) == END.encode()


def test_a_character_of_several_tokens_comes_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("𝄞")[1:]  # U+1D11E, four bytes in UTF-8
    assert len(ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(token) for token in ids] == [""] * (len(ids) - 1) + ["𝄞"]


def test_half_a_character_at_the_end(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("a𝄞")[:-1]][:2] == ["", "a"]
    assert stream.flush() == "\N{REPLACEMENT CHARACTER}"
    assert stream.flush() == ""
    assert stream.push(tokenizer.encode("b")[-1]) == "b"


def test_special_tokens_are_added_and_skipped(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("x = 1")
    assert ids[0] == 0
    assert tokenizer.decode(ids) == "x = 1"
    assert tokenizer.encode(END + "x = 1") == [0, *ids]


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="half a surrogate pair; decode its bytes as UTF-8"):
        tokenizer.encode("a\ud834")


def test_a_long_text_is_not_cut(tmp_path: Path) -> None:
    published = _changed(
        tmp_path, truncation={"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    )
    assert published.decode(published.encode("one two three four five six")) == "one two three four five six"


def test_both_halves_of_the_pair_have_one_digest(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.digest) == 16
    assert tokenizer.digest == Tokenizer(shipped("draft")).digest
    assert tokenizer.vocab_size == 4096


def _changed(folder: Path, **changes: Any) -> Tokenizer:
    """The shipped tokenizer with some of its top-level or model fields replaced."""
    table = json.loads(tokenizer_file(shipped("draft")).read_text("utf-8"))
    for name, value in changes.items():
        (table["model"] if name in table["model"] else table)[name] = value
    (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    return Tokenizer(folder)


def _vocab() -> dict[str, int]:
    table = json.loads(tokenizer_file(shipped("draft")).read_text("utf-8"))
    return dict(table["model"]["vocab"])


def test_digest_sees_two_tokens_swapped(tokenizer: Tokenizer, tmp_path: Path) -> None:
    vocab = _vocab()
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    assert _changed(tmp_path, vocab=vocab).digest != tokenizer.digest


def test_digest_sees_one_token_more(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert _changed(tmp_path, vocab=_vocab() | {"never seen before": 4096}).digest != tokenizer.digest


def test_digest_does_not_see_merges_or_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert _changed(tmp_path, merges=[], vocab=dict(reversed(_vocab().items()))).digest == tokenizer.digest


def _sentencepiece(folder: Path) -> Tokenizer:
    """A vocabulary of the Llama-2 kind: a space is ▁, the first one is dropped, unknown characters are byte tokens."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁word", "s", "é"]
    unknown, end = ({"id": i, "content": words[i], "special": True, "normalized": False} for i in (0, 1))
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    table = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [unknown | flags, end | flags],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                space,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(table), "utf-8")
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return _sentencepiece(tmp_path_factory.mktemp("llama2"))


@given(data=st.data())
def test_streaming_a_sentencepiece_vocabulary(llama2: Tokenizer, data: st.DataObject) -> None:
    # Half of the tokens are words, so that runs of bytes begin, end and break off.
    token = st.integers(0, 262) | st.integers(258, 262) | st.sampled_from([0, 1, 2 + 0xC3, 2 + 0xA9])
    ids = data.draw(st.lists(token, max_size=20))
    assert streamed(llama2, ids) == llama2.decode(ids)


@given(ids=st.lists(st.integers(2, 262), max_size=20))
def test_the_bytes_of_a_sentencepiece_text(llama2: Tokenizer, ids: list[int]) -> None:
    """Whole, but for the space that its first word loses."""
    written = b"".join(map(llama2.token_bytes, ids)).decode(errors="replace")
    # A run of byte tokens that is no UTF-8 is U+FFFD once a byte there.
    if "\N{REPLACEMENT CHARACTER}" not in written:
        assert written.removeprefix(" ") == llama2.decode(ids)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json; copy it"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_broken_tokenizer(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer\.json is no tokenizer \(.*\); fetch it again") as raised:
        Tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_pair_keeps_its_tokenizer_once() -> None:
    draft, target = shipped("draft"), shipped("target")
    assert not (draft / "tokenizer.json").exists()
    assert tokenizer_file(draft).resolve() == (target / "tokenizer.json").resolve()
    assert tokenizer_file(target) == target / "tokenizer.json"


def test_a_tokenizer_of_its_own_comes_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"tokenizer_file": "../elsewhere.json"}')
    assert tokenizer_file(tmp_path) == tmp_path / "../elsewhere.json"
    (tmp_path / "tokenizer.json").touch()
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.json"


def test_a_draft_that_is_copied_without_its_tokenizer(tmp_path: Path) -> None:
    folder = tmp_path / "draft"
    folder.mkdir()
    (folder / "config.json").write_bytes((shipped("draft") / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"draft has no tokenizer\.json, nor is there .*tokenizer\.json, which its"):
        Tokenizer(folder)

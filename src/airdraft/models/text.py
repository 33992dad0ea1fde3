"""Text to token ids and back, whole or token by token."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from airdraft.errors import ModelError
from airdraft.models.files.config import read_json, shown
from airdraft.models.lineage import alike

LONG = 4096
"""Characters of a text that takes a while to encode."""
VEILS = ("Ж", "中")
"""What is put in place of a private text, one after the other, to see what hangs on it."""
_LONGEST_NAME = 255
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def _byte_level() -> dict[str, int]:
    """Byte-level vocabularies write a byte as a character: of Latin-1 if it prints, the others from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTE_OF = _byte_level()


def ids_of(tokenizer: tokenizers.Tokenizer, text: str, special: bool = True) -> list[int]:
    """Token ids of `text`. `special`: with those that the tokenizer's post-processor adds."""
    if len(text) <= LONG:
        return list(tokenizer.encode(text, add_special_tokens=special).ids)
    # Alone, it would be encoded with the interpreter locked, for seconds, whatever thread it is in.
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids)


def first_private(tokens: Sequence[int], veiled: Iterable[Sequence[int]]) -> int | None:
    """Position of the first token that hangs on what is private: of which it holds a character, or by which it was cut.

    veiled: the tokens of the same text with each of `VEILS` in place of what is private. None: no token hangs on it.
    """
    first = min(alike(tokens, other) for other in veiled)
    return first if first < len(tokens) else None


def tokenizer_file(folder: Path) -> Path:
    """The path of a model's `tokenizer.json`: in its folder or, failing that, where its config.json says.

    A pair of models keeps its tokenizer once: `"tokenizer_file": "../target/tokenizer.json"` in the draft's config.json
    is relative to the draft's folder. Callers check whether the file exists. Raises: `ModelError` if the config is
    broken.
    """
    own, config = folder / "tokenizer.json", folder / "config.json"
    if own.is_file() or not config.is_file():
        return own
    named = read_json(config).get("tokenizer_file")
    if named is None:
        return own
    if not isinstance(named, str) or not named.isprintable() or not 0 < len(named) <= _LONGEST_NAME:
        raise ModelError(f"{config} says tokenizer_file = {shown(named)}; it must be a path")
    return folder / named


class Tokenizer:
    """The tokenizer of the model in a folder, see `tokenizer_file`."""

    vocab_size: int
    """Ids that the tokenizer knows, up to its last; the model may score more, padding, which is never chosen. Special
    tokens at the end that the model's config.json has no row for, as the smallest Gemma 3 has one, do not count."""
    longest: int
    """Characters of the longest token: more than n times as many make more than n tokens."""
    digest: bytes
    """16 bytes that are equal for two tokenizers exactly when every id stands for the same token in both.

    Only ids cross the link, so only their meaning has to agree. Merges (and pre-tokenizers) decide how a text is
    cut into ids; device and edge never cut the same text, so there they may differ.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `ModelError` if `tokenizer.json` is missing or broken."""
        path = tokenizer_file(folder)
        if not path.is_file() and path.parent != folder:
            raise ModelError(
                f"{folder} has no tokenizer.json, nor is there {path}, which its config.json names; copy it"
            )
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json; copy it there from the original model")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises bare Exception
            raise ModelError(f"{path} is no tokenizer ({problem}); fetch it again") from problem
        # Left over from training in many published files: it would cut a long prompt without a word.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        table = sorted((i, token) for token, i in self._tokenizer.get_vocab(with_added_tokens=True).items())
        self._special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        table, self._beyond = _scored(table, self._special, folder / "config.json")
        self.vocab_size = table[-1][0] + 1 if table else 0
        self.longest = max((len(token) for _, token in table), default=1)
        self.digest = vocabulary_digest(table)
        self._bytes = {i for i, token in table if _BYTE.fullmatch(token)}
        decoder = self._tokenizer.decoder
        self._byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`. `special`: with the special tokens that the tokenizer's own post-processor adds.

        A special token spelt out in `text` is encoded as that token. Raises `ModelError` if `text` holds half a
        surrogate pair, which is no text, or spells out a special token that the model has no row for.
        """
        try:
            ids = ids_of(self._tokenizer, text, special)
        except (UnicodeEncodeError, TypeError) as problem:
            raise ModelError("the text holds half a surrogate pair; decode its bytes as UTF-8 first") from problem
        if self._beyond and not self._beyond.isdisjoint(ids):
            names = ", ".join(sorted({str(self._tokenizer.id_to_token(i)) for i in self._beyond.intersection(ids)}))
            raise ModelError(f"the text holds {names}, which the model does not know; leave it out")
        return ids

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD. `special`: with the names of special tokens."""
        if len(ids) > LONG:  # as in `ids_of`: alone, with the interpreter locked
            return str(self._tokenizer.decode_batch([list(ids)], skip_special_tokens=not special)[0])
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def written(self) -> str:
        """The tokenizer as its `tokenizer.json` has it."""
        return str(self._tokenizer.to_str())

    def is_special(self, token: int) -> bool:
        """Whether it is no part of any text, as an end-of-text token is not."""
        return token in self._special

    def differences(self, other: Tokenizer) -> list[tuple[int, str | None, str | None]]:
        """The ids that stand for another token in `other`, upwards, with both tokens; None: no token at all."""
        own, others = (
            {i: name for name, i in each._tokenizer.get_vocab(with_added_tokens=True).items()} for each in (self, other)
        )
        ids = sorted(own.keys() | others.keys())
        return [(i, own.get(i), others.get(i)) for i in ids if own.get(i) != others.get(i)]

    def token_bytes(self, token: int) -> bytes:
        """What one token adds to a text, which may be part of a character; of a special token, its name."""
        name = self._tokenizer.id_to_token(token) or ""
        if token in self._special:
            return name.encode()
        if token in self._bytes:
            return bytes.fromhex(name[3:5])
        if self._byte_level:
            known = all(each in _BYTE_OF for each in name)
            return bytes(_BYTE_OF[each] for each in name) if known else name.encode()
        # After another token: at the start of a text some tokenizers leave a space off.
        return self.decode([token, token])[len(self.decode([token])) :].encode()

    def stream(self) -> TextStream:
        """A decoder for one text that arrives token by token."""
        return TextStream(self, self._special, self._bytes)


class TextStream:
    """Decodes token by token: what `push` and then `flush` return, joined, is `Tokenizer.decode` of all tokens."""

    def __init__(self, tokenizer: Tokenizer, special: set[int], single_bytes: set[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._bytes = single_bytes
        self._shown: list[int] = []
        """The tokens of the last piece of text: how a token is written may hang on the one before it."""
        self._held: list[int] = []
        """Tokens whose text is not certain yet."""

    def push(self, token: int) -> str:
        """The text that `token` makes certain, often all of its own; "" while a character is incomplete."""
        if token in self._special:
            return ""
        self._held.append(token)
        # A run of byte tokens is decoded as a whole: one wrong byte at its end would change the characters before.
        if token in self._bytes:
            return ""
        text = self._rest()
        # Either bytes that await the rest of their character or bytes that never will be one: the next token tells.
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        if text:
            self._shown, self._held = self._held, []
        return text

    def flush(self) -> str:
        """What is left at the end of the text; an incomplete character becomes U+FFFD."""
        text = self._rest()
        self._shown, self._held = [], []
        return text

    def _rest(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._held)[len(before) :]


def _scored(
    table: list[tuple[int, str]], special: set[int], config: Path
) -> tuple[list[tuple[int, str]], frozenset[int]]:
    """The tokens of `table` without those at its end that are special and have no row in the model; and these."""
    rows = read_json(config).get("vocab_size") if config.is_file() else None
    if type(rows) is not int:
        return table, frozenset()
    beyond = frozenset(i for i, _ in table if i >= rows)
    if not beyond <= special:
        return table, frozenset()  # of another model: who loads both refuses them
    return [each for each in table if each[0] < rows], beyond


def vocabulary_digest(table: Iterable[tuple[int, str]]) -> bytes:
    """SHA-256, cut to 16 bytes, of id, length and UTF-8 of each token in id order (little-endian 32-bit numbers)."""
    whole = hashlib.sha256()
    for i, token in table:
        raw = token.encode()
        whole.update(struct.pack("<II", i, len(raw)) + raw)
    return whole.digest()[:16]

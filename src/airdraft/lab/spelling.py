"""Readers of guides for tables, which have few tokens and no tokenizer of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tokenizers

from airdraft.guides import Guides
from airdraft.models.text import Tokenizer


@cache
def guides(pieces: Sequence[str], merges: Sequence[tuple[str, str]], end: int) -> Guides:
    """A reader for a byte-level vocabulary of these pieces, of which the one at `end` ends a text. Ġ is a space."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE({piece: at for at, piece in enumerate(pieces)}, list(merges)))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([tokenizers.AddedToken(pieces[end], special=True)])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
        return Guides(Tokenizer(Path(folder)))

"""The shipped pair for tests that change a model's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from airdraft.models.files.folder import shipped
from airdraft.models.text import tokenizer_file


def copied(which: Literal["target", "draft"], folder: Path) -> Path:
    """A copy of one half of the pair that stands alone: with its tokenizer, which the draft shares with the target."""
    shutil.copytree(shipped(which), folder)
    shutil.copyfile(tokenizer_file(shipped(which)), folder / "tokenizer.json")
    return folder


def renamed(which: Literal["target", "draft"], folder: Path) -> Path:
    """Half of the pair with another vocabulary: one token is called otherwise."""
    copied(which, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    vocab = content["model"]["vocab"]
    renamed = max((token for token in vocab), key=lambda token: vocab[token])  # no merge is built on the last one
    vocab["\x00renamed"] = vocab.pop(renamed)
    content["model"]["merges"] = [
        pair
        for pair in content["model"]["merges"]
        if "".join(pair if isinstance(pair, list) else pair.split()) != renamed
    ]
    path.write_text(json.dumps(content), "utf-8")
    return folder

"""The shipped pair for tests that change a model's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from airdraft.models.folder import shipped
from airdraft.models.text import tokenizer_file


def copied(which: Literal["target", "draft"], folder: Path) -> Path:
    """A copy of one half of the pair that stands alone: with its tokenizer, which the draft shares with the target."""
    shutil.copytree(shipped(which), folder)
    shutil.copyfile(tokenizer_file(shipped(which)), folder / "tokenizer.json")
    return folder

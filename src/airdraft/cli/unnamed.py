"""The draft of a command that names none, for a target on this machine."""

from __future__ import annotations

import sys

from airdraft.device.shipped import shipped_for
from airdraft.models.engines.nothing import NONE
from airdraft.models.registry import text_files
from airdraft.models.text import Tokenizer


def draft_for(model: str) -> str:
    """The draft for the vocabulary of the model called `model`: one that ships, or none, which standard error tells.

    Raises: `ModelError` if there is no such model.
    """
    found = shipped_for(Tokenizer(text_files(model)))
    if found is None:
        what = f"no draft that ships has the vocabulary of {model}, so the edge writes alone"
        print(f"airdraft: {what}; --draft MODEL names one that has", file=sys.stderr)  # noqa: T201
    return found or NONE

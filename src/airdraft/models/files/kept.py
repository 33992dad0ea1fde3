"""The folder where this package keeps what it can make again: `airdraft` in XDG_CACHE_HOME, or in ~/.cache."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from airdraft.files import replacing

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 1000


def cache_folder() -> Path:
    """That folder, which need not exist. Deleting anything in it is safe."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "airdraft"


def recall(kind: str, key: str) -> str | None:
    """The line that is kept of this kind under this key; None if there is none that can be read."""
    try:
        with (cache_folder() / kind / key).open(encoding="ascii") as file:
            return file.read(_MOST_CHARACTERS)
    except (OSError, ValueError):
        return None


def keep(kind: str, key: str, line: str) -> None:
    """Keep a line, in one step. A cache that cannot be written costs time at the next start, and a line in the log."""
    place = cache_folder() / kind / key
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(place) as file:
            file.write(line.encode("ascii"))
    except OSError as problem:
        _log.info("what was found out of a model (%s) is not kept: %s", kind, problem)

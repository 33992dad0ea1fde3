"""The folder where this package keeps what it can make again: `airdraft` in XDG_CACHE_HOME, or in ~/.cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """That folder, which need not exist. Deleting anything in it is safe."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "airdraft"

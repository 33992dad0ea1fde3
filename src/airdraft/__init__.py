"""airdraft: draft on the device, verify at the edge. The text is the target model's own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from airdraft.version import __version__

if TYPE_CHECKING:
    from airdraft.client import AsyncClient, Client, Text

__all__ = ["AsyncClient", "Client", "Text", "__version__"]


def __getattr__(name: str) -> Any:
    """What takes an engine with it is imported when it is asked for: `import airdraft` alone costs nothing."""
    if name in ("AsyncClient", "Client", "Text"):
        return getattr(importlib.import_module("airdraft.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

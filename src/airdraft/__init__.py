"""airdraft: draft on the device, verify at the edge. The text is the target model's own."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from airdraft.version import __version__

if TYPE_CHECKING:
    from airdraft.client import AsyncClient, Client, Text

# ONNX Runtime would keep an id of this machine in the user's cache and report to its maker from its import on.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["AsyncClient", "Client", "Text", "__version__"]


def __getattr__(name: str) -> Any:
    """What takes an engine with it is imported when it is asked for: `import airdraft` alone costs nothing."""
    if name in ("AsyncClient", "Client", "Text"):
        return getattr(importlib.import_module("airdraft.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

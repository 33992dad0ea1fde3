"""Layers import downwards only, and the core reaches nothing that could make it impure."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "airdraft"

# From low to high: what of airdraft each layer may import, besides itself. A new layer gets a line here.
LAYERS: dict[str, tuple[str, ...]] = {
    "__init__": ("client",),  # when it is asked for
    "errors": (),
    "core": ("errors",),
    "models": ("errors",),
    "link": ("errors",),
    "sim": ("errors", "core", "models.base", "link"),
    "scheduler": ("errors", "core.events", "models.base"),
    "transport": ("errors", "core", "scheduler"),
    "telemetry": ("errors", "core"),
    "device": ("errors", "core", "models", "scheduler", "transport", "telemetry"),
    "edge": ("errors", "core", "models", "scheduler", "transport", "telemetry"),
    "api": ("errors", "core", "models", "scheduler", "transport", "telemetry", "device", "edge"),
    "client": ("errors", "core", "models", "device"),
    "local": ("errors",),
    "lab": ("errors", "core", "models", "link", "sim", "device", "edge", "local", "transport"),
    "demo": ("errors", "core", "models", "link", "sim", "device", "edge", "local"),
    "cli": (
        "errors",
        "core",
        "models",
        "link",
        "sim",
        "telemetry",
        "device",
        "edge",
        "api",
        "local",
        "lab",
        "demo",
    ),
    "__main__": ("cli",),
}

PURE = ("core", "scheduler.turns", "scheduler.memory")
PURE_THIRD_PARTY = {"numpy", "msgspec"}
# Sockets, clocks, randomness and concurrency are the callers'.
PURE_FORBIDDEN = {
    "asyncio", "concurrent", "datetime", "http", "importlib", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "socket", "ssl", "subprocess", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that `source` imports, wherever in it.

    `from a.b import c` gives a.b.c: whether c is a module or a name in one makes no difference to its layer.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in the module `module` (airdraft.core.noise, say) breaks the rules, one line each."""
    layer = [*module.split("."), "__init__"][1]
    if layer not in LAYERS:
        return [f"{module} is in no layer: give {layer} its place in LAYERS"]
    found = []
    for line, name in imports(source, module, is_package):
        top, _, inner = name.partition(".")
        where = f"{module}:{line} imports {name}"
        if top == "airdraft":
            if inner == "__version__":
                continue
            if not any(f"{inner}.".startswith(f"{allowed}.") for allowed in (layer, *LAYERS[layer])):
                found.append(f"{where}: {layer} may import only {', '.join(LAYERS[layer]) or 'nothing'} of airdraft")
        elif any(f"{module}.".startswith(f"airdraft.{pure}.") for pure in PURE):
            if top in PURE_FORBIDDEN:
                found.append(f"{where}: {module} has no clock, no I/O and no randomness of its own")
            elif top not in PURE_THIRD_PARTY and top not in sys.stdlib_module_names:
                found.append(f"{where}: {module} needs only {', '.join(sorted(PURE_THIRD_PARTY))}")
    return found


def test_layers_import_downwards_only() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += violations(path.read_text(encoding="utf-8"), module, is_package)
    assert not found, "\n".join(found)


def test_the_package_is_where_this_test_looks() -> None:
    assert (PACKAGE / "errors.py").is_file()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("airdraft.errors", "import airdraft.core"),
        ("airdraft.core.noise", "import socket"),
        ("airdraft.core.noise", "from time import monotonic"),
        ("airdraft.core.noise", "def f():\n    import asyncio.events"),
        ("airdraft.core.noise", "import scipy.stats"),
        ("airdraft.core.noise", "from airdraft.models.base import LanguageModel"),
        ("airdraft.core.noise", "from airdraft import models"),
        ("airdraft.core.noise", "from .. import models"),
        ("airdraft.core.schemes.dense", "from ...link import pipe"),
        ("airdraft.core.noise", "import airdraft"),
        ("airdraft.models.onnx", "from airdraft.core import noise"),
        ("airdraft.link.relay", "from airdraft.core import messages"),
        ("airdraft.sim.run", "from airdraft.models.onnx import OnnxModel"),
        ("airdraft.sim.run", "from airdraft.models.baseline import Anything"),
        ("airdraft.sim.run", "from airdraft.models import base, onnx"),
        ("airdraft.device.client", "from airdraft.edge.server import serve"),
        ("airdraft.scheduler.turns", "import asyncio"),
        ("airdraft.scheduler.memory", "from concurrent.futures import ThreadPoolExecutor"),
        ("airdraft.scheduler.memory", "from airdraft.models.engines import load"),
        ("airdraft.edge.server", "if TYPE_CHECKING:\n    from airdraft.device import client"),
        ("airdraft.demo", "import airdraft.cli"),
        ("airdraft.nowhere", ""),
    ],
)
def test_the_checker_sees(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("airdraft", ""),
        ("airdraft.core.noise", "import math\nimport numpy as np\nfrom airdraft.errors import AirdraftError"),
        ("airdraft.core.schemes.dense", "from ..noise import gumbel\nfrom . import base"),
        ("airdraft.sim.run", "from airdraft.models.base import LanguageModel\nimport heapq"),
        ("airdraft.link.relay", "import asyncio, socket"),
        ("airdraft.scheduler.loop", "import asyncio\nfrom airdraft.scheduler.turns import Share"),
        ("airdraft.edge.server", "from airdraft import __version__"),
        ("airdraft.cli", "from airdraft.demo import run\nfrom airdraft.edge import server"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert violations("from . import noise", "airdraft.core", is_package=True) == []
    assert len(violations("from .. import models", "airdraft.core", is_package=True)) == 1

"""Layers import downwards only, and the core reaches nothing that could make it impure."""

from __future__ import annotations

import re
import sys

import pytest

from .house import PACKAGE, Module, imports, modules

PAGE = PACKAGE.parents[1] / "DESIGN.md"
ROW = re.compile(r"\| `(?P<layer>\w+)` \| .+ \| (?P<allowed>nothing|`[\w.]+`(?:, `[\w.]+`)*) \|")


def layers(page: str) -> dict[str, tuple[str, ...]]:
    """What of airdraft each layer may import, besides itself: the table between the marks in DESIGN.md, low to high."""
    marked = re.search(r"<!-- layers:begin -->\n(.*?)\n<!-- layers:end -->", page, re.DOTALL)
    assert marked, "DESIGN.md has no table between <!-- layers:begin --> and <!-- layers:end -->"
    found: dict[str, tuple[str, ...]] = {}
    for line in marked[1].splitlines()[2:]:
        row = ROW.fullmatch(line)
        assert row, f"no row of the table of layers: {line}"
        layer, allowed = row["layer"], tuple(re.findall(r"`([\w.]+)`", row["allowed"]))
        above = [name for name in allowed if name.partition(".")[0] not in found]
        assert layer not in found, f"{layer} has two rows"
        assert not above, f"{layer} may import only what stands in a row before its own, not {', '.join(above)}"
        found[layer] = allowed
    return found


LAYERS = layers(PAGE.read_text("utf-8"))

PURE = ("core", "proposers", "drafters", "scheduler.turns", "scheduler.memory")
PURE_THIRD_PARTY = {"numpy", "msgspec"}
# Sockets, clocks, randomness and concurrency are the callers'.
PURE_FORBIDDEN = {
    "asyncio", "concurrent", "datetime", "http", "importlib", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "socket", "ssl", "subprocess", "threading", "time", "urllib", "uuid",
}  # fmt: skip


def violations(module: Module) -> list[str]:
    """What in a module breaks the rules, one line each."""
    layer = [*module.name.split("."), "__init__"][1]
    if layer not in LAYERS:
        return [f"{module.name} is in no layer: give {layer} a row in the table of DESIGN.md"]
    found = []
    for line, name in imports(module):
        top, _, inner = name.partition(".")
        where = f"{module.name}:{line} imports {name}"
        if top == "airdraft":
            if not any(f"{inner}.".startswith(f"{allowed}.") for allowed in (layer, *LAYERS[layer])):
                found.append(f"{where}: {layer} may import only {', '.join(LAYERS[layer]) or 'nothing'} of airdraft")
        elif any(f"{module.name}.".startswith(f"airdraft.{pure}.") for pure in PURE):
            if top in PURE_FORBIDDEN:
                found.append(f"{where}: {module.name} has no clock, no I/O and no randomness of its own")
            elif top not in PURE_THIRD_PARTY and top not in sys.stdlib_module_names:
                found.append(f"{where}: {module.name} needs only {', '.join(sorted(PURE_THIRD_PARTY))}")
    return found


def test_layers_import_downwards_only() -> None:
    found = [line for each in modules().values() for line in violations(each)]
    assert not found, "\n".join(found)


def test_the_package_is_where_this_test_looks() -> None:
    assert (PACKAGE / "errors.py").is_file()


def test_every_layer_is_there() -> None:
    assert set(LAYERS) == {[*name.split("."), "__init__"][1] for name in modules()}


MARKED = "<!-- layers:begin -->\n| layer | what it is | may import |\n|---|---|---|\n{}\n<!-- layers:end -->"


def test_the_table_is_read() -> None:
    rows = "| `a` | first | nothing |\n| `b` | `a` and more | `a` |\n| `c` | last | `a.b`, `b` |"
    assert layers(f"# Design\n\n{MARKED.format(rows)}\n") == {"a": (), "b": ("a",), "c": ("a.b", "b")}


@pytest.mark.parametrize(
    "page",
    [
        "| `a` | without marks | nothing |",
        MARKED.format("| `a` | its own, not in code | b |"),
        MARKED.format("| `a` | nothing said | |"),
        MARKED.format("| `a` | upwards | `b` |\n| `b` | | nothing |"),
        MARKED.format("| `a` | twice | nothing |\n| `a` | twice | nothing |"),
    ],
)
def test_a_table_that_is_none_is_refused(page: str) -> None:
    with pytest.raises(AssertionError):
        layers(page)


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
        ("airdraft.core.request", "from airdraft.control.auto import Auto"),
        ("airdraft.control.plan", "from airdraft.sim import pair"),
        ("airdraft.models.engines.onnx", "from airdraft.core import law"),
        ("airdraft.link.relay", "from airdraft.core import messages"),
        ("airdraft.sim.run", "from airdraft.models.engines.onnx import OnnxModel"),
        ("airdraft.sim.run", "from airdraft.models.baseline import Anything"),
        ("airdraft.sim.run", "from airdraft.models import base, onnx"),
        ("airdraft.device.client", "from airdraft.edge.server import serve"),
        ("airdraft.scheduler.turns", "import asyncio"),
        ("airdraft.scheduler.memory", "from concurrent.futures import ThreadPoolExecutor"),
        ("airdraft.scheduler.memory", "from airdraft.models.registry import load"),
        ("airdraft.edge.server", "from airdraft import __version__"),
        ("airdraft.edge.server", "if TYPE_CHECKING:\n    from airdraft.device import client"),
        ("airdraft.demo", "import airdraft.cli"),
        ("airdraft.lab.wall", "from airdraft.demo import show"),
        ("airdraft.nowhere", ""),
    ],
)
def test_the_checker_sees(module: str, source: str) -> None:
    assert len(violations(Module(module, source, False))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("airdraft", ""),
        ("airdraft.core.noise", "import math\nimport numpy as np\nfrom airdraft.errors import AirdraftError"),
        ("airdraft.core.schemes.dense", "from ..noise import gumbel\nfrom . import base"),
        ("airdraft.sim.run", "from airdraft.models.base import LanguageModel\nimport heapq"),
        ("airdraft.control.plan", "from airdraft.core.policy import Policy"),
        ("airdraft.link.relay", "import asyncio, socket"),
        ("airdraft.scheduler.loop", "import asyncio\nfrom airdraft.scheduler.turns import Share"),
        ("airdraft.edge.server", "from airdraft.version import __version__"),
        ("airdraft.cli", "from airdraft.demo import run\nfrom airdraft.edge import server"),
    ],
)
def test_the_checker_lets_pass(module: str, source: str) -> None:
    assert violations(Module(module, source, False)) == []


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert violations(Module("airdraft.core", "from . import noise", True)) == []
    assert len(violations(Module("airdraft.core", "from .. import models", True))) == 1

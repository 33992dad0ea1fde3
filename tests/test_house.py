"""The package keeps its shape: `tests/house.py` measures it, and sees what it should."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from . import house


@cache
def found() -> dict[str, dict[str, Any]]:
    """The measures of the package."""
    return house.measures(house.modules())


def made_up(sources: Mapping[str, str]) -> dict[str, house.Module]:
    """Modules out of sources; a name that others continue is a package."""
    return {
        name: house.Module(name, source, any(other.startswith(f"{name}.") for other in sources))
        for name, source in sources.items()
    }


def test_every_bar_is_met() -> None:
    assert {name: measured for name, measured in found().items() if not measured["met"]} == {}


@pytest.mark.parametrize(
    "sources",
    [
        {"airdraft.a": "import airdraft.b", "airdraft.b": "import airdraft.a"},
        {"airdraft.a": "from airdraft.b import thing", "airdraft.b": "from airdraft import a"},
        {"airdraft.a": "from . import b", "airdraft.b": "from .a import thing"},
        {"airdraft.a": "if TYPE_CHECKING:\n    from airdraft.b import thing", "airdraft.b": "import airdraft.a"},
        {"airdraft.a": "def f():\n    import airdraft.b", "airdraft.b": "import airdraft.a"},
        {"airdraft.a": "import airdraft.b", "airdraft.b": "import airdraft.c", "airdraft.c": "import airdraft.a"},
        {"airdraft.a": "from .b import thing", "airdraft.a.b": "from airdraft.a import other"},
        {"airdraft.a": "", "airdraft.a.b": "from .. import c", "airdraft.c": "from .a.b import f", "airdraft": ""},
    ],
)
def test_circles_are_seen(sources: dict[str, str]) -> None:
    assert len(house.circles(house.graph(made_up(sources)))) == 1


@pytest.mark.parametrize(
    "sources",
    [
        {"airdraft.a": "import airdraft.b", "airdraft.b": ""},
        {"airdraft.a": "from .b import c", "airdraft.a.b": "from . import c", "airdraft.a.c": "import numpy"},
        {"airdraft.a": "from airdraft.b import thing", "airdraft.b": "thing = 'import airdraft.a'"},
        {"airdraft": "from airdraft.a import f", "airdraft.a": "import airdraft_else", "airdraft.b": "import airdraft"},
    ],
)
def test_what_is_no_circle_passes(sources: dict[str, str]) -> None:
    assert house.circles(house.graph(made_up(sources))) == []


@pytest.mark.parametrize(
    ("module", "source", "lines"),
    [
        ("airdraft.lab", "x = 'stream'\ny = ('topk', 'dense')", [1, 2, 2]),
        ("airdraft.lab", "def f(scheme: Literal['split']) -> None:\n    'stream'", [1]),
        ("airdraft.lab", "match x:\n    case 'coupled':\n        pass", [2]),
        ("airdraft.lab", "x = 1\n'coupled'", []),
        ("airdraft.lab", "x = 'server', 'streams', b'stream', stream", []),
        ("airdraft.core.schemes", "x = 'stream'", []),
        ("airdraft.core.schemes.dense", "x = 'dense'", []),
        ("airdraft.core.schemes_of_old", "x = 'dense'", [1]),
    ],
)
def test_names_of_schemes_are_counted(module: str, source: str, lines: list[int]) -> None:
    assert house.literals(house.Module(module, source, False)) == lines


def test_sizes_are_counted() -> None:
    source = "class A:\n    async def f(self):\n        def g():\n            pass\n\n        return g\n"
    module = house.Module("airdraft.x", source, False)
    assert house.sizes(module, ast.ClassDef) == [(6, "airdraft.x.A")]
    functions = house.sizes(module, ast.FunctionDef, ast.AsyncFunctionDef)
    assert sorted(functions) == [(2, "airdraft.x.g"), (5, "airdraft.x.f")]


def test_bars_can_be_missed() -> None:
    big = (
        "class A:\n" + "    x = 0\n" * house.MOST_CLASS_LINES + "def f():\n" + "    x = 0\n" * house.MOST_FUNCTION_LINES
    )
    core = "\n" * (house.MOST_CORE_LINES + 1)
    names = "x = 'stream'\n" * (house.MOST_LITERALS + 1)
    sources = {"airdraft.a": f"{big}import airdraft.b", "airdraft.b": f"{names}import airdraft.a\nclass A: pass",
               "airdraft.core.c": core}  # fmt: skip
    measured = house.measures(made_up(sources))
    assert {name for name, each in measured.items() if not each["met"]} == set(found())


def test_private_names_may_be_used_twice() -> None:
    assert house.twice(made_up({"airdraft.a": "class _A: pass", "airdraft.b": "class _A: pass\nclass B: pass"})) == {}

"""docs/structure.md lists every module once, in its own words, and no page names a file that is gone.

`python -m pytest tests/test_structure.py` compares; with AIRDRAFT_WRITE_STRUCTURE=1 in the environment it rewrites the
marked blocks instead.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path

import pytest

from airdraft.sim import together

from .house import Module, modules

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "structure.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def file_of(module: Module) -> str:
    """Where it is, from `src/airdraft` on; a package is its folder."""
    path = "/".join(module.name.split(".")[1:])
    return f"{path}/__init__.py".lstrip("/") if module.is_package else f"{path}.py"


def sentence(module: Module) -> str:
    """The first sentence of its docstring."""
    said = ast.get_docstring(module.tree)
    assert said, f"{module.name} has no docstring"
    first = re.split(r"(?<=[.?!])\s+(?=[A-Z`\d])", " ".join(said.split("\n\n")[0].split()))[0]
    return first.replace("<", "&lt;").replace(">", "&gt;")


def lines_block(found: Mapping[str, Module]) -> str:
    """A heading for each folder, and a line for each module."""
    files = {file_of(module): module for module in found.values()}

    def folder(file: str) -> str:
        return file.partition("/")[0] if "/" in file else ""

    out = []
    for name, group in groupby(sorted(files, key=lambda file: (folder(file), file)), folder):
        out += [f"### {name or 'The package itself'}", ""]
        out += [f"- [`{file}`](../src/airdraft/{file}): {sentence(files[file])}" for file in group]
        out += [""]
    return "\n".join(out).rstrip()


def loop_block() -> str:
    """Where to begin, and how long that is."""
    length = len(inspect.getsource(together.write).splitlines())
    return f"The function `write` in [`sim/together.py`](../src/airdraft/sim/together.py), {length} lines."


BLOCKS: dict[str, Callable[[], str]] = {"loop": loop_block, "modules": lambda: lines_block(modules())}


def marked(name: str, page: str) -> re.Match[str]:
    found = re.search(rf"(<!-- {name}:begin -->\n)(.*?)(\n<!-- {name}:end -->)", page, re.DOTALL)
    assert found, f"docs/structure.md has no block {name}"
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_says_what_the_code_does(name: str) -> None:
    page, made = PAGE.read_text("utf-8"), BLOCKS[name]()
    found = marked(name, page)
    if os.environ.get("AIRDRAFT_WRITE_STRUCTURE"):
        PAGE.write_text(page[: found.start(2)] + made + page[found.end(2) :], "utf-8")
        return
    assert found[2] == made, "run it again with AIRDRAFT_WRITE_STRUCTURE=1"


def test_every_module_has_one_line() -> None:
    block = marked("modules", PAGE.read_text("utf-8"))[2]
    named = re.findall(r"^- \[`([\w./]+)`\]\(\.\./src/airdraft/\1\): \S.*[.?]$", block, re.MULTILINE)
    assert sorted(named) == sorted(file_of(module) for module in modules().values())
    assert len(named) == len([line for line in block.splitlines() if line.startswith("-")])


def gone(page: str) -> list[str]:
    """The Python files and the links that `page`, which stands in docs/ or above it, names, and which are not there."""
    files = re.findall(r"(?<![\w/.<])((?:\w+/)*\w+\.py)(?![\w/])", page)
    links = re.findall(r"\]\((?!https?:)([\w./-]+)(?:#[\w-]+)?\)", page)
    homes = (ROOT, ROOT / "src", ROOT / "src" / "airdraft", ROOT / "src" / "airdraft" / "core", ROOT / "docs")
    return sorted({name for name in [*files, *links] if not any((home / name).exists() for home in homes)})


@pytest.mark.parametrize("page", PAGES, ids=[path.name for path in PAGES])
def test_no_page_names_a_file_that_is_gone(page: Path) -> None:
    assert gone(page.read_text("utf-8")) == []


def test_the_checker_sees() -> None:
    assert gone("`core/writing.py` and [there](docs/nowhere.md#here), `tests/test_nothing.py`") == [
        "core/writing.py", "docs/nowhere.md", "tests/test_nothing.py",
    ]  # fmt: skip
    assert gone("`core/law.py`, `errors.py`, [here](docs/api.md#chats), [far](https://no.where/x.py)") == []


def test_a_line_is_the_first_sentence() -> None:
    found = {
        "airdraft": Module("airdraft", '"""On top. More."""', True),
        "airdraft.b.c": Module("airdraft.b.c", '"""One (RFC 6750), of\na few. Two."""', False),
        "airdraft.b": Module("airdraft.b", '"""Is this <b>?"""', True),
    }
    assert lines_block(found).splitlines() == [
        "### The package itself", "", "- [`__init__.py`](../src/airdraft/__init__.py): On top.", "",
        "### b", "", "- [`b/__init__.py`](../src/airdraft/b/__init__.py): Is this &lt;b&gt;?",
        "- [`b/c.py`](../src/airdraft/b/c.py): One (RFC 6750), of a few.",
    ]  # fmt: skip

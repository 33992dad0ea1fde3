"""docs/configuration.md names what the code reads, and nothing else."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub

from airdraft.edge.access import Entry
from airdraft.models.files import digest, shelf
from airdraft.models.imports.cache import CHECKPOINTS, GGUFS
from bench import site

PAGE = (site.ROOT / "docs" / "configuration.md").read_text("utf-8")
READERS = ("os.environ.get", "os.environ.setdefault", "os.getenv", "_of_environment")
"""Functions whose first argument is the name of a variable."""


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, as cells."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]


def first(heading: str) -> set[str]:
    return {name for cells in rows(heading) for name in re.findall(r"`([^`]+)`", cells[0])}


def variables(source: str) -> Iterator[str]:
    """Names of the variables that a module reads or sets, or for which one of its options stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield ast.literal_eval(node.slice)
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in READERS:
            yield from (str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant))
        yield from (ast.literal_eval(each.value) for each in node.keywords if each.arg == "envvar")


def of_code() -> set[str]:
    files = [path for folder in ("src", "training") for path in (site.ROOT / folder).rglob("*.py")]
    return {name for path in files for name in variables(path.read_text("utf-8"))}


def test_every_variable_of_the_code_is_on_the_page() -> None:
    assert first("Variables") == of_code()


def test_however_a_variable_is_read_it_is_found() -> None:
    source = "\n".join([
        "os.environ['A']", "os.environ.get('B')", "os.getenv('C', '')", "_of_environment('D', 'x')",
        "typer.Option(envvar='E')", "os.environ.setdefault('F', '1')",
    ])  # fmt: skip
    assert set(variables(source)) == set("ABCDEF")


def test_no_module_reads_them_in_another_way() -> None:
    """Else the first test would not see it."""
    for path in (site.ROOT / "src").rglob("*.py"):
        source = path.read_text("utf-8")
        uses = len(re.findall(r"\bos\.(?:environ|environb|getenv)\b|import (?:environ|getenv)", source))
        seen = len(re.findall(r"\bos\.(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\()", source))
        assert uses == seen + source.count("{**os.environ"), path


def test_variables_of_the_hub_are_its_own() -> None:
    library = "".join(path.read_text("utf-8") for path in Path(huggingface_hub.__file__).parent.rglob("*.py"))
    named = {cells[0].strip("`") for cells in rows("Variables of libraries") if "huggingface" in cells[1]}
    assert len(named) > 3
    assert all(f'"{name}"' in library for name in named)
    said = "".join(path.read_text("utf-8") for path in (site.ROOT / "src").rglob("*.py"))
    assert set(re.findall(r"\bHF_[A-Z_]+\b", said)) <= named


def test_the_fields_of_a_token_are_those_of_the_code() -> None:
    types = {"int": "integer", "float": "number", "str": "string"}
    hints = inspect.get_annotations(Entry) | inspect.get_annotations(Entry.__mro__[1])
    expected = {name: types[str(hint).split(" | ")[0]] for name, hint in hints.items()}
    assert {cells[0].strip("`"): cells[1] for cells in rows("The tokens' file")} == expected
    assert set(expected) == set(Entry.__struct_fields__)


def test_the_folders_of_the_cache_are_those_of_the_code() -> None:
    said = "".join(path.read_text("utf-8") for path in (site.ROOT / "src").rglob("*.py"))
    named = set(re.findall(r'cache_folder\(\) / "(\w+)"', said))
    assert first("The cache") == {*named, GGUFS, CHECKPOINTS, digest._KEPT, shelf._VOCABULARIES}

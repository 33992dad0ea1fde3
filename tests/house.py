"""Measures of the package's shape, each with its bar: `python tests/house.py` prints them as JSON.

Ends with exit code 1 if a bar is not met. A bar may be lowered by whoever improves the code, and never raised to let a
change pass.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "src" / "airdraft"
SCHEMES = frozenset({"dense", "topk", "lattice", "split", "coupled", "stream"})
"""Names that belong to `core/schemes`; elsewhere a trait is asked for. `server` and `auto` are words of many uses."""
SCHEMES_HOME = "airdraft.core.schemes"
MOST_LITERALS, MOST_CLASS_LINES, MOST_FUNCTION_LINES, MOST_CORE_LINES = 12, 220, 90, 6159


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    name: str
    """Dotted, from `airdraft` on; a package has its folder's name."""
    source: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.source)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All of the syntax tree, which many measures go through."""
        return tuple(ast.walk(self.tree))


@cache
def modules(root: Path = PACKAGE) -> dict[str, Module]:
    """Every module below `root`, by its name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, path.read_text(encoding="utf-8"), is_package)
    return found


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports, wherever in it.

    `from a.b import c` gives a.b.c, whether c is a module or a name in one.
    """
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")[: None if module.is_package else -1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for name in node.names:
                yield node.lineno, f"{base}.{name.name}"


def graph(found: Mapping[str, Module]) -> dict[str, set[str]]:
    """The modules that each module imports by name, under `TYPE_CHECKING` or inside a function too."""
    edges: dict[str, set[str]] = {}
    for module in found.values():
        named = set()
        for _, name in imports(module):
            parts = name.split(".")
            # The longest part of the name that is a module: the rest is a name in it.
            whole = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            named.add(next((each for each in whole if each in found), ""))
        edges[module.name] = named - {"", module.name}
    return edges


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others in the group."""
    reached = {name: _reached(name, edges) for name in edges}
    groups = {tuple(sorted(each for each in reached[name] if name in reached[each])) for name in edges}
    return sorted(list(group) for group in groups if group)


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    """Modules that an import of `start` leads to; `start` itself only if the way leads back."""
    seen: set[str] = set()
    todo = [*edges[start]]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += edges[name]
    return seen


def literals(module: Module) -> list[int]:
    """Lines with the name of a scheme as a string. Docstrings do not count, nor does the schemes' own package."""
    if f"{module.name}.".startswith(f"{SCHEMES_HOME}."):
        return []
    prose = {id(node.value) for node in module.nodes if isinstance(node, ast.Expr)}
    return sorted(
        node.lineno
        for node in module.nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value in SCHEMES
        and id(node) not in prose
    )


def sizes(module: Module, *kinds: type[ast.AST]) -> list[tuple[int, str]]:
    """Lines and dotted name of every definition of these kinds, without its decorators."""
    return [
        (node.end_lineno - node.lineno + 1, f"{module.name}.{node.name}")  # type: ignore[attr-defined]
        for node in module.nodes
        if isinstance(node, kinds)
    ]


def twice(found: Mapping[str, Module]) -> dict[str, list[str]]:
    """Names of public classes that are defined more than once, with where."""
    places = defaultdict(list)
    for module in found.values():
        for node in module.nodes:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.name)
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def core_lines(found: Mapping[str, Module]) -> int:
    """Lines of `core`, all of its packages included."""
    return sum(
        len(module.source.splitlines()) for name, module in found.items() if f"{name}.".startswith("airdraft.core.")
    )


def measures(found: Mapping[str, Module]) -> dict[str, dict[str, Any]]:
    """Each measure: what was found, its bar, whether that is met, and where to look if it is not."""
    rings = circles(graph(found))
    counted = Counter({name: len(literals(module)) for name, module in found.items()})
    classes = [size for module in found.values() for size in sizes(module, ast.ClassDef)]
    functions = [size for module in found.values() for size in sizes(module, ast.FunctionDef, ast.AsyncFunctionDef)]
    repeated = twice(found)
    return {
        "circles_of_imports": _measure(len(rings), 0, rings),
        "scheme_names_as_strings": _measure(counted.total(), MOST_LITERALS, +counted),
        "class_lines": _largest(classes, MOST_CLASS_LINES),
        "function_lines": _largest(functions, MOST_FUNCTION_LINES),
        "class_names_used_twice": _measure(len(repeated), 0, repeated),
        "core_lines": _measure(core_lines(found), MOST_CORE_LINES, []),
    }


def _measure(value: int, bar: int, where: Any) -> dict[str, Any]:
    return {"found": value, "bar": bar, "met": value <= bar, "where": where}


def _largest(found: list[tuple[int, str]], bar: int) -> dict[str, Any]:
    over = {name: lines for lines, name in sorted(found, reverse=True) if lines > bar}
    return _measure(max((lines for lines, _ in found), default=0), bar, over)


def main() -> int:
    """Print the measures. Returns the exit code: 1 if one is not met."""
    measured = measures(modules())
    print(json.dumps(measured, indent=1))  # noqa: T201
    return int(not all(each["met"] for each in measured.values()))


if __name__ == "__main__":
    sys.exit(main())

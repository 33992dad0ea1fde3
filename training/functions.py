"""Python functions in source text: their standalone form, their head, their near-duplicate fingerprint."""

from __future__ import annotations

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

_CAMEL = re.compile(r"\b_?[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*\b")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Function:
    """One function lifted out of its file and dedented to column 0."""

    name: str
    text: str  # from `def` (decorators left out: a prompt is a bare `def`) to the last line, newline ended
    head_lines: int  # lines of `text` before the first statement of the body that is not the docstring
    has_docstring: bool

    @property
    def head(self) -> str:
        """Signature plus docstring if any: what a completion starts from."""
        return "".join(self.text.splitlines(keepends=True)[: self.head_lines])


def function_nodes(tree: ast.Module) -> Iterator[FunctionNode]:
    """Top-level functions and the methods of top-level classes, in file order."""
    for node in tree.body:
        if isinstance(node, FunctionNode):
            yield node
        elif isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, FunctionNode):
                    yield child


def source_of(node: FunctionNode, lines: list[str]) -> str:
    """The node's own lines, dedented; `lines` keep their line ends."""
    text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
    return text.rstrip() + "\n"


def standalone(node: FunctionNode, lines: list[str]) -> Function | None:
    """The function as its own document, or None where dedenting broke it or it sits on one line."""
    text = source_of(node, lines)
    if not text.startswith(("def ", "async def ")):
        return None  # a multi-line string at column 0 stopped textwrap from dedenting
    docstring = ast.get_docstring(node, clean=False) is not None
    body = node.body[1:] if docstring else node.body
    head_lines = (body[0].lineno - node.lineno) if body else (node.end_lineno or node.lineno) - node.lineno + 1
    decorated = body[0].decorator_list if body and isinstance(body[0], FunctionNode | ast.ClassDef) else []
    if decorated:
        head_lines = decorated[0].lineno - node.lineno
    if head_lines < 1:
        return None
    return Function(node.name, text, head_lines, docstring)


def fingerprint(text: str) -> bytes:
    """8 bytes that two copies share even when re-indented or with classes renamed (`BertLayer`, `RobertaLayer`)."""
    flat = _SPACE.sub(" ", _CAMEL.sub("C", text)).strip()
    return hashlib.blake2b(flat.encode("utf-8", "replace"), digest_size=8).digest()


def lift(text: str) -> Function | None:
    """The first function of a piece of source, e.g. of a document of kind `function`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    node = next(function_nodes(tree), None)
    return None if node is None else standalone(node, text.splitlines(keepends=True))


def prompt_of(function: Function) -> str:
    """Signature and the docstring's first line only: what a person would type, and little of another's text."""
    tree = ast.parse(function.text)
    node = next(function_nodes(tree))
    lines = function.text.splitlines(keepends=True)
    signature = "".join(lines[: node.body[0].lineno - 1])
    docstring = ast.get_docstring(node)
    if docstring is None:
        return signature
    first = docstring.strip().splitlines()[0].replace('"""', "'''") if docstring.strip() else ""
    return f'{signature}    """{first}"""\n'


def completed(prompt: str, completion: str, ended: bool) -> str | None:
    """The function that `completion` finishes, or None where it never ends.

    It ends before the first line that starts at column 0, or where the model said END (`ended`).
    """
    body, closed = [], ended
    for line in completion.splitlines(keepends=True):
        if line[:1].strip():
            closed = True
            break
        body.append(line)
    return prompt + "".join(body) if closed else None


def parses(function: str | None, prompt: str) -> bool:
    """Whether a completion is valid Python and adds a statement to its prompt."""
    if function is None or not function[len(prompt) :].strip():
        return False
    try:
        ast.parse(function)
    except (SyntaxError, ValueError):
        return False
    return True

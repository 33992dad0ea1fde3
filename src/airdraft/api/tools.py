"""Tools: what a chat may call, the guide that makes it call, and the forms in which models write calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airdraft.api.errors import invalid, only
from airdraft.core.messages import GuideSpec
from airdraft.guides import of_lark
from airdraft.guides.grammar import LAYOUT

MOST_TOOLS, MOST_NAME = 128, 64
_TEXT = "(.|\\n)*"


@dataclass(frozen=True)
class CallForm:
    """The way in which a model writes calls, as its template shows them."""

    name: str
    sign: str
    """A word that the template has if calls are written in this way."""
    open: str = ""
    """What stands before each call; empty: calls stand at the beginning of an answer, and only there."""
    close: str = ""
    """What stands after each call."""
    begin: str = ""
    """What stands before the first of several calls, if they are a list."""
    end: str = ""
    between: str = "\n"
    arguments: str = "arguments"
    """The key under which a call has its arguments."""
    skipped: tuple[str, ...] = ()
    """Words that may stand before calls, and are no part of them."""


CALL_FORMS = (
    CallForm("hermes", "<tool_call>", "<tool_call>", "</tool_call>"),
    CallForm("mistral", "[TOOL_CALLS]", begin="[", end="]", between=", ", skipped=("[TOOL_CALLS]",)),
    CallForm(
        "llama3", "<|python_tag|>", between="; ", arguments="parameters", skipped=("<|python_tag|>",)
    ),
    CallForm("json", "", begin="[", end="]", between=", "),
)  # fmt: skip
"""The first whose sign a template has: Hermes and Qwen, Mistral, Llama 3, and any other that reads tools."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call."""

    name: str
    parameters: Mapping[str, Any]
    """The JSON schema of its arguments."""
    strict: bool


@dataclass(frozen=True)
class Tools:
    """The tools of a chat, and how it must use them."""

    tools: tuple[Tool, ...]
    must: bool = False
    """Whether the answer is a call."""
    only: frozenset[str] | None = None
    """The tools that may be called; None: all."""
    several: bool = True
    """Whether it may call more than once."""
    names: frozenset[str] = field(init=False)
    """Of the tools that may be called."""

    def __post_init__(self) -> None:
        names = frozenset(tool.name for tool in self.tools)
        object.__setattr__(self, "names", names if self.only is None else self.only)

    def guide(self, form: CallForm, words: GuideSpec | None = None) -> GuideSpec | None:
        """Return the grammar of answers; None if nothing holds them. Raises: `BadParameterError` if it is too large.

        Unless it must call, only tools that are all `strict` hold an answer, from where a call begins.
        words: the JSON schema of an answer that is no call, the first line of the grammar. It holds calls, too, because
        they stand in its place.
        """
        some = [tool for tool in self.tools if tool.name in self.names]
        if not (self.must or words or all(tool.strict for tool in some)):
            return None
        call = f"{_quoted(form.open)} body {_quoted(form.close)}" if form.open else "body"
        lines = ["body: " + " | ".join(f"call_{at}" for at in range(len(some)))]
        lines += [f"call_{at}: %json {json.dumps(_schema(tool, form))}" for at, tool in enumerate(some)]
        more = f"({_quoted(form.between)} call)*" if self.several else ""
        whole = f"{_quoted(form.begin)} call {more} {_quoted(form.end)}"
        if self.must:
            lines += [f"start: {whole}", f"call: {call}"]
        elif words:
            lines = [f"words: %json {_laid_out(words)}", *lines, f"start: {whole} | words", f"call: {call}"]
        elif form.open:
            lines += [
                "start: said* LAST" if self.several else "start: said? LAST", f"TEXT: /{_TEXT}/",
                f"LAST: /{_TEXT}/ & ~/{_TEXT}{form.open}{_TEXT}/",
                f"opened[lazy]: TEXT {json.dumps(form.open)}", f'said: opened "\\n" body {_quoted(form.close)}',
            ]  # fmt: skip
        else:
            lines += [f"start: {whole} | TEXT", f"call: {call}", f"TEXT: /([^\\[{{ \\n]{_TEXT})?/"]
        return of_lark("\n".join(lines))


def _laid_out(spec: GuideSpec) -> str:
    """The text of a schema that stands in a grammar, with the layout that it has alone."""
    schema = json.loads(spec.text)
    if not isinstance(schema, dict):
        return spec.text
    own = schema.get("x-guidance", {})
    return json.dumps({**schema, "x-guidance": {**LAYOUT, **own} if isinstance(own, dict) else own})


def _schema(tool: Tool, form: CallForm) -> dict[str, Any]:
    """The schema of a call of this tool. Its parameters are a document of their own, to which their `$ref`s lead."""
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, form.arguments: {"$id": "urn:parameters", **tool.parameters}},
        "required": ["name", form.arguments],
        "additionalProperties": False,
        "x-guidance": LAYOUT,
    }


def _quoted(words: str) -> str:
    """Words as a grammar has them; Hermes' tags stand on lines of their own."""
    lines = {"<tool_call>": "<tool_call>\n", "</tool_call>": "\n</tool_call>"}
    return json.dumps(lines.get(words, words)) if words else ""


def nested(tools: list[dict[str, Any]], flat: bool) -> list[dict[str, Any]]:
    """Return tools as templates know them. `flat`: as in `tools_of`."""
    if not flat:
        return tools
    return [
        {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
        for tool in tools
    ]


def tools_of(tools: Any, choice: Any, parallel: bool | None, flat: bool = False) -> Tools | None:
    """Return what `tools`, `tool_choice` and `parallel_tool_calls` ask for; None: nothing. Raises: `ApiError`.

    flat: what is said of a function stands beside its type, as in responses, and in no object of its own.
    """
    if tools in (None, []):
        if choice not in (None, "none", "auto"):
            raise invalid(
                "tool_choice", "tool_choice asks for a call, and there are no tools; give some, or leave it out"
            )
        return None
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS:
        raise invalid("tools", f"tools is no list of at most {MOST_TOOLS} tools; give one")
    found = tuple(_tool(f"tools[{at}]", each, flat) for at, each in enumerate(tools))
    names = [tool.name for tool in found]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise invalid(
                f"tools[{at}].{'' if flat else 'function.'}name", f"there are two tools named {name}; name them apart"
            )
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return Tools(found, choice == "required", None, parallel is not False)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        mode, some = _allowed(choice, flat)
        listed = frozenset(_named(each, names, flat) for each in some)
        return Tools(found, mode == "required", listed, parallel is not False)
    return Tools(found, True, frozenset([_named(choice, names, flat)]), several=False)


def _allowed(choice: dict[str, Any], flat: bool) -> tuple[str, list[Any]]:
    """Return what an `allowed_tools` of `tool_choice` says: `auto` or `required`, and the tools that may be called."""
    said = {name: value for name, value in choice.items() if name != "type"} if flat else choice.get("allowed_tools")
    said = said if isinstance(said, dict) else {}
    mode, some = said.get("mode"), said.get("tools")
    if mode not in ("auto", "required") or not isinstance(some, list) or not 0 < len(some) <= MOST_TOOLS:
        form = '"mode": "auto" or "required", "tools": […]'
        form = form if flat else f'"allowed_tools": {{{form}}}'
        raise invalid("tool_choice", f"tool_choice is of type allowed_tools, and is not {form}; give that")
    if not flat:
        only("tool_choice", choice, "type", "allowed_tools")
    only("tool_choice" if flat else "tool_choice.allowed_tools", said, "mode", "tools")
    return mode, some


def _named(choice: Any, names: list[str], flat: bool) -> str:
    """Return the tool that a choice names."""
    function = _function("tool_choice", choice, flat)
    one = function.get("name") if isinstance(function, dict) else None
    if function is None or not isinstance(one, str):
        form = '{"type": "function", "name": …}' if flat else '{"type": "function", "function": {"name": …}}'
        what = f"tool_choice is none of auto, none, required, {form} and a choice of allowed_tools among such"
        raise invalid("tool_choice", f"{what}; give one of them")
    only("tool_choice" if flat else "tool_choice.function", function, "name")
    if one not in names:
        raise invalid("tool_choice", f"tool_choice names {one[:MOST_NAME]!r}, which is none of the tools; give one")
    return one


def _function(where: str, given: Any, flat: bool) -> dict[str, Any] | None:
    """Return the object that says of a function what it is; None if there is none."""
    if not isinstance(given, dict) or given.get("type") != "function":
        return None
    if flat:
        return {name: value for name, value in given.items() if name != "type"}
    only(where, given, "type", "function")
    return found if isinstance(found := given.get("function"), dict) else None


def _tool(where: str, given: Any, flat: bool) -> Tool:
    function = _function(where, given, flat)
    if function is None:
        form = '"name": …, "parameters": …' if flat else '"function": {"name": …, "parameters": …}'
        raise invalid(where, f'{where} is no {{"type": "function", {form}}}, and nothing else can be called; give one')
    where = where if flat else f"{where}.function"
    only(where, function, "name", "description", "parameters", "strict")
    name, strict, parameters = function.get("name"), function.get("strict"), function.get("parameters")
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME or not name.replace("-", "_").isidentifier():
        field = f"{where}.name"
        raise invalid(field, f"{field} is no name of at most {MOST_NAME} letters, digits, - and _; give one")
    parameters = {"type": "object", "properties": {}} if parameters is None else parameters
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        field = f"{where}.parameters"
        raise invalid(field, f"{field} is no JSON schema of an object; give one")
    if strict not in (None, True, False):
        field = f"{where}.strict"
        raise invalid(field, f"{field} is neither true nor false; give one of them")
    return Tool(name, parameters, bool(strict))


@dataclass
class ToolCall:
    """A call as far as it is written."""

    name: str
    arguments: str = ""
    """JSON text."""


@dataclass
class Heard:
    """What is new of an answer: words, and parts of calls by their number, with the name of one that begins."""

    content: str = ""
    calls: list[tuple[int, str | None, str]] = field(default_factory=list)


class CallReader:
    """Reads an answer that comes in pieces, and tells words from calls. What is no call of a known tool is words."""

    def __init__(self, form: CallForm, names: frozenset[str]) -> None:
        self._form, self._names = form, names
        self.content = ""
        self.calls: list[ToolCall] = []
        self._text = ""
        """What is not told yet."""
        self._read = self._first if not form.open else self._words
        self._said = Heard()
        self._final = False
        self._object = _Object()
        self._skipped = ""
        """What stood before the first object, in case that is no call."""

    def push(self, text: str, final: bool = False) -> Heard:
        """Take the next piece; `final`: nothing comes after it."""
        self._text += text
        self._final, self._said = final, Heard()
        while self._read():
            pass
        return self._said

    def _tell(self, words: str) -> None:
        self.content += words
        self._said.content += words

    def _first(self) -> bool:
        """Before anything: does the answer begin with a call? Returns whether there may be more to read."""
        bare = self._text.lstrip()
        for skipped in self._form.skipped:
            if bare.startswith(skipped):
                bare = bare[len(skipped) :].lstrip()
            elif skipped.startswith(bare) and not self._final:
                return False
        if not bare and not self._final:
            return False
        if bare[:1] in ("{", "["):
            self._skipped = self._text[: len(self._text) - len(bare)]
            self._text, self._read = bare, self._next
        else:
            self._read = self._rest
        return True

    def _rest(self) -> bool:
        """All that comes is words."""
        self._tell(self._text)
        self._text = ""
        return False

    def _words(self) -> bool:
        """Words, until a call is opened."""
        at = self._text.find(self._form.open)
        if at >= 0:
            self._tell(self._text[:at].rstrip() if not self.calls else self._text[:at].strip())
            self._text, self._read = self._text[at + len(self._form.open) :], self._next
            return True
        held = next(n for n in range(len(self._form.open) - 1, -1, -1) if self._text.endswith(self._form.open[:n]))
        sure = self._text[: len(self._text) - held].rstrip()
        if self._final:
            sure = self._text if not self.calls else self._text.strip()
            self._text = ""
        else:
            self._text = self._text[len(sure) :]
        self._tell(sure if not self.calls or self._final else sure.lstrip())
        return False

    def _next(self) -> bool:
        """Where an object of a call should begin."""
        bare = self._text.lstrip("[,; \n\t\r" if not self._form.open else " \n\t\r")
        if bare.startswith("{"):
            if not self.calls:
                self._skipped += self._text[: len(self._text) - len(bare)]
            self._text, self._read, self._object = bare, self._call, _Object()
            return True
        if not bare:
            if self._final and (self._form.open or not self.calls):
                self._tell(self._form.open + self._skipped + self._text)
                self._text = ""
            return False
        if self._form.open:
            self._tell(self._form.open)
            self._read = self._words
            return True
        self._text = bare.lstrip("] \n\t\r") if self.calls else self._skipped + self._text
        self._read = self._rest
        return bool(self._text)

    def _call(self) -> bool:
        """Within the object of a call."""
        found = self._object
        found.read(self._text)
        if found.name is None and (begun := found.begun(self._names)) is not None:
            self.calls.append(ToolCall(begun))
            self._said.calls.append((len(self.calls) - 1, begun, ""))
        if found.name is not None and found.told < found.until:
            self._argue(self._text[found.told : found.until])
            found.told = found.until
        if not found.whole:
            if self._final and found.name is None:
                self._refuse(len(self._text))
            return False
        if found.name is None:
            known = _whole_call(self._text[: found.at], self._names)
            if known is None:
                self._refuse(found.at)
                return True
            self.calls.append(known)
            self._said.calls.append((len(self.calls) - 1, known.name, known.arguments))
        self._text = self._text[found.at :]
        self._read = self._closing if self._form.open else self._next
        return True

    def _refuse(self, length: int) -> None:
        """Tell an object that is no call as words."""
        self._tell(self._form.open + self._skipped + self._text[:length])
        self._text, self._skipped = self._text[length:], ""
        self._read = self._words if self._form.open else self._rest

    def _argue(self, words: str) -> None:
        self.calls[-1].arguments += words
        number, name, before = self._said.calls[-1] if self._said.calls else (-1, None, "")
        if number == len(self.calls) - 1:
            self._said.calls[-1] = (number, name, before + words)
        else:
            self._said.calls.append((len(self.calls) - 1, None, words))

    def _closing(self) -> bool:
        """After the object of a call, until it is closed."""
        bare = self._text.lstrip()
        if len(bare) < len(self._form.close) and self._form.close.startswith(bare) and not self._final:
            return False
        self._text = bare.removeprefix(self._form.close)
        self._read = self._words
        return True


class _Object:
    """A JSON object, read as it comes: where its arguments begin and end, and where it ends."""

    def __init__(self) -> None:
        self.at = 0
        """Characters read."""
        self.whole = False
        self.name: str | None = None
        """Once its arguments have begun behind its name."""
        self.told = self.until = 0
        """Arguments up to here were told, and are known."""
        self._depth, self._quoted, self._escaped = 0, False, False
        self._head = ""
        """What stands before the arguments, once they have begun."""
        self._inside = False

    def read(self, text: str) -> None:
        """Read on in the object, whose text so far this is."""
        while self.at < len(text) and not self.whole:
            letter = text[self.at]
            self.at += 1
            if self._quoted:
                self._quoted = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
                if self._depth == 2 and letter == "{" and not self._head:
                    self._head = text[: self.at - 1]
                    self.told = self.at - 1
                    self._inside = True
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 1 and self._inside:
                    self._inside, self.until = False, self.at
                self.whole = self._depth == 0
            if self._inside:
                self.until = self.at

    def begun(self, names: frozenset[str]) -> str | None:
        """Return the name of the call, if its arguments have begun right behind the name of a tool."""
        if not self._head:
            return None
        try:
            known = json.loads(self._head + "0}")
        except ValueError:
            return None
        if [*known] in (["name", "arguments"], ["name", "parameters"]) and known["name"] in names:
            self.name = known["name"]
        return self.name


def _whole_call(text: str, names: frozenset[str]) -> ToolCall | None:
    """Return the call that an object is; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = found.get("name")
    arguments = found.get("arguments", found.get("parameters"))
    if not isinstance(name, str) or name not in names:
        return None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def call_form(template: str) -> CallForm:
    """Return the form in which a model with this chat template writes calls."""
    return next(form for form in CALL_FORMS if form.sign in template)

"""Tools: calls are told from words however an answer is cut, guides hold them, and OpenAI's client reads them."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.api.app import device_app, edge_app
from airdraft.api.errors import ApiError
from airdraft.api.schema import ChatBody, parse
from airdraft.api.template import ChatTemplate
from airdraft.api.tools import CALL_FORMS, CallForm, CallReader, call_form, tools_of
from airdraft.core.messages import GuideSpec
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.guides import Guides, of_json
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..suites import examples
from .conftest import HOST

FORMS = {form.name: form for form in CALL_FORMS}
NAMES = frozenset({"weather", "stop"})


def tool(name: str, strict: bool = False, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
    }  # fmt: skip
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


def allowing(mode: str, *names: str) -> dict[str, Any]:
    """A `tool_choice` that names the tools that may be called."""
    some = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": some}}


WEATHER = tool("weather", city={"enum": ["Bonn", "Ulm"]}, days={"type": "integer", "minimum": 1, "maximum": 9})
STOP = tool("stop")


def spoken(form: CallForm, calls: list[tuple[str, str]]) -> str:
    """Calls as a model writes them, each by its name and its arguments in JSON."""
    texts = [f'{{"name": "{name}", "{form.arguments}": {arguments}}}' for name, arguments in calls]
    if form.open:
        texts = [f"{form.open}\n{text}\n{form.close}" for text in texts]
    return form.begin + form.between.join(texts) + form.end


def read(form: CallForm, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The words and calls of an answer, put together from what is told piece by piece, as a client does it."""
    reader, content, calls = CallReader(form, NAMES), "", list[list[str]]()
    for at, piece in enumerate(pieces):
        said = reader.push(piece, final=at == len(pieces) - 1)
        content += said.content
        for number, name, arguments in said.calls:
            if name is not None:
                calls.append([name, ""])
                assert number == len(calls) - 1
            calls[number][1] += arguments
    assert content == reader.content
    assert [(call.name, call.arguments) for call in reader.calls] == [tuple(call) for call in calls]
    return content, [(name, arguments) for name, arguments in calls]


VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('ab"{}[]\\ <é/', max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text('a{"', max_size=2), inner, max_size=2),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.text("ab", min_size=1, max_size=2), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(sorted(NAMES)), ARGUMENTS.map(json.dumps)), max_size=3)


@given(data=st.data(), name=st.sampled_from([*FORMS]), calls=CALLS)
@examples(150)
def test_calls_are_read_however_an_answer_is_cut(data: st.DataObject, name: str, calls: list[tuple[str, str]]) -> None:
    form = FORMS[name]
    words = data.draw(st.sampled_from(["", "Let me see. ", "a < b\n\n"])) if form.open or not calls else ""
    text = words + (data.draw(st.sampled_from(["", *form.skipped])) + spoken(form, calls) if calls else "")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    content, found = read(form, pieces)
    assert found == calls
    assert content == (words.rstrip() if calls else words)


SCRAPS = [
    "<tool_call>", "</tool_call>", '{"name": ', '"weather"', '"x"', ', "arguments": ', "{", "}", "[", "]", '"', "\\",
    " ", "\n", "word", ";",
]  # fmt: skip


@given(text=st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join), cut=st.integers(0, 40))
@examples(150)
def test_what_is_no_call_is_words_and_no_text_breaks_the_reader(text: str, cut: int) -> None:
    for form in CALL_FORMS:
        whole, pieces = read(form, [text]), read(form, [text[:cut], text[cut:]])
        assert whole == pieces
        if '"weather"' not in text:
            assert not whole[1]
            assert "".join(whole[0].split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"arguments": {"a": 1}, "name": "stop"}', '{"a": 1}'),
        ('{"type": "function", "name": "stop", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"name": "stop", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        (' {"name" : "stop", "arguments":{"a":1}} ', '{"a":1}'),
    ],
)
def test_calls_in_other_orders_are_read_too(text: str, arguments: str) -> None:
    assert read(FORMS["json"], [text[:9], text[9:]]) == ("", [("stop", arguments)])


def test_the_form_is_that_of_the_template() -> None:
    signs = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]", "llama3": "<|python_tag|>", "json": "tools"}
    assert {name: call_form(f"{{% if x %}}{sign}").name for name, sign in signs.items()} == {n: n for n in signs}


@pytest.mark.parametrize("name", FORMS)
def test_a_guide_holds_calls_and_leaves_words_alone(name: str, tokenizer: Tokenizer) -> None:
    form, guides = FORMS[name], Guides(tokenizer)

    def ends(choice: Any, text: str, several: bool = True, strict: bool = True, words: GuideSpec | None = None) -> bool:
        given = [tool("weather", strict, city={"enum": ["Bonn"]}), tool("stop", strict)]
        tools = tools_of(given, choice, several)
        assert tools is not None
        spec = tools.guide(form, words)
        if spec is None:
            return True
        state = guides.make(spec, (0,))
        for token in tokenizer.encode(text, special=False):
            allowed = state.allowed()
            if allowed is None or not allowed[token]:
                return False
            state = state.after(token)
        allowed = state.allowed()
        return allowed is not None and bool(allowed[0])

    right, wrong = ("weather", '{"city": "Bonn"}'), ("weather", '{"city": "Rome"}')
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", "auto"):
        assert ends(choice, spoken(form, [right]))
        assert ends(choice, spoken(form, [right, ("stop", "{}")]))
        assert not ends(choice, spoken(form, [right, right]), several=False)
        assert not ends(choice, spoken(form, [wrong]))
        assert ends(choice, "It is sunny.") == ends(choice, "") == (choice == "auto")
    assert ends(named, spoken(form, [right]))
    assert not ends(named, spoken(form, [("stop", "{}")]))
    assert not ends(named, spoken(form, [right, right]))
    assert ends("auto", "anything", strict=False)
    said = of_json({"type": "object", "properties": {"sun": {"type": "boolean"}}, "additionalProperties": False})
    for choice, strict in itertools.product(("required", "auto"), (True, False)):
        assert ends(choice, '{"sun": true}', strict=strict, words=said) == (choice == "auto")
        assert ends(choice, spoken(form, [right]), strict=strict, words=said)
        for other in ("It is sunny.", '{"sun": 5}', '{"sun":true}', spoken(form, [wrong])):
            assert not ends(choice, other, strict=strict, words=said)
    for mode in ("required", "auto"):
        some = allowing(mode, "weather")
        assert ends(some, spoken(form, [right, right]))
        assert not ends(some, spoken(form, [right, ("stop", "{}")]))
        assert not ends(some, spoken(form, [wrong]))
        assert ends(some, "It is sunny.") == (mode == "auto")


@pytest.mark.parametrize("own", [{}, {"$id": "https://a.example/b"}])
def test_parameters_refer_to_themselves(own: dict[str, str], tokenizer: Tokenizer) -> None:
    """Schemas of nested types, as clients make them, have `$defs`, and `$ref`s that lead there from their own root."""
    parameters = {
        **own, "$defs": {"Day": {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"const": 1}}}},
        "type": "object", "properties": {"day": {"$ref": "#/$defs/Day"}},
    }  # fmt: skip
    tools = tools_of([{"type": "function", "function": {"name": "plan", "parameters": parameters}}], "required", None)
    assert tools is not None
    spec = tools.guide(FORMS["json"])
    assert spec is not None
    state = Guides(tokenizer).make(spec, (0,))
    text = '[{"name": "plan", "arguments": {"day": {"next": {"day": {"n": '
    for token in tokenizer.encode(text, special=False):
        allowed = state.allowed()
        assert allowed is not None
        assert allowed[token]
        state = state.after(token)
    allowed = state.allowed()
    assert allowed is not None
    [one], [two] = (tokenizer.encode(each, special=False) for each in "12")
    assert allowed[one]
    assert not allowed[two]


@pytest.mark.parametrize("flat", [True, False])
def test_what_may_not_be_called_is_words(flat: bool) -> None:
    given: Any = [WEATHER, STOP]
    choice = allowing("auto", "weather")
    if flat:
        given = [{"type": "function", **each["function"]} for each in given]
        choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    found = tools_of(given, choice, None, flat)
    assert found is not None
    assert [each.name for each in found.tools] == ["weather", "stop"]  # the prompt has both
    assert (found.must, found.several, found.names) == (False, True, frozenset({"weather"}))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [WEATHER, STOP, WEATHER]}, "tools[2].function.name"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": [STOP] * 200}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0]"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": 5}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "function", "function": {"name": "a", "of": 5}}]}, "tools[0].function.of"),
        ({"tools": [{"type": "function", "function": {"name": "a"}, "of": 5}]}, "tools[0].of"),
        ({"tools": [STOP], "tool_choice": "weather"}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": allowing("auto")}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": {**allowing("auto", "stop"), "mode": "auto"}}, "tool_choice.mode"),
        ({"tools": [STOP], "tool_choice": allowing("none", "stop")}, "tool_choice"),
        ({"tools": [STOP], "tool_choice": allowing("required", "stop", "weather")}, "tool_choice"),
        ({"tools": [STOP], "regex": "a+"}, "regex"),
        ({"tools": [STOP], "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(ChatBody, json.dumps({"messages": [{"role": "user", "content": "x"}], **body}).encode())
    assert (caught.value.status, caught.value.param) == (400, param)


# ---- With OpenAI's client --------------------------------------------------------------------------------------------

TEMPLATE = """\
{% for tool in tools %}# tool: {{ tool | tojson }}\n{% endfor %}
{%- for message in messages %}# {{ message.role }}: {{ message.content }}
{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- endfor %}# assistant:"""


async def _a_form_beside_tools(create: Any, asked: dict[str, Any], named: Any, function: Any) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["sun", "rain"]}}}
    either = (await create(**asked, response_format=form)).choices[0].message
    assert either.tool_calls or json.loads(either.content) in ("sun", "rain")
    called = await create(**asked, tool_choice=named, response_format=form)
    assert called.choices[0].message.tool_calls[0].function == function
    form["json_schema"]["schema"] = {"type": "nonsense"}
    with pytest.raises(openai.BadRequestError, match="nonsense") as caught:
        await create(**asked, response_format=form)
    assert caught.value.param == "response_format.json_schema"


@pytest.mark.slow
def test_openais_client_calls_tools_and_answers_them(
    tmp_path: Path, target: OnnxModel, draft: OnnxModel, tokenizer: Tokenizer
) -> None:
    (tmp_path / "tools.jinja").write_text(TEMPLATE)
    chat, guides = ChatTemplate.of(shipped("draft"), tmp_path / "tools.jinja"), Guides(tokenizer)
    asked: Any = {
        "model": "target", "messages": [{"role": "user", "content": "Weather?"}], "max_tokens": 48, "seed": 3,
        "tools": [WEATHER, STOP],
    }  # fmt: skip

    async def check(port: int) -> None:
        async with openai.AsyncOpenAI(base_url=f"http://{HOST}:{port}/v1", api_key="none", max_retries=0) as client:
            create: Any = client.chat.completions.create
            named = {"type": "function", "function": {"name": "weather"}}
            whole = await create(**asked, tool_choice=named)
            [call] = whole.choices[0].message.tool_calls
            arguments = json.loads(call.function.arguments)
            assert (call.type, call.function.name, whole.choices[0].message.content) == ("function", "weather", None)
            assert arguments["city"] in ("Bonn", "Ulm")
            assert 1 <= arguments["days"] <= 9
            assert whole.choices[0].finish_reason == "tool_calls"

            chunks = [chunk async for chunk in await create(**asked, tool_choice=named, stream=True)]
            deltas = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
            assert [(part.index, part.function.name) for part in deltas if part.id] == [(0, "weather")]
            assert "".join(part.function.arguments or "" for part in deltas) == call.function.arguments
            assert chunks[-1].choices[0].finish_reason == "tool_calls"
            assert not any(chunk.choices[0].delta.content for chunk in chunks)

            both = await create(**{**asked, "temperature": 0}, tool_choice="required")
            calls = both.choices[0].message.tool_calls
            assert {each.function.name for each in calls} <= {"weather", "stop"}
            if both.choices[0].finish_reason != "length":
                assert all(isinstance(json.loads(each.function.arguments), dict) for each in calls)
            one = await create(**asked, tool_choice="required", parallel_tool_calls=False)
            assert len(one.choices[0].message.tool_calls) == 1

            free = await create(**{**asked, "tools": [WEATHER]}, tool_choice="auto")
            assert free.choices[0].message.content
            assert free.choices[0].message.tool_calls is None
            none = await create(**{**asked}, tool_choice="none")
            plain = await create(**{**asked, "tools": openai.omit})
            assert none.choices[0].message.content == plain.choices[0].message.content

            await _a_form_beside_tools(create, asked, named, call.function)
            answered = [
                *asked["messages"], whole.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
            ]  # fmt: skip
            again = await create(**{**asked, "messages": answered})
            assert again.usage.prompt_tokens > whole.usage.prompt_tokens + 10

            never = tool("never", x={"type": "integer", "minimum": 5, "maximum": 1})
            for bad in ([never], [tool("odd", x={"type": "nonsense"})]):
                with pytest.raises(openai.BadRequestError) as caught:
                    await create(**{**asked, "tools": bad}, tool_choice="required")
                assert caught.value.param == "tools"

    async def main() -> None:
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size, service=Service(reader=guides)) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with (
                Writer([url], draft, tokenizer.digest, tokenizer.vocab_size, reader=guides) as writer,
                serving(device_app(writer, tokenizer, "target", chat), HOST, 0) as device,
                serving(edge_app(server, tokenizer, chat), HOST, 0) as edge,
            ):
                await check(device)
                await check(edge)

    asyncio.run(main())

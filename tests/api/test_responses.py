"""Responses: OpenAI's own client creates, streams and parses them, goes on from them, and calls tools in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.api.app import device_app, edge_app
from airdraft.api.errors import ApiError
from airdraft.api.items import messages_of
from airdraft.api.kept import SHARE, Responses, owner_of
from airdraft.api.reading import End, Piece
from airdraft.api.response_body import LIKELY, ResponseBody
from airdraft.api.responses import ResponseAnswer
from airdraft.api.schema import parse
from airdraft.api.template import ChatTemplate
from airdraft.core.messages import SchemeSpec
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer, Service
from airdraft.errors import AirdraftError, ModelError
from airdraft.guides import Guides
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..suites import examples
from .conftest import END, HOST, Truth, loop_in_thread

TEMPLATE = """\
{% for tool in tools %}# tool: {{ tool | tojson }}\n{% endfor %}
{%- for message in messages %}# {{ message.role }}: {{ message.content }}
{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{%- endfor %}# assistant:"""
WEATHER: Any = {
    "type": "function", "name": "weather", "description": "Tell it.", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Bonn", "Ulm"]}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city", "days"], "additionalProperties": False,
    },
}  # fmt: skip
USUAL: Any = {"model": "target", "temperature": 0.7, "max_output_tokens": 20}


class Town(pydantic.BaseModel):
    """What an answer is parsed as."""

    name: Literal["Bonn", "Ulm"]
    rivers: Literal[1, 2]


@pytest.fixture(scope="module")
def urls(target: OnnxModel, draft: OnnxModel, tokenizer: Tokenizer) -> Iterator[dict[str, str]]:
    """Where a device and an edge serve the API, with a template."""
    chat, guides = ChatTemplate(TEMPLATE, {}, shipped("target") / "tokenizer.json"), Guides(tokenizer)

    @contextlib.asynccontextmanager
    async def both() -> AsyncIterator[dict[str, str]]:
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size, service=Service(reader=guides)) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with (
                Writer([url], draft, tokenizer.digest, tokenizer.vocab_size, reader=guides) as writer,
                serving(device_app(writer, tokenizer, "target", chat), HOST, 0) as device,
                serving(edge_app(server, tokenizer, chat), HOST, 0) as edge,
            ):
                await writer.connect()
                yield {side: f"http://{HOST}:{port}/v1" for side, port in (("device", device), ("edge", edge))}

    with loop_in_thread() as submit:
        context = both()
        yield submit(context.__aenter__())
        submit(context.__aexit__(None, None, None))


@pytest.fixture(scope="module", params=["device", "edge"])
def talk(request: pytest.FixtureRequest, urls: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=urls[request.param], api_key="none", max_retries=0) as client:
        yield client


# ---- With OpenAI's client --------------------------------------------------------------------------------------------


def test_a_response_is_the_targets_own_text(talk: openai.OpenAI, truth: Truth, tokenizer: Tokenizer) -> None:
    rendered = tokenizer.encode("# system: Be brief.\n# user: A list?\n# assistant:", special=False)
    texts = ((seed, truth(rendered, seed=seed, max_tokens=20, temperature=0.7)) for seed in range(4, 99))
    seed, ids = next((seed, ids) for seed, ids in texts if END not in ids)  # it is cut off
    expected = tokenizer.decode(ids)
    asked: Any = {**USUAL, "instructions": "Be brief.", "input": "A list?", "extra_body": {"seed": seed}}
    whole = talk.responses.create(**asked)
    assert whole.output_text == expected
    assert (whole.status, whole.model, whole.object) == ("incomplete", "target", "response")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert (whole.usage.output_tokens, whole.usage.total_tokens) == (20, whole.usage.input_tokens + 20)
    assert (whole.temperature, whole.instructions, whole.max_output_tokens) == (0.7, "Be brief.", 20)
    again = talk.responses.create(**asked)
    assert again.output_text == expected
    assert again.usage is not None
    if "edge" in str(talk.base_url) or again.usage.input_tokens_details.cached_tokens:
        assert again.usage.input_tokens_details.cached_tokens < again.usage.input_tokens
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "user", "content": "A list?", "status": "completed"},
    ]
    assert talk.responses.create(**{**asked, "instructions": None, "input": items}).output_text == expected


def test_events_come_in_the_official_order_and_make_the_same_response(talk: openai.OpenAI) -> None:
    asked: Any = {**USUAL, "input": "Why?", "extra_body": {"seed": 1}, "metadata": {"who": "me"}}
    whole = talk.responses.create(**asked)
    found: list[Any] = list(talk.responses.create(**asked, stream=True))
    kinds = [event.type for event in found]
    deltas = kinds.count("response.output_text.delta")
    assert deltas
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * deltas, "response.output_text.done", "response.content_part.done",
        "response.output_item.done", f"response.{whole.status}",
    ]  # fmt: skip
    assert [event.sequence_number for event in found] == [*range(len(found))]
    assert "".join(event.delta for event in found if event.type == kinds[4]) == whole.output_text
    assert found[0].response.status == found[1].response.status == "in_progress"
    last = found[-1].response
    assert (last.output_text, last.status, last.metadata) == (whole.output_text, whole.status, {"who": "me"})
    assert last.id == found[0].response.id != whole.id
    assert {event.item_id for event in found if hasattr(event, "item_id")} == {last.output[0].id}
    with talk.responses.stream(**asked) as stream:
        snapshot = [event.snapshot for event in stream if event.type == "response.output_text.delta"][-1]
    assert snapshot == whole.output_text


def test_a_form_is_parsed_and_streamed(talk: openai.OpenAI) -> None:
    parsed = talk.responses.parse(**{**USUAL, "max_output_tokens": 60}, input="A town?", text_format=Town)
    assert isinstance(parsed.output_parsed, Town)
    assert parsed.status == "completed"
    with talk.responses.stream(
        **{**USUAL, "max_output_tokens": 60}, input="A town?", text_format=Town, extra_body={"seed": 2}
    ) as stream:
        for event in stream:
            assert event.type != "response.failed"
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Town)
    form: Any = {"format": {"type": "json_object"}}
    loose = talk.responses.create(**USUAL, input="x", text=form)
    assert loose.output_text.startswith("{")
    assert loose.text is not None
    assert loose.text.format is not None
    assert loose.text.format.type == "json_object"


def test_tools_are_called_and_answered(talk: openai.OpenAI) -> None:
    asked: Any = {**USUAL, "max_output_tokens": 80, "input": "Weather?", "tools": [WEATHER], "extra_body": {"seed": 3}}
    named: Any = {"type": "function", "name": "weather"}
    whole = talk.responses.create(**asked, tool_choice=named)
    [call] = whole.output
    assert call.type == "function_call"
    assert (call.name, call.status, whole.status) == ("weather", "completed", "completed")
    assert json.loads(call.arguments)["city"] in ("Bonn", "Ulm")
    events: list[Any] = list(talk.responses.create(**asked, tool_choice=named, stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.function_call_arguments.delta")
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        *["response.function_call_arguments.delta"] * deltas, "response.function_call_arguments.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in events[3 : 3 + deltas]) == call.arguments == events[3 + deltas].arguments
    assert events[2].item.arguments == ""
    some = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    with talk.responses.stream(**asked, tool_choice=some, parallel_tool_calls=False) as stream:
        [parsed] = stream.get_final_response().output
    assert parsed.type == "function_call"
    assert parsed.name == "weather"

    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    said: Any = [{"role": "user", "content": "Weather?"}, *whole.output, output]
    spelt = talk.responses.create(**{**asked, "input": said})
    kept = talk.responses.create(**{**asked, "input": [output]}, previous_response_id=whole.id)
    assert spelt.output_text == kept.output_text
    assert spelt.usage is not None
    assert kept.usage is not None
    assert spelt.usage.input_tokens == kept.usage.input_tokens
    assert kept.previous_response_id == whole.id


def test_a_talk_goes_on_from_a_response_that_is_kept(talk: openai.OpenAI) -> None:
    first = talk.responses.create(**USUAL, input="One?", instructions="Be brief.", extra_body={"seed": 5})
    assert first.model_extra is not None
    assert first.store is True
    got = talk.responses.retrieve(first.id)
    assert (got.output_text, got.status) == (first.output_text, first.status)
    second = talk.responses.create(**USUAL, input="Two?", previous_response_id=first.id, extra_body={"seed": 6})
    said: Any = [
        {"role": "user", "content": "One?"}, *first.output, {"role": "user", "content": "Two?"},
    ]  # fmt: skip
    spelt = talk.responses.create(**USUAL, input=said, store=False, extra_body={"seed": 6})
    assert second.output_text == spelt.output_text
    assert spelt.store is False
    talk.responses.delete(first.id)
    for name in (first.id, spelt.id, "resp_of_nobody", "x" * 9000):
        with pytest.raises(openai.BadRequestError) as caught:
            talk.responses.create(**USUAL, input="Three?", previous_response_id=name)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
        assert len(str(caught.value)) < 500
    for get in (talk.responses.retrieve, talk.responses.delete):
        with pytest.raises(openai.NotFoundError):
            get(first.id)
    assert talk.responses.retrieve(second.id).output_text == second.output_text
    other = talk.with_options(api_key="another")
    with pytest.raises(openai.NotFoundError):
        other.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError):
        other.responses.create(**USUAL, input="Three?", previous_response_id=second.id)
    private: Any = [{"role": "user", "content": "One?", "airdraft": {"private": True}}]
    assert talk.responses.create(**USUAL, input=private).store is False


def test_log_probabilities_are_those_of_a_chat(talk: openai.OpenAI) -> None:
    asked: Any = {**USUAL, "extra_body": {"seed": 7}, "top_logprobs": 2, "input": "Why?", "include": [LIKELY]}
    whole: Any = talk.responses.create(**asked)
    chat: Any = talk.chat.completions.create(
        model="target", temperature=0.7, max_tokens=20, seed=7, logprobs=True, top_logprobs=2,
        messages=[{"role": "user", "content": "Why?"}],
    )  # fmt: skip
    told = whole.output[0].content[0].logprobs
    for one, other in zip(told, chat.choices[0].logprobs.content, strict=True):
        assert (one.token, one.bytes) == (other.token, other.bytes)
        for mine, its in zip([one, *one.top_logprobs], [other, *other.top_logprobs], strict=True):
            assert mine.token == its.token
            assert mine.logprob == pytest.approx(its.logprob, abs=1e-3)  # rows depend on those beside them
    events: Any = list(talk.responses.create(**asked, stream=True))
    parts = [each for event in events if event.type == "response.output_text.delta" for each in event.logprobs]
    assert [each.token for each in parts] == [each.token for each in told]


def test_an_error_before_the_first_event_has_a_status(talk: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            talk.responses.create(model="target", input="word " * 5000, stream=stream)
        assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as caught:
        talk.responses.create(
            model="target", input="x", text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "odd"}}}
        )  # type: ignore[call-overload]
    assert caught.value.param == "text.format"
    with pytest.raises(openai.NotFoundError):
        talk.embeddings.create(model="target", input="x")
    with pytest.raises(openai.NotFoundError):
        talk.responses.create(model="another", input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        talk.get("/responses/resp_1?stream=true", cast_to=object)
    assert caught.value.param == "stream"


def test_a_text_that_fails_ends_its_stream_with_the_error(tokenizer: Tokenizer) -> None:
    def answer() -> ResponseAnswer:
        request = Request([1], SchemeSpec("stream"), SamplingParams(), 0, 9)
        return ResponseAnswer(body(), None, "target", False, [request], [""], 1, tokenizer, dict)

    async def failing(pieces: list[Piece]) -> AsyncGenerator[tuple[int, Piece | End], None]:
        for piece in pieces:
            yield 0, piece
        raise ModelError("too much for the engine")

    async def main() -> None:
        events = [event async for event in answer().chunks(failing([Piece("so")]), False)]
        assert [event["type"] for event in events[-3:]] == ["response.output_text.delta", "error", "response.failed"]
        assert [event["sequence_number"] for event in events] == [*range(len(events))]
        assert (events[-2]["message"], events[-2]["param"]) == ("too much for the engine", None)
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["message"]) == ("failed", "too much for the engine")
        for pieces in ([], [Piece("so")]):
            with pytest.raises(AirdraftError, match="too much"):
                await answer().whole(failing(pieces))
        with pytest.raises(ApiError, match="too much"):
            await anext(answer().chunks(failing([]), False))

    asyncio.run(main())


# ---- Bodies and items ------------------------------------------------------------------------------------------------


def body(**fields: Any) -> ResponseBody:
    return parse(ResponseBody, json.dumps({"input": "x", **fields}).encode())


CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": '{"a": 1}', "status": None}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]}
TEXT = {"type": "text", "text": "x"}


def test_items_are_the_messages_of_a_chat() -> None:
    said = {
        "type": "message", "role": "assistant", "id": "m", "status": "completed",
        "content": [{"type": "output_text", "text": "well", "annotations": [], "logprobs": []}],
    }  # fmt: skip
    other = {**CALL, "call_id": "d"}
    found = messages_of([{"role": "developer", "content": "b"}, *body().items(), said, CALL, other, OUTPUT], "a")
    calls = [
        {"id": each, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}} for each in ("c", "d")
    ]
    assert found == [
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": [TEXT]},
        {"role": "assistant", "content": [{"type": "text", "text": "well"}], "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}], "name": "f"},
    ]
    private = {"role": "user", "content": [TEXT], "airdraft": {"private": True}}
    assert messages_of([private])[0]["content"] == [{**TEXT, "airdraft": {"private": True}}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "input[0]"),
        ({"input": [{"type": ["message"], "role": "user"}]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "input[0].name"),
        ({"input": [{"role": "user", "content": "x", "airdraft": 5}]}, "input[0].airdraft"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{**TEXT, "odd": 1}]}]}, "input[0].content[0].odd"),
        ({"input": [{**CALL, "arguments": "{"}]}, "input[0].arguments"),
        ({"input": [{**CALL, "arguments": "[]"}]}, "input[0].arguments"),
        ({"input": [{**CALL, "name": None}]}, "input[0].name"),
        ({"input": [{**CALL, "namespace": "n"}]}, "input[0].namespace"),
        ({"input": [OUTPUT]}, "input[0].call_id"),
        ({"input": [CALL, {**OUTPUT, "output": 4}]}, "input[1].output"),
        ({"n": 2}, "n"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"include": [LIKELY], "tools": [WEATHER]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}, "required": []}}}, "text.format.required"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather", "n": 1}}, "tool_choice.n"),
        ({"text": {"odd": 1}}, "text"),
        ({"regex": "a+", "tools": [WEATHER]}, "regex"),
        ({"text": {"format": {"type": "json_object"}}, "regex": "a"}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].function"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{}]}}, "tool_choice"),
        ({"tools": [{**WEATHER, "parameters": {"type": "array"}}]}, "tools[0].parameters"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"before": []}, "before"),
        ({"messages": []}, "messages"),
        ({"input": [{"type": "reasoning", "summary": []}], "instructions": "Be brief."}, "input"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        body(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_what_agents_send_beside_asks_for_nothing() -> None:
    """Fields that Codex and the agents' library send with every request."""
    body(
        include=["reasoning.encrypted_content"], prompt_cache_key="k", reasoning=None, service_tier="auto", store=False,
        truncation="disabled", parallel_tool_calls=True, tool_choice="auto", tools=[], stream=True, user="me",
        reasoning_effort=None, text={"format": {"type": "text"}, "verbosity": None}, metadata={}, max_tool_calls=4,
    )  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["message", "user", "function_call", "c", "{}", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "call_id", "name", "arguments", "output", "text", "airdraft"]),
        inner, max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=4))
@examples(300)
def test_any_input_is_read_or_refused_by_its_place(items: list[Any]) -> None:
    found, refused = list[Any](), None
    try:
        found = body(input=items).talk()
    except ApiError as error:
        refused = error
    assert refused is None or (refused.status, (refused.param or "")[:5]) == (400, "input")
    assert bool(found) == (refused is None)
    assert all(message["role"] in ("system", "user", "assistant", "tool") for message in found)


# ---- What is kept ----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120), st.booleans()), max_size=40))
@examples(150)
def test_what_is_kept_is_bounded_and_the_latest(steps: list[tuple[int, int, bool]]) -> None:
    most, most_bytes = 4, 800
    kept, held = Responses(most, most_bytes), dict[str, int]()
    for number, length, drop in steps:
        name = f"r{number}"
        if drop:
            assert kept.drop(b"me", name) == (held.pop(name, None) is not None)
        elif name not in held:
            size = len(json.dumps([{}, ["x" * length]], separators=(",", ":")))
            assert kept.put(b"me", name, {}, ["x" * length]) == (size <= most_bytes // SHARE)
            if size <= most_bytes // SHARE:
                held[name] = size
            while len(held) > most or sum(held.values()) > most_bytes:
                del held[next(iter(held))]
        assert kept.size == sum(held.values())
        assert kept.get(b"you", name) is None
        if (found := kept.get(b"me", name)) is not None:
            held[name] = held.pop(name)
        assert (found is not None) == (name in held)
    assert owner_of("Bearer a") != owner_of("Bearer b")

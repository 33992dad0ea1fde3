"""Every field with every kind of value, at all endpoints of both servers: done, or a 400 that names it.

The fields are those of the table, so a new row is tried as well. All choices are drawn from fixed seeds.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.api.errors import as_api_error
from airdraft.api.fields import BY_NAME, FIELDS, Endpoint, Fate
from airdraft.api.response_body import ResponseBody
from airdraft.api.schema import Body, ChatBody, CompletionBody, parse
from airdraft.api.template import ChatTemplate
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer
from airdraft.errors import AirdraftError
from airdraft.models.base import OneByOne
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..edge.loopback import HOST, Table
from .conftest import loop_in_thread

CONTEXT = 24
REQUESTS = 60
BODIES: dict[Endpoint, type[Body]] = {
    Endpoint.COMPLETIONS: CompletionBody, Endpoint.CHATS: ChatBody, Endpoint.RESPONSES: ResponseBody,
}  # fmt: skip
USUAL: dict[Endpoint, dict[str, Any]] = {
    Endpoint.COMPLETIONS: {"prompt": "x = ", "max_tokens": 3},
    Endpoint.CHATS: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
    Endpoint.RESPONSES: {"input": "x", "max_output_tokens": 3},
}
ENDS = ("response.completed", "response.incomplete")
FOREIGN = ("maxTokens", "max_length", "top-p", "Temperature", "stream_options.include_usage", "messages[0]", "said", "")
NAMES = sorted({name.partition(".")[0] for _, name in BY_NAME} | {*FOREIGN})


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


TEXT = {"type": "text", "text": "a"}
MESSAGES: tuple[Any, ...] = (
    [{"role": "user", "content": "x"}],
    [{"role": "user", "content": "x", "name": "n", "refusal": None}],
    [{"role": "user"}],
    [{"role": None}],
    [{"content": "x"}],
    [{"role": "user", "content": [TEXT, TEXT]}],
    [{"role": "user", "content": [TEXT, {"type": "text", "text": None}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": "x", "images": [1]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}],
    [{"role": "assistant", "tool_calls": 5}],
)
NUMBERS = (0, 1, -1, -2, 3, 6.0, 5.5, -0.0, 1e-300, 1e300, 20, 21, 2**31, 2**63 - 1, 2**63, 10**30, -(10**30))
STRINGS = ("", "x", "6", "none", "auto", "\0", "é😀", "%s{}", "<|endoftext|>", "x" * 20_000)
LISTS = ([], [None], [0], [1, 2], [6.0], [-1], [4095], [4096], [10**30], ["a"], ["a", "b"], ["a"] * 17, [""])
NESTED = ([[]], [[1], [2]], ["a", 1], [True], [{}], nested(200), nested(5000))
OBJECTS: tuple[dict[str, Any], ...] = (
    {}, {"a": 1}, {"type": "text"}, {"type": None}, {"type": "json_object"}, {"include_usage": None},
    {"include_usage": True}, {"include_usage": 1}, {"messages": 1}, {"tools": [1]}, {"self": 1}, {"": 1}, {"5": -100},
    {"a": 10**30}, {"messages": None}, {"a": {"b": [None, 1e300, True]}},
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, False, 10**4200, *NUMBERS, *STRINGS, *LISTS, *NESTED, *OBJECTS, *MESSAGES)


def cases(endpoint: Endpoint) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name in NAMES for value in VALUES)


def check_named(error: dict[str, Any], given: dict[str, Any]) -> None:
    """A 400 in OpenAI's shape that names a field that was given, or one that is missing."""
    assert {*error} == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"]
    first = (error["param"] or "").partition("[")[0]
    assert error["param"] is None or error["param"] in given or first.partition(".")[0] in given, error
    if error["code"] != "invalid_json":
        assert error["param"] is not None, error
    assert 10 < len(error["message"]) < 2000
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_field_with_every_value_is_read_or_refused_by_its_name(endpoint: Endpoint) -> None:
    tried = 0
    began = time.process_time()
    for name, value in cases(endpoint):
        given = {**USUAL[endpoint], name: value}
        tried += 1
        try:
            body = parse(BODIES[endpoint], dumped(given))
            body.params({})
            if isinstance(body, CompletionBody):
                body.prompts()
        except AirdraftError as error:
            found = as_api_error(error)
            assert found.status == 400, (name, value, found)
            check_named(found.body()["error"], given)
            assert found.param is None or found.param.startswith(name), (name, value, found.param)
            continue
        row = BY_NAME.get((endpoint, name))
        assert value is None or (row is not None and not (row.fate is Fate.REFUSED and row.asks(value))), (name, value)
    assert tried > 5000
    assert (time.process_time() - began) / tried < 0.005


def dumped(given: dict[str, Any]) -> bytes:
    """JSON of values, also of one that Python's own encoder would not nest so deep."""
    parts = {
        name: "[" * 5000 + "]" * 5000 if value is NESTED[-1] else json.dumps(value) for name, value in given.items()
    }
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in parts.items()) + "}").encode()


def taken(endpoint: Endpoint, name: str, value: Any) -> bool:
    """Whether a request with this field is read."""
    try:
        parse(BODIES[endpoint], dumped({**USUAL[endpoint], name: value})).params({})
    except AirdraftError:
        return False
    return True


@contextmanager
def servers() -> Iterator[dict[str, int]]:
    """A device's API and an edge's, over tables of a short context, with a template; by their ports."""
    tokenizer = Tokenizer(shipped("draft"))
    vocab = tokenizer.vocab_size
    source = "{% for each in messages %}{{ each.content }}{{ each.tool_calls }}{% endfor %}"
    template = ChatTemplate(source, {}, shipped("target") / "tokenizer.json")
    target, draft = (Table(*seeds, vocab_size=vocab, eos_ids=(0,), max_context=CONTEXT) for seeds in ((1,), (1, 2)))

    async def start(stack: AsyncExitStack) -> dict[str, int]:
        server = await stack.enter_async_context(EdgeServer(OneByOne(target), tokenizer.digest, vocab))
        await server.start(HOST, 0)
        writer = Writer([f"ws://{HOST}:{server.port}"], draft, tokenizer.digest, vocab)
        await stack.enter_async_context(writer)
        device = device_app(writer, tokenizer, "table", template, context=lambda: writer.context)
        return {
            "device": await stack.enter_async_context(serving(device, HOST, 0)),
            "edge": await stack.enter_async_context(serving(edge_app(server, tokenizer, template), HOST, 0)),
        }

    async def stop(stack: AsyncExitStack) -> None:
        await stack.aclose()

    with loop_in_thread() as submit:
        stack = AsyncExitStack()
        try:
            yield submit(start(stack))
        finally:
            submit(stop(stack))


def posted(port: int, endpoint: Endpoint, data: bytes) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.request("POST", f"/v1/{endpoint}", data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read()
    finally:
        connection.close()


def test_over_both_servers_whole_and_streamed(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(15)  # noqa: S311
    done = [name for row in FIELDS if row.fate is Fate.DONE for name in row.names if "." not in name]
    good = {endpoint: [each for each in cases(endpoint) if taken(endpoint, *each)] for endpoint in Endpoint}
    statuses = {200: 0, 400: 0, 404: 0}
    with caplog.at_level(logging.ERROR), servers() as ports:
        for _ in range(REQUESTS):
            endpoint = rng.choice(list(Endpoint))
            given = {**USUAL[endpoint], "stream": rng.random() < 0.5}
            for _ in range(rng.choice((1, 1, 2, 3))):
                any_name = rng.choice(done if rng.random() < 0.7 else NAMES)
                name, value = rng.choice(good[endpoint]) if rng.random() < 0.6 else (any_name, rng.choice(VALUES))
                given[name] = value
            found = {side: posted(port, endpoint, dumped(given)) for side, port in ports.items()}
            for side, answer in found.items():
                statuses[answer[0]] += 1
                check_answer(answer, given, f"{side} {endpoint} {dumped(given)[:2000]!r}")
            one, other = (status for status, *_ in found.values())
            assert one == other or "scheme" in given, (dumped(given)[:2000], found)
    assert statuses[200] > REQUESTS / 4
    assert statuses[400] > REQUESTS / 4
    assert [record.getMessage() for record in caplog.records] == []


def check_answer(answer: tuple[int, str, bytes], given: dict[str, Any], what: str) -> None:
    status, kind, data = answer
    assert status in (200, 400, 404), (what, data)
    if status == 404:
        assert json.loads(data)["error"]["param"] == "model", what
    elif status == 400:
        check_named(json.loads(data)["error"], {**given, "prompt": 0, "messages": 0, "input": 0})
    elif given.get("stream"):
        assert kind.startswith("text/event-stream"), what
        last = data.rpartition(b"data: ")[2]
        assert last == b"[DONE]\n\n" or json.loads(last)["type"] in ENDS, (what, data[-500:])
    else:
        found = json.loads(data)
        assert found.get("choices") or found["output"], what

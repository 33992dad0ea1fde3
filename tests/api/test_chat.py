"""Chat templates as Hugging Face renders them, and chats over the API with one."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
from pathlib import Path
from typing import Any

import openai
import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.api.conversation import conversation
from airdraft.api.errors import ApiError
from airdraft.api.schema import ChatBody, parse
from airdraft.api.template import ChatTemplate
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.files.folder import shipped
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..pairs import copied
from ..suites import mostly_slow
from .conftest import HOST, Served, Truth
from .test_requests import post

TINY = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ('system', 'user', 'assistant') %}
        {{- raise_exception('no role ' + message.role) }}
    {%- endif %}
    {{- '# ' + message.role + ': ' + message.content + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '# assistant:' }}{% endif %}"""
MESSAGES: Any = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Print a list"}]
RENDERED = "# system: Be short.\n# user: Print a list\n"
ASK = {"add_generation_prompt": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the pair's draft with the tiny template."""
    folder = copied("draft", tmp_path / "chat")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TINY}))
    return folder


def template(source: str, tmp_path: Path, messages: Any = MESSAGES, **variables: Any) -> str:
    (tmp_path / "given.jinja").write_text(source)
    found = ChatTemplate.of(shipped("draft"), tmp_path / "given.jinja")
    assert found is not None
    return found.render(messages, variables)


def test_a_chat_is_the_targets_text_after_the_rendered_messages(
    folder: Path, target: OnnxModel, draft: OnnxModel, tokenizer: Tokenizer, truth: Truth
) -> None:
    expected = tokenizer.decode(truth(RENDERED + "# assistant:", seed=2, max_tokens=30))
    asked: Any = {"model": "target", "messages": MESSAGES, "seed": 2, "max_completion_tokens": 30, "max_tokens": 5}

    async def check(port: int) -> None:
        async with openai.AsyncOpenAI(base_url=f"http://{HOST}:{port}/v1", api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(**asked)
            assert (whole.choices[0].message.role, whole.choices[0].message.content) == ("assistant", expected)
            assert whole.usage is not None
            assert whole.usage.prompt_tokens == len(tokenizer.encode(RENDERED + "# assistant:"))
            options = {"include_usage": True}
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(**asked, stream=True, stream_options=options)
            ]
            assert chunks[0].choices[0].delta.role == "assistant"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
            assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
            assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
            parts = [{"type": "text", "text": "Print a list"}]
            again = await client.chat.completions.create(
                **{**asked, "messages": [MESSAGES[0], {"role": "user", "content": parts}]}
            )
            assert again.choices[0].message.content == expected
            with pytest.raises(openai.BadRequestError, match="no role judge") as refused:
                await client.chat.completions.create(**{**asked, "messages": [{"role": "judge", "content": ""}]})
            assert refused.value.param == "messages"
            with pytest.raises(openai.BadRequestError, match="shorten the prompt") as refused:
                await client.chat.completions.create(
                    **{**asked, "messages": [{"role": "user", "content": "x " * 3000}]}
                )
            assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
            told = await client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
            content = told.choices[0].logprobs.content
            assert b"".join(bytes(each.bytes) for each in content).decode() == expected
            assert "".join(each.token for each in content) == expected
            for each in content:
                assert each.logprob <= each.top_logprobs[0].logprob <= 0
                assert len(each.top_logprobs) == 2
            # Without a limit it goes on to its end, or that of the context.
            stopped = {**asked, "max_completion_tokens": None, "max_tokens": None, "stop": expected[10:20]}
            long = await client.chat.completions.create(**stopped)
            assert long.choices[0].message.content == expected[: expected.find(expected[10:20])]

    async def main() -> None:
        chat = ChatTemplate.of(folder)
        async with EdgeServer(target, tokenizer.digest, tokenizer.vocab_size) as server:
            await server.start(HOST, 0)
            url = f"ws://{HOST}:{server.port}"
            async with (
                Writer([url], draft, tokenizer.digest, tokenizer.vocab_size) as writer,
                serving(device_app(writer, tokenizer, "target", chat), HOST, 0) as device,
                serving(edge_app(server, tokenizer, chat), HOST, 0) as edge,
            ):
                await check(device)
                await check(edge)

    asyncio.run(main())


def test_a_model_without_a_template_says_so(served: Served) -> None:
    for url in (served.device, served.edge):
        status, answer = post(url, {"messages": MESSAGES}, "/chat/completions")
        assert (status, answer["error"]["code"]) == (400, "no_chat_template")
        assert "use /v1/completions, or start the server with --chat-template" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "logprobs": 5}, "logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools[0]"),
        (
            {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "xml"}},
            "response_format.type",
        ),
    ],
)
def test_mistakes_in_a_chat(served: Served, body: dict[str, Any], param: str) -> None:
    status, answer = post(served.device, body, "/chat/completions")
    assert (status, answer["error"]["param"]) == (400, param)


def test_the_template_of_a_folder(folder: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert ChatTemplate.of(shipped("draft")) is None
    found = ChatTemplate.of(folder)
    assert found is not None
    assert found.render(MESSAGES, {}) == "<|endoftext|>" + RENDERED
    # The template writes the special tokens, and the tokenizer must not write them again.
    assert found.encode(found.render(MESSAGES, {})) == tokenizer.encode(RENDERED)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}yes"}]
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **tokens, "chat_template": several}))
    found = ChatTemplate.of(folder)
    assert found is not None
    assert found.render(MESSAGES, {}) == "<s>yes"
    (folder / "chat_template.jinja").write_text("a file of its own")
    found = ChatTemplate.of(folder / "model.onnx")
    assert found is not None
    assert found.render(MESSAGES, {}) == "a file of its own"


def test_special_tokens_may_be_in_a_file_of_their_own(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokens = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    found = ChatTemplate.of(folder)
    assert found is not None
    assert found.render(MESSAGES, {}) == "<s>" + RENDERED
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<b>"}))
    found = ChatTemplate.of(folder)
    assert found is not None
    assert found.render(MESSAGES, {}) == "<b>" + RENDERED


ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'a' * (10 ** messages | length) ** 5 }}",
    "{{ '%1000000000d' % (messages | length) }}",
    "{{ 'a' | center(1000000000) }}",
    "{% set n = namespace(x=messages[0].content) %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% for a in range(99999) %}{{ messages[0].content * 999 }}{% endfor %}",
    "{% macro a(n) %}{{ a(n) }}{{ a(n) }}{% endmacro %}{{ a(1) }}",
    "{{ (9 ** (9 ** (9 + messages | length))) }}",
    "{{ messages[0].content.zfill(2000000000) }}",
)


@pytest.mark.parametrize("source", mostly_slow(ENDLESS, often=ENDLESS[3:5]))
def test_a_template_without_an_end_or_of_gigabytes_is_ended(tmp_path: Path, source: str) -> None:
    (tmp_path / "given.jinja").write_text("{% if bad %}" + source + "{% endif %}ok")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the most that any test has taken until now
    found = ChatTemplate.of(shipped("draft"), tmp_path / "given.jinja")
    assert found is not None
    assert found.render(MESSAGES, {}) == "ok"
    with pytest.raises(BadParameterError, match=r"the chat template does not take these messages: ."):
        found.render(MESSAGES, {"bad": True})
    assert found.render(MESSAGES, {}) == "ok"  # in a new process, if need be
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 700 << 10)


def test_a_process_ends_with_its_template(tmp_path: Path) -> None:
    (tmp_path / "given.jinja").write_text("ok")
    found = ChatTemplate.of(shipped("draft"), tmp_path / "given.jinja")
    assert found is not None
    process = found._apart.process
    assert process is not None
    assert process.poll() is None
    del found
    gc.collect()
    assert process.wait(10) is not None


def calls(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


READS_CALLS = "{% for call in messages[0].tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}"


@pytest.mark.parametrize("arguments", ['{"a": [1, null], "b": "é"}', {"a": [1, None], "b": "é"}])
def test_arguments_of_tool_calls_are_encoded_once(tmp_path: Path, arguments: Any) -> None:
    """OpenAI writes them as JSON text, Hugging Face as objects."""
    messages = conversation(calls(arguments), lambda name: True)
    assert template(READS_CALLS, tmp_path, messages) == '{"a": [1, null], "b": "é"}'
    old = conversation([{"role": "assistant", "function_call": {"arguments": arguments}}], lambda name: True)
    assert template("{{ messages[0].function_call.arguments.b }}", tmp_path, old) == "é"


@pytest.mark.parametrize(
    ("message", "field", "code"),
    [
        ({}, "messages[0].role", "invalid_type"),
        ({"role": None}, "messages[0].role", "invalid_type"),
        ({"role": "user", "content": 5}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]", "invalid_type"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]", "invalid_type"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "image": 1}]},
            "messages[0].content[0].image",
            "unsupported_parameter",
        ),
        ({"role": "user", "content": "x", "images": ["x"]}, "messages[0].images", "unsupported_parameter"),
        ({"role": "user", "content": "x", "y" * 999: 1}, f"messages[0].{'y' * 60}…", "unsupported_parameter"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "messages[0].tool_calls", "invalid_type"),
        ({"role": "assistant", "tool_calls": [5]}, "messages[0].tool_calls", "invalid_type"),
        (calls("{")[0], "messages[0].tool_calls[0].function.arguments", "invalid_type"),
        (calls("[1]")[0], "messages[0].tool_calls[0].function.arguments", "invalid_type"),
        (calls("[" * 9999)[0], "messages[0].tool_calls[0].function.arguments", "invalid_type"),
    ],
)
def test_mistakes_in_a_message(message: dict[str, Any], field: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        conversation([message], lambda name: name in ("tool_calls", "content"))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, field, code)
    assert field in str(caught.value) or field.endswith(".role")


def test_what_a_template_would_drop_is_refused_and_null_is_as_absent(tmp_path: Path) -> None:
    (tmp_path / "given.jinja").write_text("{{ messages[0].mood }}")
    found = ChatTemplate.of(shipped("draft"), tmp_path / "given.jinja")
    assert found is not None
    assert conversation([{"role": "user", "content": "x", "mood": "sad", "audio": None}], found.reads) == [
        {"role": "user", "content": "x", "mood": "sad"}
    ]
    assert conversation([{"role": "assistant", "content": None, "tool_calls": []}], found.reads)
    with pytest.raises(ApiError, match="does not read it"):
        conversation(calls("{}"), found.reads)


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools", "temperature"])
def test_variables_of_a_template_are_no_way_round_fields(served: Served, name: str) -> None:
    body = {"messages": MESSAGES, "chat_template_kwargs": {name: [1]}}
    with pytest.raises(ApiError) as caught:
        parse(ChatBody, json.dumps(body).encode()).variables()
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_what_templates_may_use(tmp_path: Path) -> None:
    assert template("{{ messages[0] | tojson }}", tmp_path, [{"a": "<é&'>"}]) == '{"a": "<é&\'>"}'
    assert template("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", tmp_path) == "01"
    assert template("a{% generation %}b{{ 1 }}{% endgeneration %}c", tmp_path) == "ab1c"
    assert template("  {% if true %}\nyes\n  {% endif %}\n", tmp_path) == "yes\n"  # blocks trimmed
    assert len(template("{{ strftime_now('%Y') }}", tmp_path)) == 4
    assert template("{{ think }}{{ add_generation_prompt }}", tmp_path, think="x", **ASK) == "xTrue"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages + 5 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_what_a_template_refuses_or_must_not_do(tmp_path: Path, source: str) -> None:
    with pytest.raises(BadParameterError, match="the chat template does not take these messages"):
        template(source, tmp_path)


def test_broken_templates(tmp_path: Path) -> None:
    for source in ("{% if %}", "{{ " + "(" * 99_999):
        with pytest.raises(ModelError, match="no Jinja"):
            template(source, tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTemplate.of(shipped("draft"), tmp_path / "missing.jinja")

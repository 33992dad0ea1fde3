"""Chat templates as Hugging Face renders them, and chats over the API with one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from airdraft.api.app import device_app, edge_app
from airdraft.api.template import ChatTemplate
from airdraft.device.writer import Writer
from airdraft.edge.server import EdgeServer
from airdraft.errors import BadParameterError, ModelError
from airdraft.models.folder import shipped
from airdraft.models.onnx import OnnxModel
from airdraft.models.text import Tokenizer
from airdraft.telemetry.http import serving

from ..pairs import copied
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
            with pytest.raises(openai.BadRequestError, match="no role judge"):
                await client.chat.completions.create(**{**asked, "messages": [{"role": "judge", "content": ""}]})
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
        assert "use /v1/completions" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "logprobs": 5}, "logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
        (
            {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}},
            "response_format",
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
    with pytest.raises(ModelError, match="no Jinja"):
        template("{% if %}", tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        ChatTemplate.of(shipped("draft"), tmp_path / "missing.jinja")

"""The table of fields: it is whole, the bodies follow it, and docs/api.md prints it.

`python -m pytest tests/api/test_fields.py` compares; with AIRDRAFT_WRITE_API=1 in the environment it rewrites the
marked blocks instead.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from airdraft.api.errors import ApiError
from airdraft.api.fields import ALL, BY_NAME, FIELDS, Endpoint, Fate, Field
from airdraft.api.response_body import ResponseBody
from airdraft.api.schema import Body, ChatBody, CompletionBody, Marks, StreamOptions, parse

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BODIES: dict[Endpoint, type[Body]] = {
    Endpoint.COMPLETIONS: CompletionBody, Endpoint.CHATS: ChatBody, Endpoint.RESPONSES: ResponseBody,
}  # fmt: skip
NEEDED: dict[Endpoint, dict[str, Any]] = {
    Endpoint.COMPLETIONS: {"prompt": "x"},
    Endpoint.CHATS: {"messages": [{"role": "user", "content": "x"}]},
    Endpoint.RESPONSES: {"input": "x"},
}
ASKED = {Endpoint.COMPLETIONS: "prompt", Endpoint.CHATS: "messages", Endpoint.RESPONSES: "input"}


def ask(endpoint: Endpoint, **given: Any) -> Body:
    return parse(BODIES[endpoint], json.dumps({**NEEDED[endpoint], **given}).encode())


def refusal(endpoint: Endpoint, **given: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(endpoint, **given)
    return caught.value


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_row_that_is_done_has_an_attribute_and_no_name_is_told_twice(endpoint: Endpoint) -> None:
    done = {row.names[0] for row in FIELDS if row.fate is Fate.DONE and endpoint in row.on}
    parts = {f"stream_options.{name}" for name in StreamOptions.__struct_fields__}
    if endpoint is Endpoint.COMPLETIONS:
        parts |= {f"airdraft.{name}" for name in Marks.__struct_fields__}
    own = {"said", "before", "messages"} if endpoint is Endpoint.RESPONSES else {"said"}  # what no request has
    assert done == {*BODIES[endpoint].__struct_fields__} - own | parts
    names = Counter(name for row in FIELDS if endpoint in row.on for name in row.names)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("endpoint", Endpoint)
def test_null_is_as_absent(endpoint: Endpoint) -> None:
    for name in sorted({name for _, name in BY_NAME} - {*ASKED.values()}):
        outer, _, inner = name.partition(".")
        null, absent = ({outer: {inner: None}}, {outer: {}}) if inner else ({outer: None}, {})
        assert ask(endpoint, **null) == ask(endpoint, **absent), name


@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_is_refused_is_refused_by_its_name_unless_it_asks_for_nothing(endpoint: Endpoint) -> None:
    refused = [row for row in FIELDS if row.fate is Fate.REFUSED and endpoint in row.on]
    for row, name in ((each, name) for each in refused for name in each.names):
        outer, _, inner = name.partition(".")
        for value in (7, "so", ["so"], {"so": 1}, True, False, 0, "", [], {}):
            given = {outer: {inner: value} if inner else value}
            if row.asks(value):
                error = refusal(endpoint, **given)
                assert (error.status, error.param, error.code) == (400, name, "unsupported_parameter")
                assert str(error) == f"{name} is not supported: {row.says}"
            else:
                ask(endpoint, **given)
        assert row.asks(7)
        for value in row.unless:
            ask(endpoint, **{outer: {inner: value} if inner else value})


def test_true_is_no_one_and_one_is_no_true() -> None:
    assert refusal(Endpoint.CHATS, repetition_penalty=True).param == "repetition_penalty"
    assert refusal(Endpoint.CHATS, skip_special_tokens=1).param == "skip_special_tokens"
    assert refusal(Endpoint.CHATS, echo=0).param == "echo"


def test_refusals_name_a_remedy() -> None:
    for row in FIELDS:
        if row.fate is Fate.REFUSED:
            assert re.search(r"[;,] (?:or |and )?[a-z]|give|put|use", row.says), row


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_name_that_nobody_knows_is_refused(endpoint: Endpoint) -> None:
    for name in ("frobnicate", "", "MAX_TOKENS", "max_tokens ", "x" * 5000, "stream_options.include_usage", "said"):
        error = refusal(endpoint, **{name: 1})
        assert (error.status, error.code) == (400, "unsupported_parameter")
        assert error.param == (name if len(name) < 100 else error.param)
        assert len(str(error)) < 200
    assert "did you mean max_tokens?" in str(refusal(endpoint, max_token=1))


def test_a_field_of_the_other_endpoint_is_refused_with_its_path() -> None:
    assert "ask /v1/chat/completions" in str(refusal(Endpoint.COMPLETIONS, chat_template_kwargs={}))
    assert "ask /v1/completions" in str(refusal(Endpoint.CHATS, prompt="x"))
    assert "ask /v1/responses" in str(refusal(Endpoint.CHATS, input="x"))
    assert "ask /v1/chat/completions" in str(refusal(Endpoint.RESPONSES, messages=[]))


@pytest.mark.parametrize("endpoint", Endpoint)
def test_an_error_is_about_the_field_as_it_was_spelt(endpoint: Endpoint) -> None:
    """Also an error of those who write the text, and know the field by its own name."""
    spelt = "max_output_tokens" if endpoint is Endpoint.RESPONSES else "n_predict"
    body = ask(endpoint, **{spelt: 5})
    assert body.named(ApiError(400, "no", "max_tokens")).param == spelt
    assert body.named(ApiError(400, "no", "top_k")).param == "top_k"
    assert body.named(ApiError(400, "no", "prompt")).param == ASKED[endpoint]
    assert body.named(ApiError(400, "no")).param is None


@pytest.mark.parametrize("endpoint", Endpoint)
def test_numbers_out_of_range_are_named(endpoint: Endpoint) -> None:
    data = json.dumps({**NEEDED[endpoint], "temperature": 0})[:-2].encode()
    for words in (b"1e400", b"-1e999", b"NaN", b"0x1", b"[" * 5000):
        with pytest.raises(ApiError) as caught:
            parse(BODIES[endpoint], data + words + b"}")
        assert caught.value.param in ("temperature", None)
    assert refusal(endpoint, temperature=10**400).param == "temperature"


def spelt(row: Field) -> str:
    return ", ".join(f"`{name}`" for name in row.names)


def only(row: Field) -> str:
    return "" if row.on == ALL else f" ({', '.join(each.called for each in row.on)})"


def value(each: Any) -> str:
    return f"`{json.dumps(each)}`"


def done_block() -> str:
    lines = ["| field | on | |", "|---|---|---|"]
    for row in FIELDS:
        if row.fate is Fate.DONE:
            on = "all" if row.on == ALL else ", ".join(each.called for each in row.on)
            lines.append(f"| {spelt(row)} | {on} | {row.says} |")
    return "\n".join(lines)


def refused_block() -> str:
    lines = ["| field | refused unless null or | because |", "|---|---|---|"]
    for row in FIELDS:
        if row.fate is Fate.REFUSED:
            lines.append(f"| {spelt(row)}{only(row)} | {', '.join(map(value, row.unless)) or 'absent'} | {row.says} |")
    return "\n".join(lines)


def harmless_block() -> str:
    lines = ["| field | |", "|---|---|"]
    lines += [f"| {spelt(row)}{only(row)} | {row.says} |" for row in FIELDS if row.fate is Fate.HARMLESS]
    return "\n".join(lines)


BLOCKS = {"done": done_block, "refused": refused_block, "harmless": harmless_block}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_prints_the_table(name: str) -> None:
    page, made = PAGE.read_text("utf-8"), BLOCKS[name]()
    found = re.search(rf"(<!-- {name}:begin -->\n)(.*?)(\n<!-- {name}:end -->)", page, re.DOTALL)
    assert found, f"docs/api.md has no block {name}"
    if os.environ.get("AIRDRAFT_WRITE_API"):
        PAGE.write_text(page[: found.start(2)] + made + page[found.end(2) :], "utf-8")
        return
    assert found[2] == made, "run it again with AIRDRAFT_WRITE_API=1"

"""Marks of private parts in requests: which are read, which are refused, and what hides behind them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airdraft.api.conversation import conversation, has_private
from airdraft.api.errors import ApiError
from airdraft.api.schema import CompletionBody, parse
from airdraft.models.text import Tokenizer

from .test_requests import post

MARK = {"airdraft": {"private": True}}


def test_what_is_marked_is_veiled_and_no_template_sees_the_mark() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"x": ["secret", 3]}'}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "open", "airdraft": None},
        {"role": "user", "content": [{"type": "text", "text": "open"}, {"type": "text", "text": "secret", **MARK}]},
        {"role": "assistant", "content": "secret", "name": "secret", "tool_calls": [call], **MARK},
        {"role": "user", "content": "open", "airdraft": {"private": False}},
    ]
    plain = conversation(messages, lambda name: True)
    veiled = conversation(messages, lambda name: True, "#")
    assert has_private(messages)
    assert not has_private([messages[0], messages[3]])
    assert "airdraft" not in json.dumps(plain)
    assert "secret" not in json.dumps(veiled)
    assert plain[1]["content"] == "open\nsecret"
    assert [each["content"] for each in veiled] == ["open", "open\n#", "#", "open"]
    assert veiled[2]["tool_calls"][0]["function"]["arguments"] == {"x": ["#", "#"]}
    assert [each["role"] for each in veiled] == [each["role"] for each in plain]


@pytest.mark.parametrize("mark", [True, "yes", {"private": "yes"}, {"private": 1}, {"secret": True}, []])
@pytest.mark.parametrize("part", [False, True])
def test_marks_that_are_none_are_refused(mark: Any, part: bool) -> None:
    content: Any = [{"type": "text", "text": "x", "airdraft": mark}] if part else "x"
    message = {"role": "user", "content": content, **({} if part else {"airdraft": mark})}
    with pytest.raises(ApiError) as refused:
        conversation([message], lambda name: True)
    assert refused.value.param == ("messages[0].content[0].airdraft" if part else "messages[0].airdraft")


@pytest.mark.parametrize(("prompt", "mark", "found"), [
    ("abc", {"private": True}, 0), ("abc", {"private": 2}, 2), ("abc", {"private": False}, None), ("abc", {}, None),
    ("abc", {"private": 3}, ApiError), ([1, 2], {"private": -1}, ApiError), (["abc", "a"], {"private": 1}, ApiError),
    ("abc", {"private": "x"}, ApiError), ("abc", {"secret": 1}, ApiError), ("abc", 5, ApiError),
])  # fmt: skip
def test_a_completion_says_from_where_on(prompt: Any, mark: Any, found: Any) -> None:
    data = json.dumps({"prompt": prompt, "airdraft": mark}).encode()
    if found is ApiError:
        with pytest.raises(ApiError) as refused:
            parse(CompletionBody, data)
        assert str(refused.value.param).startswith("airdraft")
    else:
        assert parse(CompletionBody, data).private() == found


def test_private_texts_are_the_same_and_no_beginning_of_theirs_is_kept(url: str, tokenizer: Tokenizer) -> None:
    """`cached_tokens` says what another text was read for."""
    public = f"# {url}\n" + "def area(width, height):\n    return width * height\n\n\n" * 3
    secret = "quokka = 4711\n" * 9
    first = len(tokenizer.encode(public))

    def written(**more: Any) -> tuple[str, int]:
        _, answer = post(url, {"prompt": public + secret, "max_tokens": 8, "temperature": 0, **more})
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    marked = [written(airdraft={"private": len(public)}) for _ in range(2)]
    plain = [written() for _ in range(2)]
    assert len({text for text, _ in (*marked, *plain)}) == 1
    assert max(cached for _, cached in (*marked, plain[0])) <= first
    assert marked[1][1] >= first - 16
    assert plain[1][1] > first + 30

"""What is asked for beyond one text, and how mistakes are answered."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from airdraft.models.text import LONG, Tokenizer

from .conftest import PROMPT, Served, Truth


def post(url: str, body: Any, path: str = "/completions", **headers: str) -> tuple[int, Any]:
    """Status and JSON of a raw request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **headers})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["target"]
    assert client.models.retrieve("target").owned_by == "airdraft"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_choices_are_the_texts_of_the_seeds_that_follow(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth
) -> None:
    expected = [tokenizer.decode(truth(prompt, seed=seed)) for prompt in (PROMPT, "x = ") for seed in (4, 5, 6)]
    asked: dict[str, Any] = {"model": "target", "prompt": [PROMPT, "x = "], "n": 3, "seed": 4, "max_tokens": 24}
    whole = client.completions.create(**asked)
    assert [choice.text for choice in whole.choices] == expected
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert [choice.model_extra["airdraft"]["seed"] for choice in whole.choices] == [4, 5, 6] * 2
    texts = [""] * 6
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected


def test_token_ids_are_a_prompt_and_an_echo_repeats_it(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth
) -> None:
    ids = tokenizer.encode(PROMPT)
    asked: dict[str, Any] = {"model": "target", "prompt": ids, "echo": True, "seed": 1, "max_tokens": 8}
    expected = PROMPT + tokenizer.decode(truth(seed=1, max_tokens=8))
    assert client.completions.create(**asked).choices[0].text == expected
    chunks = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected


def test_usage(client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth) -> None:
    asked: dict[str, Any] = {"model": "target", "prompt": PROMPT, "n": 2, "seed": 5, "max_tokens": 24}
    usage = client.completions.create(**asked).usage
    written = sum(len(truth(seed=seed)) for seed in (5, 6))
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    prompt_tokens = len(tokenizer.encode(PROMPT))
    assert counts == (prompt_tokens, written, prompt_tokens + written)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    last = chunks.pop()
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == counts
    assert all(chunk.usage is None for chunk in chunks)


def test_without_a_seed_texts_differ_and_say_their_seed(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth
) -> None:
    found = [client.completions.create(model="target", prompt=PROMPT, max_tokens=20).choices[0] for _ in range(2)]
    seeds = [choice.model_extra["airdraft"]["seed"] for choice in found]
    assert seeds[0] != seeds[1]
    assert [each.text for each in found] == [tokenizer.decode(truth(seed=seed, max_tokens=20)) for seed in seeds]


def test_sixteen_tokens_unless_told_otherwise(client: openai.OpenAI, truth: Truth) -> None:
    answer = client.completions.create(model="target", prompt=PROMPT, seed=5)
    assert answer.usage.completion_tokens == len(truth(seed=5, max_tokens=16)) == 16


@pytest.mark.parametrize("many", [1, 3])
def test_a_stop_string_ends_the_text_before_itself(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth, many: int
) -> None:
    ids = truth(seed=5, max_tokens=60)
    text = tokenizer.decode(ids)
    for at in range(3, 23, 4):
        stop = text[at : at + 6]  # which begins and ends within tokens
        stops = stop if many == 1 else ["never to be seen", stop, text[at + 1 : at + 4]]
        asked: dict[str, Any] = {"model": "target", "prompt": PROMPT, "seed": 5, "max_tokens": 60, "stop": stops}
        whole = client.completions.create(**asked)
        chunks = list(client.completions.create(**asked, stream=True))
        cut = min(text.find(each) for each in ([stop] if many == 1 else stops[1:]))
        assert whole.choices[0].text == text[:cut]
        assert "".join(chunk.choices[0].text for chunk in chunks) == text[:cut]
        assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
        assert whole.usage.completion_tokens < 30


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"max_tokens": "ten"}, "max_tokens", "Expected `int"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"temperature": -1}, "temperature", "0, which is greedy"),
        ({"temperature": True}, "temperature", "Expected `float"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_k": -2}, "top_k", "at least 0"),
        ({"min_p": 2}, "min_p", "0 to 1"),
        ({"n": 0}, "n", "1 to 16"),
        ({"n": 17}, "n", "1 to 16"),
        ({"seed": -1}, "seed", "0 to 2"),
        ({"seed": 1 << 63}, "seed", "0 to 2"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "none empty"),
        ({"stop": [1]}, "stop[0]", "Expected `str`"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "Expected `bool`"),
        ({"prompt": 5}, "prompt", "token ids"),
        ({"prompt": ["a", 5]}, "prompt", "token ids"),
        ({"prompt": []}, "prompt", "0; give 1 to 16"),
        ({"prompt": [4096]}, "prompt", "outside the vocabulary"),
        ({"prompt": ["a"] * 17}, "prompt", "1 to 16"),
        ({"prompt": [5] * 1024}, "prompt", "the prompt is 1024 tokens"),
        ({"scheme": "magic"}, "scheme", "choose one of"),
        ({"logprobs": 21}, "logprobs", "0 to 20"),
        ({"logprobs": True}, "logprobs", "Expected `int | null`"),
        ({"logprobs": 0, "echo": True}, "echo", "how likely the prompt was"),
        ({"best_of": 3}, "best_of", "ask for n"),
        ({"suffix": "x"}, "suffix", "forwards only"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "own distribution"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "own distribution"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_field(url: str, body: dict[str, Any], param: str, words: str) -> None:
    status, answer = post(url, {"model": "target", "prompt": "x", **body})
    error = answer["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]
    assert error["code"]
    streamed = post(url, {"model": "target", "prompt": "x", **body, "stream": True})
    assert streamed == (status, answer)


def test_what_has_no_effect_and_what_nobody_knows_is_ignored(url: str) -> None:
    body = {"model": None, "prompt": "x", "user": "me", "presence_penalty": 0, "best_of": 1, "logit_bias": {}, "no": 1}
    assert post(url, body)[0] == 200


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'"\xff"', b"[" * 100_000, b'{"prompt": "\\ud800"}'])
def test_a_body_that_is_no_request(url: str, data: bytes) -> None:
    status, answer = post(url, data)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", ""])
def test_pages_may_not_use_it(url: str, origin: str) -> None:
    """A browser sends such a request without asking first."""
    status, answer = post(url, {"prompt": "x"}, **{"Origin": origin, "Content-Type": "text/plain"})
    assert (status, answer["error"]["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8572", "", "[::2]", "[", "127.0.0.1.evil.example:80"])
def test_names_that_lead_here_are_not_its_own(url: str, host: str) -> None:
    """A page's own name may be made to lead to the reader's machine: then it says where it comes from, and it fits."""
    status, answer = post(url, {"prompt": "x"}, Host=host, Origin=f"http://{host}")
    assert (status, answer["error"]["code"]) == (403, "foreign_host")
    for own in ("localhost", "LOCALHOST:80", "[::1]:8572", "127.0.0.1"):
        assert post(url, {"prompt": "x", "max_tokens": 1}, Host=own)[0] == 200


def test_other_paths_methods_and_bodies_too_long(url: str) -> None:
    assert post(url, {}, "/embeddings") == (
        404,
        {
            "error": {
                "message": "POST /v1/embeddings: Not Found",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    )
    assert post(url, {}, "/models")[0] == 405
    assert post(url, b" " * (9 << 20))[0] == 413


def test_the_edge_refuses_schemes_that_need_a_draft(served: Served) -> None:
    status, answer = post(served.edge, {"prompt": "x", "scheme": "dense"})
    assert (status, answer["error"]["param"]) == (400, "scheme")
    assert post(served.device, {"prompt": "x", "scheme": "dense"})[0] == 200


def test_a_prompt_that_cannot_fit_is_refused_unread(served: Served, tokenizer: Tokenizer) -> None:
    prompt = "a" * (1024 * tokenizer.longest + 1)
    with openai.OpenAI(base_url=served.edge, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="characters, which cannot fit the context of 1024") as refused:
            client.completions.create(model="target", prompt=prompt)
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
        with pytest.raises(openai.BadRequestError, match="tokens, the context of target is 1024; shorten the prompt"):
            client.completions.create(model="target", prompt=prompt[1:])


def test_long_prompts_are_encoded_one_at_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0
    encode = Tokenizer.encode

    def slowly(self: Tokenizer, text: str) -> list[int]:
        nonlocal under_way, most
        if len(text) > LONG:
            under_way += 1
            most = max(most, under_way)
            time.sleep(0.1)
            under_way -= 1
        return encode(self, text)

    def ask(client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="shorten the prompt"):
            client.completions.create(model="target", prompt="x = 1\n" * 1000)

    monkeypatch.setattr(Tokenizer, "encode", slowly)
    with openai.OpenAI(base_url=served.edge, api_key="none", max_retries=0) as client, ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(ask, client) for _ in range(4)]:
            each.result()
    assert most == 1

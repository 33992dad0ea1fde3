"""What is asked for beyond one text, and how mistakes are answered."""

from __future__ import annotations

import functools
import json
import time
import types
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from airdraft.api.app import Api, check_ids
from airdraft.api.conversation import conversation
from airdraft.api.errors import ApiError
from airdraft.api.items import messages_of
from airdraft.api.schema import UNLIMITED, CompletionBody, parse
from airdraft.core.sampling import SamplingParams
from airdraft.guides import Guides
from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.text import LONG, Tokenizer
from airdraft.sim import alone

from .conftest import END, PROMPT, Served, Truth


def post(url: str, body: Any, path: str = "/completions", **headers: str) -> tuple[int, Any]:
    """Status and JSON of a raw request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json", **headers})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
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
    written = tokenizer.decode(truth(seed=1, max_tokens=8))
    for prompt, repeated in ((ids, f"<|endoftext|>{PROMPT}"), (PROMPT, PROMPT)):
        asked["prompt"] = prompt
        assert client.completions.create(**asked).choices[0].text == repeated + written
        chunks = client.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == repeated + written


def test_an_echo_keeps_the_special_tokens_of_the_prompt(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    words = "a<|endoftext|>b"
    for prompt in (words, tokenizer.encode(words)[1:], [words], [tokenizer.encode(words)[1:]]):
        answer = client.completions.create(model="target", prompt=prompt, echo=True, max_tokens=1)
        assert answer.choices[0].text.startswith(words)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_may_stand_alone(client: openai.OpenAI, tokenizer: Tokenizer, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "target", "prompt": ["x = 1", "y"], "n": 2, "echo": True, "max_tokens": 0}
    texts, ends = ["", "", "", ""], [None] * 4
    if stream:
        for chunk in client.completions.create(**asked, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
            ends[chunk.choices[0].index] = chunk.choices[0].finish_reason
    else:
        answer = client.completions.create(**asked)
        texts, ends = [each.text for each in answer.choices], [each.finish_reason for each in answer.choices]
        read = len(tokenizer.encode("x = 1")) + len(tokenizer.encode("y"))
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 0)
    assert texts == ["x = 1", "x = 1", "y", "y"]
    assert ends == ["length"] * 4


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


def test_sixteen_tokens_unless_told_otherwise(client: openai.OpenAI, long_seed: int) -> None:
    answer = client.completions.create(model="target", prompt=PROMPT, seed=long_seed)
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("many", [1, 3])
def test_a_stop_string_ends_the_text_before_itself(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth, many: int, long_seed: int
) -> None:
    ids = truth(seed=long_seed, max_tokens=60)
    text = tokenizer.decode(ids)
    for at in (3, 9, 18):
        stop = text[at : at + 6]  # which begins and ends within tokens
        stops = stop if many == 1 else ["never to be seen", stop, text[at + 1 : at + 4]]
        asked: Any = {"model": "target", "prompt": PROMPT, "seed": long_seed, "max_tokens": 60, "stop": stops}
        whole = client.completions.create(**asked)
        chunks = list(client.completions.create(**asked, stream=True))
        cut = min(text.find(each) for each in ([stop] if many == 1 else stops[1:]))
        assert whole.choices[0].text == text[:cut]
        assert "".join(chunk.choices[0].text for chunk in chunks) == text[:cut]
        assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"
        assert whole.usage.completion_tokens < 60


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"max_tokens": "ten"}, "max_tokens", "Expected `int"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": -2, "echo": True}, "max_tokens", "at least 0"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0"),
        ({"n_predict": "ten"}, "n_predict", "Expected `int"),
        ({"num_predict": 0}, "num_predict", "num_predict is 0"),
        ({"max_tokens": 5.5}, "max_tokens", "Expected `int"),
        ({"max_tokens": 5, "max_new_tokens": 6}, "max_new_tokens", "give one of them"),
        ({"temperature": -1}, "temperature", "0, which is greedy"),
        ({"temperature": True}, "temperature", "Expected `float"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_k": -2}, "top_k", "at least 0"),
        ({"min_p": 2}, "min_p", "0 to 1"),
        ({"n": 0}, "n", "1 to 16"),
        ({"n": 17}, "n", "1 to 16"),
        ({"seed": -2}, "seed", "0 to 2"),
        ({"seed": 1 << 63}, "seed", "0 to 2"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "none empty"),
        ({"stop": [1]}, "stop[0]", "Expected `str`"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids", "at most 64"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids[0]", "Expected `int`"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "Expected `bool`"),
        ({"stream_options": {"include_all": True}}, "stream_options.include_all", "nobody here knows"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "not supported"),
        ({"stream_options.include_usage": True}, "stream_options.include_usage", "nobody here knows"),
        ({"prompt": [1] * 5000}, "prompt", "the prompt is 5000 tokens"),
        ({"temprature": 0}, "temprature", "did you mean temperature?"),
        ({"no": 1}, "no", "leave it out"),
        ({"messages": []}, "messages", "ask /v1/chat/completions"),
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
        ({"prediction": "def f()"}, "prediction", "prediction holds no text; give"),
        ({"prediction": {"type": "content"}}, "prediction", "holds no text"),
        *(({"prediction": nothing}, "prediction", "holds no text") for nothing in (False, 0, "", [], {})),
        ({"prediction": {"type": "content", "content": "x", "file": 1}}, "prediction", "file is not supported"),
        ({"prediction": {"type": "text", "content": "x"}}, "prediction", "holds no text"),
        ({"prediction": {"type": "content", "content": [{"type": "text"}]}}, "prediction", "holds no text"),
        ({"prediction": {"type": "content", "content": [5]}}, "prediction", "holds no text"),
        ({"prediction": {"type": "content", "content": "x " * 5000}}, "prediction", "shorten the prediction"),
        ({"mirostat": 2}, "mirostat", "no step of the target's law"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "from -2 to 2"),
        ({"repeat_penalty": 0}, "repeat_penalty", "from 0.1 to 10"),
        ({"typ_p": 0}, "typ_p", "above 0"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "no object of token ids"),
        ({"logit_bias": {"5": True}}, "logit_bias", "no object of token ids"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "outside the vocabulary"),
        ({"logit_bias": {"5": 1e9}}, "logit_bias", "from -100 to 100"),
        ({"bad_words": ["x", " "]}, "bad_words", "1 to 64 characters"),
        ({"bad_words": ["x"] * 200}, "bad_words", "at most 128"),
        ({"allowed_token_ids": [10**7]}, "allowed_token_ids", "outside the vocabulary"),
        ({"allowed_token_ids": [0], "min_tokens": 1}, "allowed_token_ids", "leaves no token"),
        ({"allowed_token_ids": [5] * 40_000}, "allowed_token_ids", "are read; give fewer"),
        ({"min_new_tokens": 17}, "min_new_tokens", "more than the 16"),
        ({"min_tokens": -1}, "min_tokens", "give at least 0"),
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


PARTS = [{"type": "text", "text": "def "}, {"type": "text", "text": "x"}]


@pytest.mark.parametrize("content", ["    return value", "", PARTS, []])
def test_a_prediction_changes_no_text(client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth, content: Any) -> None:
    prediction = {"type": "content", "content": content}
    found = client.completions.create(
        model="target", prompt=PROMPT, seed=5, max_tokens=20, extra_body={"prediction": prediction}
    )
    assert found.choices[0].text == tokenizer.decode(truth(seed=5, max_tokens=20))


BIASED = (
    {"frequency_penalty": 1.0, "presence_penalty": -0.5, "repeat_penalty": 1.2},
    {"logit_bias": {"300": 5, "301": -100}, "bad_words": ["return"], "min_tokens": 12, "typ_p": 0.9},
    {"allowed_token_ids": [*range(1, 400)], "temperature": 0, "frequency_penalty": 2},
    {"ignore_eos": True, "frequency_penalty": 0.2, "min_tokens": 4, "logit_bias": {"0": 7}},
)


def test_a_biased_text_is_the_targets_own(url: str, target: OnnxModel, tokenizer: Tokenizer) -> None:
    ids, seen = tokenizer.encode(PROMPT), set[str]()
    for body in ({}, *BIASED):
        asked = parse(CompletionBody, json.dumps({"prompt": PROMPT, "max_tokens": 24, **body}).encode())
        spec = asked.guide(tokenizer)
        guide = None if spec is None else Guides(tokenizer).make(spec, (END,))
        endless = types.SimpleNamespace(
            forward=target.forward, new_cache=target.new_cache, vocab_size=target.vocab_size,
            max_context=target.max_context, eos_ids=() if asked.ignore_eos else target.eos_ids,
        )  # fmt: skip
        model: Any = endless
        tokens = list(alone.write(model, ids, asked.params({}), 9, 24, tokenizer.vocab_size, guide))
        status, answer = post(url, {"model": "target", "prompt": PROMPT, "seed": 9, "max_tokens": 24, **body})
        assert status == 200, answer
        text = answer["choices"][0]["text"]
        assert text == tokenizer.decode(tokens), body
        seen.add(text)
        assert "return" not in text or "bad_words" not in body
    assert len(seen) == 1 + len(BIASED)


def test_a_prediction_is_no_use_to_rounds_and_a_device_says_so(served: Served) -> None:
    body = {"model": "target", "prompt": "x", "scheme": "topk", "prediction": {"type": "content", "content": "x"}}
    status, answer = post(served.device, body)
    assert (status, answer["error"]["param"]) == (400, "prediction")
    assert "of no use to topk" in answer["error"]["message"]


def test_what_asks_for_nothing_is_taken(url: str) -> None:
    nothing = {"model": None, "prompt": "x", "user": "me", "presence_penalty": 0, "best_of": 1, "logit_bias": {}}
    nested = {"stream_options": {"include_usage": None}, "response_format": {"type": None}, "tools": None, "no": None}
    assert post(url, {**nothing, **nested, "max_tokens": 1})[0] == 200


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


@pytest.mark.parametrize("path", ["/completions/", "/chat/completions/", "/models/"])
def test_no_path_leads_to_another(url: str, path: str) -> None:
    """A redirect would name whatever host the client has named."""
    assert post(url, {}, path, Host="127.0.0.1:9")[0] in (404, 405)


def test_streams_are_not_to_be_collected_on_the_way(url: str) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 1, "stream": True}).encode()
    request = urllib.request.Request(url + "/completions", body)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert answer.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict", "num_predict"])
@pytest.mark.parametrize("most", [3, 3.0])
def test_a_limit_in_every_spelling(url: str, name: str, most: float, long_seed: int) -> None:
    status, answer = post(url, {"prompt": PROMPT, "seed": long_seed, name: most})
    assert (status, answer["usage"]["completion_tokens"]) == (200, 3)


def test_no_limit_in_the_words_of_other_servers(served: Served, tokenizer: Tokenizer, truth: Truth) -> None:
    # Requests that name no limit have one of 16.
    seed = next(seed for seed in range(9, 99) if 16 < len(truth(seed=seed, max_tokens=100)) < 100)
    expected = tokenizer.decode(truth(seed=seed, max_tokens=100))
    for name in ("max_tokens", "n_predict"):
        _, answer = post(served.edge, {"prompt": PROMPT, "seed": seed, name: -1})
        assert answer["choices"][0]["text"] == expected


def test_whole_numbers_may_have_a_point_and_a_seed_of_minus_one_is_drawn(
    url: str, tokenizer: Tokenizer, truth: Truth
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8.0, "n": 2.0, "seed": 5.0, "top_k": 3.0, "logprobs": 1.0}
    _, answer = post(url, body)
    expected = [tokenizer.decode(truth(seed=seed, max_tokens=8, top_k=3)) for seed in (5, 6)]
    assert [each["text"] for each in answer["choices"]] == expected
    seeds = {post(url, {"prompt": "x", "max_tokens": 1, "seed": -1})[1]["choices"][0]["airdraft"]["seed"] for _ in "ab"}
    assert len(seeds) == 2
    assert -1 not in seeds


def test_a_text_ends_before_a_token_that_stops_it(url: str, tokenizer: Tokenizer, truth: Truth, long_seed: int) -> None:
    ids = truth(seed=long_seed, max_tokens=60)[:40]
    at = next(at for at in range(8, 40) if ids[at] not in ids[:at])
    never = next(token for token in range(4000, 4096) if token not in ids)
    body = {"prompt": PROMPT, "seed": long_seed, "max_tokens": 40, "stop_token_ids": [never, ids[at]], "logprobs": 0}
    status, answer = post(url, body)
    choice = answer["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "stop")
    assert choice["text"] == tokenizer.decode(ids[:at])
    assert len(choice["logprobs"]["tokens"]) == at
    assert answer["usage"]["completion_tokens"] == at + 1


def test_an_end_of_text_may_be_passed_over(url: str, tokenizer: Tokenizer, target: OnnxModel) -> None:
    """What the target alone would write if it had no token that ends a text."""
    seed, ids = next((seed, ids) for seed in range(99) if END in (ids := _endless(target, tokenizer, seed))[:40])
    status, answer = post(url, {"prompt": "x = 1\n", "seed": seed, "max_tokens": 60, "ignore_eos": True})
    choice = answer["choices"][0]
    assert (status, choice["finish_reason"], choice["text"]) == (200, "length", tokenizer.decode(ids))
    assert answer["usage"]["completion_tokens"] == 60


@pytest.mark.parametrize("scheme", ["server", "stream", "coupled", "dense", "topk", "lattice", "split"])
def test_every_scheme_stops_and_goes_on_as_the_target_alone(
    served: Served, scheme: str, tokenizer: Tokenizer, target: OnnxModel, truth: Truth, long_seed: int
) -> None:
    """Under shared noise at any temperature, in rounds with probabilities at temperature 0."""
    warm = scheme in ("server", "stream", "coupled")
    ids = truth(seed=long_seed, max_tokens=40, temperature=float(warm))
    at = next(at for at in range(4, 40) if ids[at] not in ids[:at])
    asked = {"prompt": PROMPT, "seed": long_seed, "temperature": float(warm), "max_tokens": 40, "scheme": scheme}
    status, answer = post(served.device, {**asked, "stop_token_ids": [ids[at]]})
    assert (status, answer["choices"][0]["text"]) == (200, tokenizer.decode(ids[:at])), answer
    status, answer = post(served.device, {**asked, "stop_token_ids": [ids[at]], "min_tokens": 40, "ignore_eos": True})
    [choice] = answer["choices"]
    assert (status, choice["finish_reason"], answer["usage"]["completion_tokens"]) == (200, "length", 40)
    if warm:
        seed, ids = next((seed, ids) for seed in range(99) if END in (ids := _endless(target, tokenizer, seed))[:40])
        given = {"prompt": "x = 1\n", "seed": seed, "max_tokens": 60, "ignore_eos": True, "scheme": scheme}
        status, answer = post(served.device, given)
        assert (status, answer["choices"][0]["text"]) == (200, tokenizer.decode(ids))


@functools.cache
def _endless(target: OnnxModel, tokenizer: Tokenizer, seed: int) -> list[int]:
    endless: Any = types.SimpleNamespace(
        eos_ids=(), max_context=target.max_context, new_cache=target.new_cache, forward=target.forward
    )
    return list(alone.write(endless, tokenizer.encode("x = 1\n"), SamplingParams(), seed, 60, tokenizer.vocab_size))


def test_texts_and_ids_are_turned_into_each_other(url: str, tokenizer: Tokenizer) -> None:
    base, ids = url.removesuffix("/v1"), tokenizer.encode("é x = 1\n")
    assert post(base, {"prompt": "é x = 1\n"}, "/tokenize")[1]["tokens"] == ids
    bare = tokenizer.encode("é x = 1\n", special=False)
    assert post(base, {"content": "é x = 1\n"}, "/tokenize")[1] | {"max_model_len": 0} == {
        "tokens": bare, "count": len(bare), "max_model_len": 0,
    }  # fmt: skip
    assert post(base, {"tokens": bare}, "/detokenize")[1]["prompt"] == "é x = 1\n"
    for path, body in (
        ("/tokenize", {}), ("/tokenize", {"prompt": "x", "content": "y"}), ("/tokenize", {"prompt": 5}),
        ("/tokenize", {"prompt": "x", "of": 1}), ("/detokenize", {"tokens": [-1]}), ("/detokenize", {"tokens": "x"}),
        ("/detokenize", b"[" * 9000), ("/tokenize", {"prompt": "x" * 10**6}),
    ):  # fmt: skip
        assert post(base, body, path)[0] == 400, body
    assert post(base, {"prompt": "x", "model": "gpt"}, "/tokenize")[0] == 404


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/v1/embeddings", "a server that has a model for them"),
        ("/v1/images/generations", "text only"),
        ("/v1/audio/transcriptions", "text only"),
        ("/v1/conversations", "give previous_response_id"),
        ("/v1/messages", "it is of Anthropic's API, and this is OpenAI's; the base URL"),
        ("/api/chat", "it is of Ollama's API, and this is OpenAI's; the base URL"),
        ("/v1/api/generate", "it is of Ollama's API"),
        ("/chat/completions", "ask /v1/chat/completions; the base URL"),
        ("/completions", "ask /v1/completions;"),
        ("/v1/v1/responses", "ask /v1/responses; the base URL"),
        ("/v1/chat/completions/chat/completions", "ask /v1/chat/completions;"),
        ("/v1/chat/completions/", "ask /v1/chat/completions;"),
        ("/v1/detokenize", "ask /detokenize"),
        ("/v1/rerank", "served are /v1/models, /v1/completions"),
        ("/" + "x" * 99, "/" + "x" * 59 + "… is not supported"),
    ],
)
def test_paths_that_are_not_served_are_refused_by_name_and_say_what_to_ask(url: str, path: str, remedy: str) -> None:
    """A client's base URL may lack its /v1, or have it twice, or the client may speak another API."""
    status, answer = post(url.removesuffix("/v1"), {}, path)
    assert (status, answer["error"]["code"]) == (404, "unsupported_path")
    assert remedy in answer["error"]["message"]
    assert answer["error"]["message"].startswith(f"POST {path[:60]}")


@pytest.mark.parametrize(
    ("kind", "form"), [("image_url", "messages"), ("input_image", "input"), ("input_audio", "input")]
)
def test_what_is_no_text_is_refused_by_its_type(kind: str, form: str) -> None:
    talk = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {}}]}]
    with pytest.raises(ApiError, match=rf"content\[1\], a part of type {kind}, holds no text") as caught:
        conversation(talk, bool) if form == "messages" else messages_of(talk)
    assert (caught.value.status, caught.value.param) == (400, f"{form}[0].content[1]")


def test_methods_that_are_not_served_are_refused_by_name(client: openai.OpenAI) -> None:
    for ask, methods in (
        (client.chat.completions.list, "POST"),
        (lambda: client.responses.input_tokens.count(model="target", input="x"), "DELETE or GET or HEAD"),
    ):
        with pytest.raises(openai.APIStatusError, match=f"is not supported: ask it with {methods}") as caught:
            ask()
        assert (caught.value.status_code, caught.value.code) == (405, "unsupported_method")


def test_every_server_has_a_model_called_target(url: str) -> None:
    assert post(url, {"model": "target", "prompt": "x", "max_tokens": 1})[0] == 200


def test_other_methods_and_bodies_too_long(url: str) -> None:
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


@pytest.mark.parametrize("side", ["device", "edge"])
def test_token_ids_without_number_are_refused_before_anything_is_made_of_them(
    served: Served, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = getattr(served, side)
    assert post(url, {"prompt": "x", "max_tokens": 1})[0] == 200  # from now on a device knows the context
    monkeypatch.setattr(Tokenizer, "decode", lambda *_, **__: pytest.fail("it was decoded"))
    for prompt in ([5] * 2_000_000, [[1, 2], [5] * 1024]):
        status, answer = post(url, {"prompt": prompt, "echo": True})
        error = answer["error"]
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")


def test_token_ids_are_bounded_before_a_context_is_known(tokenizer: Tokenizer) -> None:
    api = Api(lambda key: None, tokenizer, "m")
    check_ids(api, [5] * UNLIMITED)
    with pytest.raises(ApiError, match="give at most"):
        check_ids(api, [5] * (UNLIMITED + 1))


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

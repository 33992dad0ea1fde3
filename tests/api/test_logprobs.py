"""OpenAI's client is told how likely the target held each token: the same on the device and at the edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest

from airdraft.models.engines.onnx import OnnxModel
from airdraft.models.text import Tokenizer

from ..models.http_engine import log_softmax
from .conftest import PROMPT, Served, Truth
from .test_requests import post

NEAR = 1e-3
"""Rows of one model differ by rounding between batch widths."""


@pytest.fixture(scope="module")
def rows(target: OnnxModel, tokenizer: Tokenizer, truth: Truth) -> tuple[list[int], Any]:
    """A text of the target's, and its log-probabilities at each token, [tokens, vocab]: before any temperature."""
    ids, prompt = truth(seed=5, temperature=0.7), tokenizer.encode(PROMPT)
    logits = target.forward(target.new_cache(), 0, [*prompt, *ids[:-1]], len(ids))
    return ids, log_softmax(logits[:, : tokenizer.vocab_size])


def name(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; of a part of a character, which token may be any model's choice, its bytes."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    asked = {"model": "target", "prompt": PROMPT, "max_tokens": 24, "seed": 5, "temperature": 0.7, **options}
    return client.completions.create(**asked)


@pytest.mark.parametrize("scheme", ["auto", "coupled", "server"])
def test_a_completion_says_how_likely_its_tokens_were(
    client: openai.OpenAI, tokenizer: Tokenizer, rows: tuple[list[int], Any], scheme: str
) -> None:
    ids, logs = rows
    choice = ask(client, logprobs=3, extra_body={"scheme": scheme}).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text == tokenizer.decode(ids)
    assert found.token_logprobs == pytest.approx([row[token] for row, token in zip(logs, ids, strict=True)], abs=NEAR)
    for top, row in zip(found.top_logprobs, logs, strict=True):
        best = np.argsort(-row)[:3]
        assert list(top) == [name(tokenizer, int(token)) for token in best]
        assert list(top.values()) == pytest.approx(row[best], abs=NEAR)
    assert found.text_offset == [len("".join(found.tokens[:at])) for at in range(len(found.tokens))]


def test_streamed_they_are_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, logprobs=2).choices[0]
    chunks = [chunk.choices[0] for chunk in ask(client, logprobs=2, stream=True)]
    told = [chunk.logprobs for chunk in chunks if chunk.logprobs]
    assert len(told) > 1
    assert [token for each in told for token in each.tokens] == whole.logprobs.tokens
    assert [offset for each in told for offset in each.text_offset] == whole.logprobs.text_offset
    values = [value for each in told for value in each.token_logprobs]
    assert values == pytest.approx(whole.logprobs.token_logprobs, abs=NEAR)
    for chunk in chunks:
        assert "".join(chunk.logprobs.tokens if chunk.logprobs else []) == chunk.text


def test_none_are_told_unasked_and_zero_names_no_others(client: openai.OpenAI) -> None:
    assert ask(client).choices[0].logprobs is None
    found = ask(client, logprobs=0).choices[0].logprobs
    assert found.tokens
    assert all(not top for top in found.top_logprobs)


def test_what_a_stop_string_cuts_off_has_none(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].text
    choice = ask(client, logprobs=1, stop=[text[10:13]]).choices[0]
    found, cut = choice.logprobs, text.find(text[10:13])
    assert choice.text == text[:cut]
    assert all(offset < cut for offset in found.text_offset)
    assert "".join(found.tokens).startswith(choice.text)


def test_every_choice_has_its_own(client: openai.OpenAI) -> None:
    for choice in ask(client, logprobs=1, n=2).choices:
        assert "".join(choice.logprobs.tokens) == choice.text


def test_sampling_by_probabilities_says_the_same_of_what_it_wrote(
    served: Served, target: OnnxModel, tokenizer: Tokenizer
) -> None:
    """`dense` and `topk`: another text for the seed, and the target's own view of it."""
    ids_of = {name(tokenizer, token): token for token in range(tokenizer.vocab_size) if not tokenizer.is_special(token)}
    with openai.OpenAI(base_url=served.device, api_key="none", max_retries=0) as client:
        for scheme in ("dense", "topk"):
            choice = ask(client, logprobs=1, extra_body={"scheme": scheme}).choices[0]
            # Not what the tokenizer makes of the text: one may be written in other tokens, too.
            prompt, ids = tokenizer.encode(PROMPT), [ids_of[each] for each in choice.logprobs.tokens]
            assert tokenizer.decode(ids) == choice.text
            logs = log_softmax(target.forward(target.new_cache(), 0, [*prompt, *ids[:-1]], len(ids)))
            expected = [row[token] for row, token in zip(logs, ids, strict=True)]
            assert choice.logprobs.token_logprobs == pytest.approx(expected, abs=NEAR)


def test_split_leaves_tokens_to_the_device_and_has_none(served: Served) -> None:
    status, answer = post(served.device, {"model": "target", "prompt": "x", "logprobs": 0, "scheme": "split"})
    assert (status, answer["error"]["param"]) == (400, "logprobs")
    assert "use another scheme" in answer["error"]["message"]

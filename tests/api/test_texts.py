"""OpenAI's own client against both servers: every text is the target's."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from airdraft.models.text import Tokenizer

from .conftest import END, PROMPT, Served, Truth


def ask(client: openai.OpenAI, prompt: Any = PROMPT, **options: Any) -> Any:
    return client.completions.create(model="target", prompt=prompt, **{"max_tokens": 24, "seed": 0, **options})


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"seed": 5}, {"seed": 5}),
        ({"seed": 7, "temperature": 0.7, "top_p": 0.9}, {"seed": 7, "temperature": 0.7, "top_p": 0.9}),
        (
            {"seed": 2**63 - 1, "temperature": 1.2, "extra_body": {"top_k": 20, "min_p": 0.05, "scheme": "coupled"}},
            {"seed": 2**63 - 1, "temperature": 1.2, "top_k": 20, "min_p": 0.05},
        ),
    ],
)
def test_a_text_is_the_targets_own_whole_and_streamed(
    client: openai.OpenAI, tokenizer: Tokenizer, truth: Truth, options: dict[str, Any], params: dict[str, Any]
) -> None:
    ids = truth(**params)
    whole = ask(client, **options)
    chunks = list(ask(client, stream=True, **options))
    assert whole.choices[0].text == tokenizer.decode(ids)
    assert "".join(chunk.choices[0].text for chunk in chunks) == tokenizer.decode(ids)
    assert len(chunks) > 1  # more where the machine is idle: what waits for its turn is verified in one forward
    reason = "stop" if ids[-1] == END else "length"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [reason]
    assert whole.choices[0].finish_reason == reason
    assert whole.usage.completion_tokens == len(ids)


def test_the_async_client(url: str, tokenizer: Tokenizer, truth: Truth) -> None:
    async def main() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            whole = await client.completions.create(model="target", prompt=PROMPT, seed=3, max_tokens=24)
            pieces = await client.completions.create(model="target", prompt=PROMPT, seed=3, max_tokens=24, stream=True)
            return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in pieces])

    text = tokenizer.decode(truth(seed=3))
    assert asyncio.run(main()) == (text, text)


def test_device_and_edge_write_the_same(served: Served) -> None:
    texts = []
    for url in (served.device, served.edge):
        with openai.OpenAI(base_url=url, api_key="none") as client:
            texts.append(ask(client, seed=11, max_tokens=100).choices[0].text)
    assert texts[0] == texts[1]


def test_a_device_drafts_and_an_edge_does_not(served: Served, long_seed: int) -> None:
    details = []
    for url in (served.device, served.edge):
        with openai.OpenAI(base_url=url, api_key="none") as client:
            usage = ask(client, seed=long_seed, max_tokens=60, extra_body={"scheme": "coupled"}).usage
            details.append(usage.completion_tokens_details)
    assert details[0].accepted_prediction_tokens > 0
    assert details[0].rejected_prediction_tokens > 0
    assert (details[1].accepted_prediction_tokens, details[1].rejected_prediction_tokens) == (0, 0)


@pytest.mark.parametrize("side", ["edge", "device"])
def test_what_was_read_for_one_text_is_not_read_again_for_another(served: Served, side: str) -> None:
    long = side + "".join(f"def step_{at}(value):\n    return value + {at}\n\n\n" for at in range(20))
    with openai.OpenAI(base_url=getattr(served, side), api_key="none") as client:
        first, again, other = (
            client.completions.create(model="target", prompt=prompt, max_tokens=4, temperature=0, n=n).usage
            for prompt, n in ((long, 1), (long, 2), (long + "def parse(text):\n", 1))
        )
    assert first.prompt_tokens_details.cached_tokens == 0
    assert again.prompt_tokens_details.cached_tokens == first.prompt_tokens - 2  # the last two give the first rows
    assert first.prompt_tokens - 2 <= other.prompt_tokens_details.cached_tokens < other.prompt_tokens

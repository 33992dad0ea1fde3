"""The chat pair as a user runs it: real processes, the target from its GGUF file, texts that are the target's own."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from airdraft.api.template import ChatTemplate
from airdraft.core.sampling import SamplingParams
from airdraft.models.base import LanguageModel
from airdraft.models.registry import load, resolve
from airdraft.models.text import Tokenizer
from airdraft.sim import alone

from .processes import ENVIRONMENT, airdraft, announced, command, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TARGET, DRAFT = "chat-target", "chat-draft"
QUESTIONS = ("Why is the sky blue?", "Write a Python function that counts the vowels in a string.")
TOKENS = 40
Said = Sequence[tuple[str, str]]


@pytest.fixture(scope="module")
def target() -> tuple[LanguageModel, Tokenizer]:
    """The target in this process, downloaded if need be."""
    return load(TARGET, steady=True)


@pytest.fixture(scope="module")
def edge(target: tuple[LanguageModel, Tokenizer]) -> Iterator[dict[str, Any]]:
    """What an edge process says of itself."""
    with started("edge", "--target", TARGET, "--port", "0", "--api-port", "0", "--json") as process:
        yield announced(process)


def prompt(said: Said) -> list[int]:
    template = ChatTemplate.of(resolve(TARGET))
    assert template is not None
    messages = [{"role": role, "content": content} for role, content in said]
    return template.encode(template.render(messages, {"add_generation_prompt": True}))


def truth(target: tuple[LanguageModel, Tokenizer], said: Said, temperature: float, seed: int) -> list[int]:
    """What the target alone answers."""
    model, tokenizer = target
    params = SamplingParams(temperature)
    return list(alone.write(model, prompt(said), params, seed, TOKENS, vocab_size=tokenizer.vocab_size))


@pytest.mark.parametrize("scheme", ["auto", "stream", "coupled", "server"])
@pytest.mark.parametrize(("temperature", "seed"), [(0.0, 0), (0.7, 1), (0.7, 2**62), (1.0, 3), (1.3, 4)])
def test_a_text_is_the_targets_own(
    target: tuple[LanguageModel, Tokenizer], edge: dict[str, Any], scheme: str, temperature: float, seed: int
) -> None:
    question = QUESTIONS[seed % 2]
    code, out, errors = airdraft(
        "run", "--chat", question, "--edge", edge["url"], "--json", "--scheme", scheme, "--seed", str(seed),
        "--temperature", str(temperature), "--max-tokens", str(TOKENS),
    )  # fmt: skip
    assert (code, errors) == (0, "")
    record = json.loads(out)
    assert record["ids"] == truth(target, [("user", question)], temperature, seed)
    if scheme in ("stream", "coupled"):
        assert record["drafted"] > 0


def test_the_edges_api_writes_the_same(target: tuple[LanguageModel, Tokenizer], edge: dict[str, Any]) -> None:
    assert edge["exactness"] == {"batch": "exact", "width": "exact", "company": "exact", "prompts": "exact"}
    for seed, question in enumerate(QUESTIONS):
        body = {
            "messages": [{"role": "user", "content": question}], "seed": seed, "temperature": 0.7, "top_p": 1,
            "max_tokens": TOKENS,
        }  # fmt: skip
        request = urllib.request.Request(  # noqa: S310
            f"{edge['api']}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            text = json.load(answer)["choices"][0]["message"]["content"]
        assert text == target[1].decode(truth(target, [("user", question)], 0.7, seed))


@pytest.mark.parametrize(("own_edge", "scheme"), [(False, "auto"), (True, "coupled")])
def test_a_scripted_chat_of_two_turns(
    target: tuple[LanguageModel, Tokenizer], edge: dict[str, Any], own_edge: bool, scheme: str
) -> None:
    where = ("--scheme", scheme) if own_edge else ("--edge", edge["url"])
    words = command("chat", "--json", "--seed", "5", "--temperature", "0.7", "--max-tokens", str(TOKENS), *where)
    script = "".join(f"{question}\n" for question in QUESTIONS).encode()
    done = subprocess.run(words, input=script, capture_output=True, timeout=300, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, b"")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    said: list[tuple[str, str]] = []
    for question, answer in zip(QUESTIONS, answers, strict=True):
        said.append(("user", question))
        assert answer["ids"] == truth(target, said, 0.7, 5)
        said.append(("assistant", answer["text"]))
        assert answer["drafted"] > 0 or scheme == "auto"  # whose choice hangs on how fast this machine is

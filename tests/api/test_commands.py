"""The commands as a user runs them: processes of their own, one of them killed in the midst of an answer."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
import trustme

from airdraft.models.text import Tokenizer

from ..e2e.processes import airdraft, announced, started
from ..pairs import copied
from .conftest import PROMPT, Truth
from .test_chat import MESSAGES, RENDERED, TINY

pytestmark = pytest.mark.slow


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


@pytest.mark.parametrize("draft", ["draft", "none"])
def test_an_edge_killed_and_started_again_in_the_midst_of_an_answer(
    draft: str, tokenizer: Tokenizer, truth: Truth
) -> None:
    seed = next(seed for seed in range(50) if len(truth(seed=seed, max_tokens=200)) == 200)
    text = tokenizer.decode(truth(seed=seed, max_tokens=200))
    slowly = ("edge", "--json", "--profile", "phone-8b", "--port")
    with started(*slowly, "0") as first:
        url = announced(first)["url"]
        with (
            started("device", "--edge", url, "--port", "0", "--json", "--draft", draft) as device,
            client(announced(device)["url"]) as api,
            contextlib.ExitStack() as stack,
        ):
            chunks = []
            for chunk in api.completions.create(model="target", prompt=PROMPT, seed=seed, max_tokens=200, stream=True):
                chunks.append(chunk)
                if len(chunks) == 10:
                    first.kill()
                    first.wait()
                    stack.enter_context(started(*slowly, url.rpartition(":")[2]))
            assert "".join(chunk.choices[0].text for chunk in chunks) == text
            device.send_signal(signal.SIGTERM)
            _, errors = device.communicate(timeout=60)
            assert (device.returncode, errors) == (0, b"")


def test_chats_with_a_key_over_tls(tmp_path: Path, tokenizer: Tokenizer, truth: Truth) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "tokens").write_text("0123456789abcdef\n")
    folder = copied("draft", tmp_path / "draft")
    (folder / "chat_template.jinja").write_text(TINY)
    text = tokenizer.decode(truth(RENDERED + "# assistant:", seed=3, max_tokens=20))
    secured = ("--tls-cert", str(tmp_path / "chain.pem"), "--tls-key", str(tmp_path / "key.pem"))
    with started(
        "edge",
        "--host",
        "localhost",
        "--port",
        "0",
        "--api-port",
        "0",
        "--json",
        "--tokens",
        str(tmp_path / "tokens"),
        *secured,
    ) as edge:
        own = ("--token", "0123456789abcdef", "--ca", str(tmp_path / "ca.pem"), "--api-key", "k")
        at_edge = announced(edge)
        url = at_edge["url"]
        assert url.startswith("wss://")
        models = urllib.request.Request(at_edge["api"] + "/models")  # noqa: S310
        models.add_header("Authorization", "Bearer 0123456789abcdef")
        with urllib.request.urlopen(models, context=ssl.create_default_context(cafile=tmp_path / "ca.pem")) as answer:  # noqa: S310
            assert b'"target"' in answer.read()
        options = ("--edge", url, "--draft", str(folder), "--name", "mine", "--port", "0", "--json")
        with started("device", *options, *own) as device:
            listening = announced(device)
            assert listening["edge"] == url
            with client(listening["url"], "k") as api:
                answer = api.chat.completions.create(model="mine", messages=MESSAGES, seed=3, max_tokens=20)
                assert answer.choices[0].message.content == text
            with client(listening["url"], "q") as api, pytest.raises(openai.AuthenticationError):
                api.models.list()


def test_an_edge_serves_the_api_too(tokenizer: Tokenizer, truth: Truth) -> None:
    with started("edge", "--port", "0", "--api-port", "0", "--json") as edge:
        with client(announced(edge)["api"]) as api:
            answer = api.completions.create(model="target", prompt=PROMPT, seed=4, max_tokens=20)
            assert answer.choices[0].text == tokenizer.decode(truth(seed=4, max_tokens=20))
        edge.send_signal(signal.SIGTERM)
        _, errors = edge.communicate(timeout=60)
        assert (edge.returncode, errors) == (0, b"")


def test_an_edge_tells_a_name_and_no_path_and_takes_a_template(
    tmp_path: Path, tokenizer: Tokenizer, truth: Truth
) -> None:
    folder = copied("target", tmp_path / "my-model")
    (tmp_path / "lines.jinja").write_text(TINY)
    text = tokenizer.decode(truth(RENDERED + "# assistant:", seed=3, max_tokens=20))
    ports = ("--port", "0", "--api-port", "0", "--metrics-port", "0", "--json")
    template = ("--chat-template", str(tmp_path / "lines.jinja"))
    for options, name in (((), "my-model"), (("--name", "acme/coder"), "acme/coder")):
        with started("edge", "--target", str(folder), *ports, *template, *options) as edge:
            told = announced(edge)
            assert told["model"] == name
            with client(told["api"]) as api:
                assert [model.id for model in api.models.list()] == [name]
                for asked in (name, "target"):
                    answer = api.chat.completions.create(model=asked, messages=MESSAGES, seed=3, max_tokens=20)
                    assert (answer.choices[0].message.content, answer.model) == (text, name)
            request = urllib.request.Request(told["metrics"] + "/healthz", headers={"Host": "evil.example"})  # noqa: S310
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(request)  # noqa: S310


@pytest.mark.parametrize("where", ["edge", "device"])
def test_chats_follow_what_the_model_recommends_unless_asked(
    where: str, tmp_path: Path, tokenizer: Tokenizer, truth: Truth
) -> None:
    folder = copied("target" if where == "edge" else "draft", tmp_path / "my-model")
    (folder / "chat_template.jinja").write_text(TINY)
    advice = {"temperature": 0.4, "top_k": 7, "top_p": 0.9, "do_sample": False, "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **advice}))
    with contextlib.ExitStack() as stack:
        model = ("--target", str(folder)) if where == "edge" else ()
        process = stack.enter_context(started("edge", *model, "--port", "0", "--api-port", "0", "--json"))
        told = announced(process)
        url = told["api"]
        if where == "device":
            options = ("--edge", told["url"], "--draft", str(folder), "--port", "0", "--json")
            process = stack.enter_context(started("device", *options))
            url = announced(process)["url"]
        api = stack.enter_context(client(url))
        prompt, asked = RENDERED + "# assistant:", {"model": "target", "seed": 3, "max_tokens": 20}
        for own, params in (
            ({}, {"temperature": 0.4, "top_k": 7, "top_p": 0.9}),
            ({"temperature": 0.8}, {"temperature": 0.8, "top_k": 7, "top_p": 0.9}),
            ({"top_p": 1, "extra_body": {"top_k": 0}}, {"temperature": 0.4}),
            ({"temperature": 1, "top_p": 1, "extra_body": {"top_k": -1}}, {}),
        ):
            answer = api.chat.completions.create(messages=MESSAGES, **asked, **own)  # type: ignore[call-overload]
            assert answer.choices[0].message.content == tokenizer.decode(truth(prompt, seed=3, max_tokens=20, **params))
        plain = api.completions.create(prompt=prompt, **asked)  # type: ignore[call-overload]
        assert plain.choices[0].text == tokenizer.decode(truth(prompt, seed=3, max_tokens=20))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert b"repetition_penalty 1.3, which is not applied" in errors


def test_advice_out_of_range_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = copied("target", tmp_path / "my-model")
    (folder / "chat_template.jinja").write_text(TINY)
    (folder / "generation_config.json").write_text('{"temperature": -1}')
    code, _, errors = airdraft("edge", "--target", str(folder), "--port", "0", "--api-port", "0")
    assert (code, "temperature = -1" in errors, "mend the file" in errors) == (2, True, True)


def test_a_template_without_the_api() -> None:
    code, _, errors = airdraft("edge", "--chat-template", "x.jinja")
    assert (code, "give --api-port, too" in errors) == (2, True)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201])
def test_a_name_that_no_line_holds(name: str) -> None:
    code, _, errors = airdraft("edge", "--name", name)
    assert (code, "--name is empty, unprintable or longer than 200 characters" in errors) == (2, True)


def test_ended_in_the_midst_of_an_answer_neither_waits_nor_fails_loudly() -> None:
    slowly = ("edge", "--port", "0", "--api-port", "0", "--profile", "phone-8b", "--json", "--log-level", "error")
    with started(*slowly) as edge:
        at_edge = announced(edge)
        with started("device", "--edge", at_edge["url"], "--port", "0", "--json") as device:
            for process, url in ((device, announced(device)["url"]), (edge, at_edge["api"])):
                with client(url) as api:
                    stream = api.completions.create(
                        model="target", prompt=PROMPT, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
                    )
                    next(stream)
                    process.send_signal(signal.SIGINT)
                    # What uvicorn cuts off, after seconds, has no such message.
                    with pytest.raises(openai.APIError, match=r"the writer was closed|no more is written here"):
                        list(stream)
                _, errors = process.communicate(timeout=60)
                assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--offline", "sometimes"), "offline is 'sometimes'; choose one of stall, draft, error"),
        (("--chat-template", "/nowhere.jinja"), "/nowhere.jinja cannot be read"),
        (("--ca", "/nowhere.pem"), "/nowhere.pem cannot be read"),
        (("--give-up", "0"), "give-up is 0 s"),
        (("--api-key", ""), "--api-key is empty"),
        (("--name", " "), "--name is empty"),
        (("--allow-host", "http://box:1"), "--allow-host is 'http://box:1'; give a name without scheme or port"),
        (("--log-level", "loud"), "no log level 'loud'; choose from debug, info"),
        (("--edge", "ws://a:1,http://x"), "'http://x' is no address of an edge"),
    ],
)
def test_mistakes_end_in_one_line(options: tuple[str, ...], words: str) -> None:
    code, out, errors = airdraft("device", "--edge", "ws://127.0.0.1:9", *options)
    assert (code, out) == (2, "")
    assert words in errors
    assert errors.count("\n") == 1


def test_a_device_logs_its_edges_and_texts_and_no_word_of_them() -> None:
    with started("edge", "--port", "0", "--json") as edge:
        url = announced(edge)["url"]
        options = ("--port", "0", "--json", "--log-json", "--log-level", "info")
        with started("device", "--edge", url, *options) as device:
            with client(announced(device)["url"]) as api:
                usage = api.completions.create(model="target", prompt=PROMPT, max_tokens=8, seed=1).usage
            device.send_signal(signal.SIGTERM)
            _, errors = device.communicate(timeout=60)
    lines = [json.loads(line) for line in errors.decode().splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert f"connected to {url}" in [line["message"] for line in lines]
    [text] = [line for line in lines if "text" in line]
    assert usage is not None
    assert (text["how"], text["tokens"], text["message"]) == ("finished", usage.completion_tokens, "text 1 finished")
    assert PROMPT.split()[1] not in errors.decode()


def test_a_port_that_is_taken() -> None:
    with started("device", "--edge", "ws://127.0.0.1:9", "--port", "0", "--json") as device:
        listening = announced(device)
        assert listening["edge"] is None
        port = listening["url"].split(":")[2].split("/")[0]
        code, _, errors = airdraft("device", "--edge", "ws://127.0.0.1:9", "--port", port)
        assert (code, "choose a free port" in errors) == (2, True)


def test_an_edge_that_has_no_room_at_the_start_may_have_some_later() -> None:
    with started("edge", "--port", "0", "--max-connections", "1", "--json") as edge:
        options = ("device", "--edge", announced(edge)["url"], "--port", "0")
        with started(*options, "--json") as first:
            assert announced(first)["edge"]
            with started(*options) as second:
                assert second.stdout is not None
                said = second.stdout.readline().decode()
                assert "it has no room, or is about to end; try again later" in said
                first.send_signal(signal.SIGTERM)
                first.wait()
                with client(said.split()[5]) as api:
                    assert api.completions.create(model="target", prompt=PROMPT, max_tokens=3).choices

"""Published prompts over real processes: texts as without a store."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from airdraft.models.registry import load

from .processes import airdraft, announced, started
from .test_processes import truth

WORDS = "def area(width, height):\n    return width * height\n\n\n"
PROMPT = "".join(WORDS.replace("area", f"area{at}") for at in range(22))
QUESTION = "def volume("


def _written(url: str) -> str:
    ran = airdraft("run", PROMPT + QUESTION, "--edge", url, "--scheme", "server", "--max-tokens", "24",
                   "--temperature", "0", "--json")  # fmt: skip
    assert ran[0] == 0, ran[2]
    return str(json.loads(ran[1].splitlines()[-1])["text"])


def _metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:  # noqa: S310
        lines = reply.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"airdraft_{name} ")).split()[1])


TRIES = 5
"""Blocks race with an engine that reads the prompt itself: where a busy machine holds them up, they run again."""


def _texts(store: str | None) -> tuple[str, float]:
    """A text of an edge, and how many tokens came from the store. Calls take 60 ms, so that fetching pays."""
    words = ["--port", "0", "--json", "--metrics-port", "0", "--profile", "phone-70b"]
    with started("edge", *words, *(["--prompts", store] if store else [])) as edge:
        said = announced(edge)
        text = _written(said["url"])
        return text, _metric(said["metrics"], "prompt_tokens_fetched_total")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "prompt.txt").write_text(PROMPT, "utf-8")
    return tmp_path / "prompt.txt"


@pytest.mark.slow
def test_a_prompt_in_a_folder(file: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    done = airdraft("prompt", "publish", str(file), "--to", store, "--json")
    assert done[0] == 0, done[2]
    made = json.loads(done[1])
    assert made["blocks"] == made["written"] == made["tokens"] // 64 > 4
    alone, nothing = _texts(None)
    assert nothing == 0
    found = []
    while max(found, default=0) < 128 and len(found) < TRIES:
        text, fetched = _texts(store)
        assert text == alone
        found.append(fetched)
    assert max(found) >= 128
    for place in Path(store).glob("*/*/blocks/*/1"):
        place.write_bytes(place.read_bytes()[:-1] + b"\xff")
    assert _texts(store) == (alone, 0.0)  # every block is damaged, and none is used
    again = airdraft("prompt", "publish", str(file), "--to", store)
    assert (again[0], again[2]) == (0, "")
    assert f"use it: airdraft edge --target target --prompts {store}" in again[1]


@pytest.mark.slow
def test_a_codec_that_loses_something_is_used_where_it_is_named_and_said_in_every_answer(
    file: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    sizes = {}
    for codec in ("exact", "gear4"):
        done = airdraft("prompt", "publish", str(file), "--to", store, "--codec", codec, "--json")
        assert done[0] == 0, done[2]
        sizes[codec] = json.loads(done[1])["bytes"]
    assert sizes["gear4"] < 0.3 * sizes["exact"]
    words = ["--port", "0", "--api-port", "0", "--json", "--metrics-port", "0", "--profile", "phone-70b"]
    found: list[float] = []
    while max(found, default=0) < 128 and len(found) < TRIES:
        with started("edge", *words, "--prompts", store, "--prompts-codec", "gear4") as edge:
            said = announced(edge)
            share = said["exactness"]["prompts"]
            assert 0 < share < 0.2
            ran = airdraft("run", PROMPT + QUESTION, "--edge", said["url"], "--max-tokens", "8", "--json")
            assert ran[0] == 0, ran[2]
            assert json.loads(ran[1].splitlines()[-1])["losses"] == {"prompts": share}
            assert "texts of this edge are not exact after published prompts" in ran[2]
            found.append(_metric(said["metrics"], "prompt_tokens_fetched_total"))
            with urllib.request.urlopen(f"{said['api']}/models", timeout=60) as reply:  # noqa: S310
                assert json.load(reply)["data"][0]["exactness"]["prompts"] == share
    assert max(found) >= 128


@pytest.mark.slow
def test_a_device_takes_its_drafts_prompt_from_there(file: Path, tmp_path: Path) -> None:
    """The text is the target's own with and without, and whatever the blocks hold."""
    store = str(tmp_path / "store")
    done = airdraft("prompt", "publish", str(file), "--to", store, "--target", "draft", "--json")
    assert done[0] == 0, done[2]
    blocks = json.loads(done[1])["blocks"]
    asked = {"prompt": PROMPT + QUESTION, "max_tokens": 24, "temperature": 0.7, "seed": 3, "scheme": "stream"}
    texts, fetched = list[str](), list[float]()
    with started("edge", "--port", "0", "--json") as edge:
        url = announced(edge)["url"]
        for options in ([], *[["--prompts", store]] * TRIES):
            if max(fetched, default=0) >= 128:
                break
            words = ["--edge", url, "--port", "0", "--json", "--metrics-port", "0", *options]
            with started("device", *words) as device:
                said = announced(device)
                body = json.dumps(asked).encode()
                post = urllib.request.Request(f"{said['url']}/completions", body)  # noqa: S310
                with urllib.request.urlopen(post, timeout=60) as reply:  # noqa: S310
                    texts.append(json.load(reply)["choices"][0]["text"])
                fetched.append(_metric(said["metrics"], "prompt_tokens_fetched_total"))
    assert set(texts) == {load("target")[1].decode(truth(0.7, 3, 24, PROMPT + QUESTION))}
    assert fetched[0] == 0
    assert 128 <= max(fetched) <= 64 * blocks

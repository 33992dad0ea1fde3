"""`airdraft run` against an edge: who chose the scheme, and what the text has cost."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airdraft import cli
from airdraft.core.sampling import SamplingParams
from airdraft.models import registry as engines
from airdraft.models.registry import load
from airdraft.sim import alone

from ..pairs import renamed
from ..suites import mostly_slow

PROMPT = "def parse(text):\n"
Say = Callable[..., str]


@pytest.fixture
def say(edge: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Standard output of `airdraft run`, which must end well and say nothing else."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["airdraft", "run", PROMPT, "--edge", edge, "--max-tokens", "24", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown, errors = capsys.readouterr()
        assert (ended.value.code, errors) == (0, "")
        return shown

    return run


def truth() -> list[int]:
    target, tokenizer = load("target")
    prompt = tokenizer.encode(PROMPT)
    return list(alone.write(target, prompt, SamplingParams(0.7), 0, 24, vocab_size=tokenizer.vocab_size))


WAYS: list[tuple[str, ...]] = [
    (),
    ("--race", "off"),
    *(("--scheme", "stream", "--race", race) for race in ("off", "idle", "always")),
    ("--scheme", "stream", "--draft-length", "3"),
    ("--scheme", "coupled"),
    ("--scheme", "coupled", "--draft-length", "2"),
    ("--scheme", "coupled", "--rule", "greedy"),
    ("--scheme", "coupled", "--rule", "specdec++"),
    ("--scheme", "server"),
]


@pytest.mark.parametrize("words", mostly_slow(WAYS, often=(WAYS[0], WAYS[2], WAYS[8], WAYS[10])))
def test_whatever_way_it_is_written_the_text_is_the_same(say: Say, words: tuple[str, ...]) -> None:
    record: dict[str, Any] = json.loads(say("--json", *words))
    assert record["ids"] == truth()
    asked = dict(zip(words[::2], words[1::2], strict=True))
    assert record["scheme"] == asked.get("--scheme", "auto")
    assert (record["why"] is None) == ("--scheme" in asked)
    assert record["mean_acceptance_length"] == record["tokens"] / record["forwards"] >= 1
    if record["scheme"] == "server":
        assert (record["drafted"], record["raced"], record["forwards"]) == (0, len(truth()), len(truth()))
    if record["scheme"] == "coupled" or ("off" in words and "stream" in words):
        assert record["drafted"] > 0
        assert record["raced"] <= 1  # the last token has no draft


@pytest.mark.parametrize(
    "words", [("--draft", "none"), ("--draft", "none", "--scheme", "server"), ("--scheme", "server")]
)
def test_without_a_draft_no_model_is_loaded_and_the_edge_writes(
    say: Say, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = truth()
    monkeypatch.setattr(engines, "_make", lambda *_, **__: pytest.fail("a model was loaded"))
    record: dict[str, Any] = json.loads(say("--json", *words))
    assert (record["ids"], record["scheme"], record["drafted"]) == (truly, "server", 0)
    assert record["forwards"] == len(truly)


@pytest.mark.parametrize(
    ("words", "scheme"),
    [(("--draft", "none"), "stream"), (("--draft", "none", "--scheme", "coupled"), "coupled"), ((), "auto")],
)
def test_copies_leave_the_text_as_it_is(say: Say, words: tuple[str, ...], scheme: str) -> None:
    record: dict[str, Any] = json.loads(say("--json", "--lookup", *words))
    assert (record["ids"], record["scheme"]) == (truth(), scheme)


@pytest.mark.parametrize("tree", ["off", "1", "4"])
def test_trees_leave_the_text_as_it_is(say: Say, tree: str) -> None:
    record: dict[str, Any] = json.loads(say("--json", "--tree", tree, "--scheme", "stream", "--race", "off"))
    assert record["ids"] == truth()
    assert record["drafted"] > 0


@pytest.mark.slow
def test_a_target_of_another_vocabulary_needs_no_option_for_a_text_without_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = renamed("target", tmp_path / "other")
    words = ("--target", str(folder), "--scheme", "server", "--max-tokens", "24", "--json")
    monkeypatch.setattr(sys, "argv", ["airdraft", "run", PROMPT, *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["ids"] == truth()


def test_auto_says_what_it_chose_and_why(say: Say) -> None:
    shown = say("--no-color")
    figures, why = shown.splitlines()[-2:]
    assert re.fullmatch(
        rf"{len(truth())} tokens in .* s, .*\d\.\d\d target forwards a token, .*bits up and \d+ down a token", figures
    )
    assert re.fullmatch(r"auto chose last: (server|coupled|stream).*: .* tokens/s predicted, .*; limited by .*", why)


def test_other_schemes_end_with_their_figures(say: Say) -> None:
    last = say("--no-color", "--scheme", "coupled", "--draft-length", "3").splitlines()[-1]
    assert re.fullmatch(
        rf"{len(truth())} tokens in .* s, \d+ of \d+ drafts accepted, 0\.\d\d target forwards a token, "
        r"\d+ bits up and \d+ down a token", last
    )  # fmt: skip


@pytest.mark.slow
def test_a_draft_takes_a_published_prompt(
    edge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words of `airdraft device` work in `run`: the text is the same, and the draft reads less of it."""
    prompt, store = "".join(f"def area{at}(x):\n    return {at} * x\n" for at in range(40)), str(tmp_path / "store")
    (tmp_path / "prompt.txt").write_text(prompt, "utf-8")
    texts = []
    for words in (
        ("prompt", "publish", str(tmp_path / "prompt.txt"), "--target", "draft", "--to", store),
        *(
            ("run", prompt, "--edge", edge, "--profile", "phone-70b", "--max-tokens", "8", "--json", *more)
            for more in ((), *[("--prompts", store)] * 5)  # a busy machine may hold blocks up
        ),
    ):
        monkeypatch.setattr(sys, "argv", ["airdraft", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown, errors = capsys.readouterr()
        assert (ended.value.code, errors) == (0, "")
        texts.append(shown)
    without, *with_store = (json.loads(each) for each in texts[1:])
    assert all(each["ids"] == without["ids"] for each in with_store)
    assert max(each["prompt_tokens_fetched"] for each in with_store) >= 128
    assert "prompt_tokens_fetched" not in without

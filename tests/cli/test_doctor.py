"""`airdraft doctor`: what it finds about pairs that fit and pairs that do not, with and without an edge."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airdraft import cli
from airdraft.cli.doctor import checks, finding, link_checks
from airdraft.control import auto
from airdraft.control.facts import wire
from airdraft.core.messages import SchemeSpec
from airdraft.core.policy import Facts
from airdraft.core.request import Request
from airdraft.core.sampling import SamplingParams
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer
from airdraft.sim import alone
from airdraft.sim.pair import Pair

from ..pairs import copied, renamed

Look = Callable[..., tuple[int | str | None, str, str]]
NOBODY = "ws://127.0.0.1:9"


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Look:
    """Exit code, standard output and standard error of the doctor, who is quick."""
    monkeypatch.setattr(finding, "TOKENS", 16)
    monkeypatch.setattr(finding, "TIMED", 3)
    monkeypatch.setattr(link_checks, "RTTS_MS", (5.0, 200.0))

    def run(*words: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["airdraft", "doctor", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    return run


def found(out: str) -> dict[str, list[dict[str, Any]]]:
    """The findings of each check."""
    checks: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(out)["findings"]:
        checks.setdefault(each["check"], []).append(each)
    return checks


def test_the_pair_that_ships_is_well(look: Look) -> None:
    code, out, errors = look("--json", "--draft", "draft", "--target", "target")
    assert (code, errors) == (0, "")
    record = json.loads(out)
    assert (record["ok"], record["draft"], record["target"]) == (True, "draft", "target")
    by_check = found(out)
    assert list(by_check) == [
        "vocabulary", "memory, draft", "memory, target", "speed", "acceptance", "exactness", "auto",
    ]  # fmt: skip
    assert {each["verdict"] for each in record["findings"]} <= {"ok", "look"}
    assert all(each["remedy"] for each in record["findings"] if each["verdict"] == "look")
    [speed], [accepted], [exact] = (by_check[name] for name in ("speed", "acceptance", "exactness"))
    assert min(speed["figures"]["draft_ms"], speed["figures"]["target_ms"]) > 0  # which is less, a busy moment decides
    assert 0 < accepted["figures"]["acceptance"] < 1
    assert exact["figures"]["width"] == "exact"
    assert [each["figures"]["rtt_ms"] for each in by_check["auto"]] == [5, 200]
    for each in by_check["auto"]:
        told = each["figures"]
        assert told["gain"] == pytest.approx(told["tokens_per_s"] / told["server_tokens_per_s"])
        assert (each["verdict"] == "ok") == (told["gain"] >= link_checks.GAIN)


def test_the_time_of_a_forward_follows_what_it_verifies() -> None:
    def speed(one_s: float, five_s: float) -> float:
        facts = Facts(0.017, five_s, 0.005, 20e6, 100e6, 0.6)
        return link_checks.drafted(facts, one_s, 4096).tokens_per_s

    assert speed(0.09, 0.09) < speed(0.06, 0.09) < speed(0.06, 0.06)
    facts = Facts(0.017, 0.06, 0.005, 20e6, 100e6, 0.6)
    [plain] = auto.predictions(facts, [wire("stream", 4096)])
    assert speed(0.06, 0.06) == plain.tokens_per_s


def test_lines_for_people(look: Look) -> None:
    code, out, errors = look("--no-color", "--rtt-ms", "1000")
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"ok      vocabulary: one, of {load('target')[1].vocab_size:,} tokens"
    assert any(line.startswith("look    auto: 1e+03 ms RTT") for line in lines)  # a long link gains nothing
    assert lines[-1].startswith("        → take no draft, --draft none")


@pytest.mark.slow
def test_acceptance_is_that_of_a_coupled_text(tmp_path: Path, look: Look) -> None:
    path = tmp_path / "prompts.json"
    prompts = ["def parse(text):\n", "class Stack:\n"]
    path.write_text(json.dumps(prompts))
    code, out, _ = look("--json", "--prompts", str(path), "--temperature", "1", "--seed", "7")
    assert code == 0
    [accepted] = found(out)["acceptance"]
    (draft, _), (target, tokenizer) = load("draft"), load("target", steady=True)
    agreed: list[bool] = []
    for seed, words in enumerate(prompts, start=7):
        prompt, params = tokenizer.encode(words), SamplingParams(1.0)
        tokens = list(alone.write(target, prompt, params, seed, 16, tokenizer.vocab_size))
        own = alone.agreeing(draft, prompt, tokens, params, seed, tokenizer.vocab_size)
        # What both machines do with one draft a round: it is judged at every position but those after an accepted one.
        written = Pair(draft, target).write(Request(prompt, SchemeSpec("coupled"), params, seed, 16, 1))
        assert written.tokens == tokens
        at = accepts = 0
        while at < len(tokens) - 1:  # the last token is not drafted
            accepts += own[at]
            at += 1 + own[at]
        assert written.counts.accepted == accepts
        agreed += own
    assert accepted["figures"]["acceptance"] == sum(agreed) / len(agreed)
    assert accepted["figures"]["texts"] == 2


def test_vocabularies_that_differ(tmp_path: Path, look: Look) -> None:
    target = str(renamed("target", tmp_path / "other"))
    code, out, errors = look("--json", "--draft", "draft", "--target", target)
    assert (code, errors) == (1, "")
    assert json.loads(out)["ok"] is False
    by_check = found(out)
    [vocabulary] = by_check["vocabulary"]
    assert vocabulary["verdict"] == "bad"
    own, other = Tokenizer(Path(target)), load("draft")[1]
    at, here, there = vocabulary["figures"]["first"]
    assert (here, there) == next(each[1:] for each in other.differences(own) if each[0] == at)
    assert vocabulary["figures"]["differing"] == len(other.differences(own)) >= 1
    assert f"--draft none --tokenizer {target}" in vocabulary["remedy"]
    assert [each["verdict"] for each in by_check["acceptance"] + by_check["auto"]] == ["skipped"] * 2
    assert by_check["speed"][0]["figures"]["draft_ms"] > 0  # what can be looked at is


@pytest.mark.slow
def test_another_vocabulary_has_its_draft_named_if_it_ships(tmp_path: Path, look: Look) -> None:
    draft = str(renamed("draft", tmp_path / "other"))
    code, out, _ = look("--json", "--draft", draft, "--target", "target")
    assert code == 1
    assert "--draft draft, which ships and fits" in found(out)["vocabulary"][0]["remedy"]


def test_over_an_edge(edge: str, look: Look) -> None:
    code, out, errors = look("--json", "--edge", edge)
    assert (code, errors) == (0, "")
    record = json.loads(out)
    assert (record["draft"], record["target"], record["edge"]) == ("draft", None, edge)
    by_check = found(out)
    assert "memory, target" not in by_check
    [visit], [way] = by_check["edge"], by_check["auto"]
    assert visit["figures"]["context"] == load("target")[0].max_context
    assert way["figures"]["rtt_ms"] == visit["figures"]["rtt_ms"] > 0
    # The texts are those that the target writes, whoever writes them.
    code, out, _ = look("--json", "--target", "target")
    assert by_check["acceptance"][0]["figures"]["acceptance"] == found(out)["acceptance"][0]["figures"]["acceptance"]


@pytest.mark.slow
def test_over_an_edge_with_the_target_here(edge: str, look: Look) -> None:
    code, out, _ = look("--json", "--edge", edge, "--target", "target", "--rtt-ms", "40", "--uplink-mbps", "5")
    assert code == 0
    by_check = found(out)
    assert {"vocabulary", "edge", "memory, target"} <= set(by_check)
    assert [(each["figures"]["rtt_ms"], each["figures"]["uplink_mbps"]) for each in by_check["auto"]] == [(40, 5)]


def test_an_edge_that_is_not_there(look: Look) -> None:
    code, out, errors = look("--json", "--edge", NOBODY)
    assert (code, errors) == (1, "")
    by_check = found(out)
    [visit] = by_check["edge"]
    assert visit["verdict"] == "bad"
    assert f"no edge answers at {NOBODY}" in visit["says"]
    assert "airdraft edge" in visit["remedy"]
    for name in ("acceptance", "exactness", "auto"):
        assert by_check[name][0]["verdict"] == "skipped"
        assert by_check[name][0]["says"]


def test_an_edge_with_another_vocabulary(edge: str, tmp_path: Path, look: Look) -> None:
    code, out, _ = look("--json", "--edge", edge, "--draft", str(renamed("draft", tmp_path / "other")))
    assert code == 1
    [visit] = found(out)["edge"]
    assert visit["verdict"] == "bad"
    assert "another vocabulary" in visit["says"]


@pytest.mark.slow
def test_memory_that_does_not_suffice(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "free_bytes", lambda: 1_000_000)
    code, out, _ = look("--json", "--target", "target")
    assert code == 1
    by_check = found(out)
    assert [by_check[f"memory, {side}"][0]["verdict"] for side in ("draft", "target")] == ["bad", "bad"]
    assert by_check["speed"][0]["verdict"] == by_check["acceptance"][0]["verdict"] == "skipped"
    # Room for the weights, and not for a text as long as the context.
    model = load("target", steady=True)[0]
    weights = by_check["memory, target"][0]["figures"]["weights_bytes"]
    monkeypatch.setattr(checks, "free_bytes", lambda: int((weights + 100 * 8192) / checks.SPARE))
    code, out, _ = look("--json", "--target", "target")
    assert code == 0
    [room] = found(out)["memory, target"]
    assert room["verdict"] == "look"
    positions = int(room["remedy"].split(" positions")[0].rpartition(" ")[2].replace(",", ""))
    assert 0 < positions < model.max_context
    code, out, _ = look("--json", "--target", "target", "--context", str(positions))
    assert found(out)["memory, target"][0]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("words", "thing", "remedy"),
    [
        (("--target", "no/such/model"), "no model 'no/such/model'", "a folder"),
        (("--draft", "nope", "--target", "target"), "no model 'nope'", "a folder"),
        (("--draft", "none"), "there is no draft to look at", "--draft MODEL"),
        (("--prompts", "no-such-file"), "the prompts in no-such-file cannot be read", "a text file"),
        (("--edge", "nonsense"), "'nonsense' is no address", "ws://HOST:PORT"),
        (("--uplink-mbps", "5"), "no round-trip time", "--rtt-ms"),
        (("--rtt-ms", "5", "--uplink-mbps", "0"), "uplink-mbps is 0", "above 0"),
        (("--rtt-ms", "-5"), "rtt-ms is -5", "0 ms or more"),
        (("--temperature", "-1"), "temperature is -1.0", "give 0"),
        (("--engine", "nope"), "no engine 'nope'", "onnx"),
        (
            ("--edge", NOBODY, "--threads", "1", "--context", "9"),
            "--threads, --context: for a target",
            "--target MODEL",
        ),
        (("--context", "100000000"), "a context of 100000000 positions is not to be had", "give 1 to"),
        (("--engine", "vllm"), "vllm serves targets", "onnx"),
    ],
)
def test_mistakes(look: Look, words: tuple[str, ...], thing: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, errors = look(*words)
    assert code == 2
    assert errors.startswith("airdraft: ")
    assert errors.count("\n") == 1
    assert thing in errors
    assert remedy in errors


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.json", b"{}"), ("x.json", b"[1]"), ("x.txt", b"\xff\xfe"), ("x.txt", b" \n\n"), ("x.txt", b"y" * (1 << 21))],
)
def test_prompts_that_are_none(look: Look, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    code, _, errors = look("--prompts", str(path))
    assert (code, errors.count("\n")) == (2, 1)
    assert str(path) in errors


def test_a_folder_without_weights(look: Look, tmp_path: Path) -> None:
    folder = copied("target", tmp_path / "t")
    (folder / "model.safetensors").unlink()
    code, _, errors = look("--target", str(folder))
    assert code == 2
    assert errors.count("\n") == 1

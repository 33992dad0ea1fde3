"""The commands as a user runs them: real processes, real sockets, the real pair. Nothing here hangs on its quality."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airdraft.core.sampling import SamplingParams
from airdraft.demo.report import SCHEMES
from airdraft.lab.results import HELPED
from airdraft.models.registry import load
from airdraft.sim import alone

from .processes import airdraft, all_end, announced, children, read_until, started

PROMPT = 'def parse(text):\n    """Parse a line."""\n'
SLOWLY = ("--profile", "phone-8b", "--max-tokens", "300", "--no-color")
"""Options of a text that takes long enough to be disturbed, with a seed whose text is `long`."""


def truth(temperature: float, seed: int, max_tokens: int, prompt: str = PROMPT) -> list[int]:
    """What the target alone writes, computed here."""
    target, tokenizer = load("target")
    params = SamplingParams(temperature)
    return list(
        alone.write(target, tokenizer.encode(prompt), params, seed, max_tokens, vocab_size=tokenizer.vocab_size)
    )


@functools.cache
def long() -> int:
    """A seed whose text is 300 tokens and more: ten seconds of a slow target."""
    return next(seed for seed in range(4, 999) if len(truth(0.7, seed, 300)) == 300)


@pytest.fixture(scope="module")
def edge() -> Iterator[str]:
    """The URL of an edge of its own process, which ends well when it is asked to."""
    with started("edge", "--port", "0", "--json") as process:
        yield announced(process)["url"]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")


def test_a_text_from_an_edge_in_another_process_is_the_targets_own(edge: str) -> None:
    code, out, errors = airdraft(
        "run", PROMPT, "--edge", edge, "--json", "--temperature", "0.7", "--seed", "3", "--max-tokens", "24"
    )
    assert (code, errors) == (0, "")
    record = json.loads(out)
    assert record["ids"] == truth(0.7, 3, 24)
    assert record["reason"] in ("stop", "length")
    assert record["tokens"] == len(record["ids"])
    assert record["text"] == load("target")[1].decode(record["ids"])


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["server", "dense", "topk", "split", "coupled", "stream", "auto"])
def test_a_greedy_text_is_the_targets_under_every_scheme(edge: str, scheme: str) -> None:
    options = ("--scheme", scheme, "--temperature", "0", "--max-tokens", "24")
    code, out, errors = airdraft("run", PROMPT, "--edge", edge, "--json", *options)
    assert (code, errors) == (0, "")
    assert json.loads(out)["ids"] == truth(0.0, 0, 24)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_sampled_text_is_what_the_target_draws_with_this_seed(edge: str, seed: int) -> None:
    code, out, errors = airdraft("run", PROMPT, "--edge", edge, "--json", "--seed", str(seed), "--max-tokens", "24")
    assert (code, errors) == (0, "")
    assert json.loads(out)["ids"] == truth(0.7, seed, 24)


@pytest.mark.slow
def test_an_empty_prompt_and_one_from_standard_input(edge: str) -> None:
    for words, stdin, prompt in (("", b"", ""), ("-", "é = 'ü'\r\n".encode(), "é = 'ü'\r\n")):
        code, out, errors = airdraft("run", words, "--edge", edge, "--json", "--max-tokens", "8", stdin=stdin)
        assert (code, errors) == (0, "")
        assert json.loads(out)["ids"] == truth(0.7, 0, 8, prompt)


@pytest.mark.slow
def test_run_starts_an_edge_of_its_own_and_a_link() -> None:
    expected = truth(0.7, 0, 12)
    for link in ((), ("--uplink-mbps", "5", "--downlink-mbps", "20", "--rtt-ms", "30")):
        code, out, errors = airdraft("run", PROMPT, "--json", "--scheme", "coupled", "--max-tokens", "12", *link)
        assert (code, errors) == (0, "")
        record = json.loads(out)
        assert record["ids"] == expected
        if link:
            assert record["seconds"] >= 0.03 * record["rounds"]
            assert record["rounds"] > 0


@pytest.mark.slow
def test_plain_output_is_the_prompt_the_text_and_a_line_of_figures(edge: str) -> None:
    code, out, errors = airdraft("run", PROMPT, "--edge", edge, "--no-color", "--max-tokens", "8")
    assert (code, errors) == (0, "")
    ids = truth(0.7, 0, 8)
    assert out.startswith(PROMPT + load("target")[1].decode(ids))
    figures, why = out.splitlines()[-2:]
    assert re.fullmatch(
        rf"{len(ids)} tokens in .* s, .* target forwards a token, .*bits up and .* down a token", figures
    )
    assert why.startswith("auto chose last: ")


@pytest.mark.slow
def test_a_link_between(edge: str) -> None:
    with started("link", "--to", edge, "--port", "0", "--json", "--rtt-ms", "20") as link:
        url = announced(link)["url"]
        options = ("--scheme", "coupled", "--max-tokens", "8")
        code, out, errors = airdraft("run", PROMPT, "--edge", url, "--json", *options)
        assert (code, errors) == (0, "")
        record = json.loads(out)
        assert record["ids"] == truth(0.7, 0, 8)
        assert record["seconds"] >= 0.02 * record["rounds"]
        link.send_signal(signal.SIGINT)
        assert link.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["stream", "auto"])
@pytest.mark.parametrize("race", [(), ("--race", "off"), ("--race", "idle")])
def test_a_text_without_rounds_over_a_slow_link_is_the_targets_own(
    edge: str, scheme: str, race: tuple[str, ...]
) -> None:
    slow = ("--uplink-mbps", "0.5", "--downlink-mbps", "2", "--rtt-ms", "40")
    with started("link", "--to", edge, "--port", "0", "--json", *slow) as link:
        options = ("--scheme", scheme, "--seed", "5", "--max-tokens", "64", *race)
        code, out, errors = airdraft("run", PROMPT, "--edge", announced(link)["url"], "--json", *options)
    assert (code, errors) == (0, "")
    record = json.loads(out)
    assert record["ids"] == truth(0.7, 5, 64)
    assert record["forwards"] <= record["tokens"]
    if scheme == "stream":
        assert record["rounds"] == 0
        assert record["drafted"] > 0 or race != ("--race", "off")  # a fast edge may have written all by then


@pytest.mark.slow
def test_a_slow_targets_text_is_raced_and_drafted_alike() -> None:
    # Models as slow as those imitated: drafts arrive while the target runs, so both kinds of forward occur.
    link = ("--profile", "phone-8b", "--uplink-mbps", "5", "--downlink-mbps", "20", "--rtt-ms", "20")
    seed, found = long(), []
    for scheme in ("auto", "stream", "stream", "stream", "stream"):  # a busy machine may hold up the drafts of one text
        options = ("--scheme", scheme, "--seed", str(seed), "--max-tokens", "80", *link)
        code, out, errors = airdraft("run", PROMPT, "--json", *options)
        assert (code, errors) == (0, "")
        record = json.loads(out)
        assert record["ids"] == truth(0.7, seed, 80)
        if scheme == "stream":
            found.append(record)
            if record["accepted"] > 0 and record["raced"] > 0:
                assert record["forwards"] < record["tokens"]
                break
    else:
        pytest.fail(f"not both kinds of forwards in any text: {found}")


@pytest.mark.slow
def test_the_demo_writes_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    code, out, errors = airdraft(
        "demo", "--json", str(file), "--no-color", "--profile", "none", "--max-tokens", "12", "--trials", "200",
        patience_s=240,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert "\x1b" not in out
    results = json.loads(file.read_text())
    assert set(results["pair"]) == {"draft", "target", "vocab_size"}
    rows = {row["scheme"]: row for row in results["rows"]}
    assert list(rows) == list(SCHEMES)
    assert len({tuple(row) for row in results["rows"]}) == 1  # the same keys
    for name, row in rows.items():
        assert row["tokens"] > 0
        assert row["tokens_per_s"] > 0
        if name in ("server", "device", "auto", *HELPED):
            assert row["acceptance_rate"] is None
        elif name != "stream" or row["acceptance_rate"] is not None:  # a fast edge may have written all by then
            assert 0 <= row["acceptance_rate"] <= 1
        if name in ("server", "stream", "auto", "coupled"):
            assert row["identical_texts"] == row["texts"] == 3
        assert (row["why"] is not None) == (name == "auto")
        if name != "device":
            assert row["exact"] is True
            assert row["mean_acceptance_length"] >= 1
            assert row["uplink_bits_per_token"] > 0
            assert row["downlink_bits_per_token"] > 0
    assert rows["server"]["mean_acceptance_length"] == 1
    payload = "uplink_payload_bits_per_token"
    # How many tokens of 64 a distribution keeps, and so how many times more topk sends, is the pair's own affair.
    assert 0 < rows["coupled"][payload] * 40 <= rows["topk"][payload]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_edge_that_ends_amid_a_text_leaves_what_was_committed_and_one_line(number: signal.Signals) -> None:
    with started("edge", "--port", "0", "--json", "--profile", "phone-8b", "--drain-s", "0") as edge:
        url = announced(edge)["url"]
        with started("run", PROMPT, "--edge", url, "--offline", "error", "--seed", str(long()), *SLOWLY) as run:
            shown = read_until(run, len(PROMPT) + 40)
            edge.send_signal(number)
            out, errors = run.communicate(timeout=60)
            assert run.returncode == 2
            line = errors.decode()
            assert line.startswith("airdraft: ")  # it tries once more, so the words hang on what it meets then
            assert url in line
            assert line.count("\n") == 1
        if number == signal.SIGTERM:
            assert edge.wait(60) == 0
    written = (shown + out).decode().removeprefix(PROMPT).removesuffix("\n")
    assert len(written) >= 40
    text = load("target")[1].decode(truth(0.7, long(), 300))
    assert text.startswith(written.rstrip("\N{REPLACEMENT CHARACTER}"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_run_that_is_ended(number: signal.Signals) -> None:
    with started("run", PROMPT, "--rtt-ms", "5", "--seed", str(long()), *SLOWLY) as run:
        read_until(run, len(PROMPT) + 10)
        started_by_run = children(run.pid)
        assert len(started_by_run) == 2
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
        assert run.returncode == (130 if number == signal.SIGINT else -number)
        assert errors == b""
    assert all_end(started_by_run)


@pytest.mark.slow
def test_no_process_outlives_a_run_that_is_killed_while_it_starts_them() -> None:
    with started("run", PROMPT, *SLOWLY) as run:
        deadline = time.monotonic() + 60
        while not (started_by_run := children(run.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.kill()
    assert all_end(started_by_run)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_edge_well(number: signal.Signals) -> None:
    with started("edge", "--port", "0") as edge:
        assert edge.stdout is not None
        assert re.fullmatch(
            rb"airdraft edge serves target on ws://127\.0\.0\.1:\d+ \(Ctrl-C stops it\)\n", edge.stdout.readline()
        )
        edge.send_signal(number)
        _, errors = edge.communicate(timeout=60)
        assert (edge.returncode, errors) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("server", ["edge", "link"])
def test_a_server_lives_without_standard_input_unless_told_to_end_with_it(server: str) -> None:
    with started(server, "--port", "0", "--json", stdin=subprocess.DEVNULL) as process:
        announced(process)
        time.sleep(0.3)
        assert process.poll() is None
    with started(server, "--port", "0", "--json", "--until-eof", stdin=subprocess.PIPE) as process:
        announced(process)
        assert process.stdin is not None
        process.stdin.write(b"words are ignored\n")
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0

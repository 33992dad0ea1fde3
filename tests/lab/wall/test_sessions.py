"""Many devices at one edge: recorded drafts say what the pair would, and what is counted adds up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from subprocess import PIPE

import pytest

from airdraft.core.choosing import choose
from airdraft.lab.wall import capacity, sessions
from airdraft.lab.wall.sessions import PARAMS, SessionsRow, Told, gain, table, works
from airdraft.models.base import LanguageModel
from airdraft.models.registry import load
from airdraft.models.text import Tokenizer


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, LanguageModel, Tokenizer]:
    (draft, tokenizer), (target, _) = load("draft"), load("target")
    return draft, target, tokenizer


def row(devices: int, batched: bool, speed: float, identical: int = 3) -> SessionsRow:
    return SessionsRow("none", devices, batched, speed, 1.0, 2.0, 0.5, identical, 3)


def test_a_told_draft_chooses_what_was_recorded(pair: tuple[LanguageModel, LanguageModel, Tokenizer]) -> None:
    told = Told(pair[0])
    told.choices = [5, 6, 7, 8]
    rows = told.forward(None, 0, [5, 6], 2)
    assert [choose(each, PARAMS, 1, at) for at, each in enumerate(rows, 1)] == [6, 7]
    assert choose(told.forward(None, 9, [1], 1)[0], PARAMS, 1, 10) == 0  # beyond what was recorded


def test_the_gain_is_of_the_batching_edge() -> None:
    rows = [row(16, False, 100.0), row(16, True, 180.0), row(4, True, 1.0)]
    assert gain(rows, "none") == pytest.approx(1.8)
    assert "the models' own speed: 1.80 (bar 1.5 with phone-8b). 9 of 9 texts" in table(rows)
    assert "8 of 9 texts" in table([row(16, False, 1.0, 2), *rows[1:]])


@pytest.mark.slow
@pytest.mark.alone
def test_devices_at_a_real_edge_write_the_targets_texts(
    pair: tuple[LanguageModel, LanguageModel, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, target, tokenizer = pair
    monkeypatch.setattr(sessions, "TEXTS", 3)
    monkeypatch.setattr(sessions, "TOKENS", 40)
    monkeypatch.setattr(sessions, "SECONDS", 2.0)
    todo = works(draft, target, tokenizer.vocab_size)
    found = asyncio.run(
        sessions.measure(draft, tokenizer.digest, tokenizer.vocab_size, todo, 4, batched=True, profile_name="none")
    )
    assert found.texts > 0
    assert found.identical == found.texts
    # A step has a token of each text at most, and of four texts' drafts rarely more than three.
    assert 0.05 < found.target_forwards_per_token < 1.2
    assert 0 < found.token_p50_ms <= found.token_p99_ms
    assert found.tokens_per_s > 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_weighed() -> None:
    """Another than this one, which frees memory when it likes, and hands out what it holds already."""
    size = 64 << 20
    code = f"print(flush=True); input(); held = bytearray(b'x' * {size}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        weights = []
        for _ in range(2):
            child.stdout.readline()
            weights.append(capacity._resident_bytes(child.pid))
            child.stdin.write("\n")
            child.stdin.flush()
    assert weights[1] - weights[0] > 0.8 * size
    began = capacity.used_s(os.getpid())
    while capacity.used_s(os.getpid()) - began < 0.05:
        sum(range(10_000))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_texts_and_churn(
    pair: tuple[LanguageModel, LanguageModel, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, target, tokenizer = pair
    monkeypatch.setattr(sessions, "TEXTS", 3)
    made = capacity._Models(draft, tokenizer.digest, tokenizer.vocab_size, works(draft, target, tokenizer.vocab_size))
    whole, evicted = (asyncio.run(capacity._idle_bytes(made, 200, each)) for each in ((), ("--kv-tokens", "1")))
    assert whole > 31 * 8192  # keys and values of the prompt but its last token
    assert evicted < whole / 4
    churn = asyncio.run(capacity._churn(made, 4.0))
    assert churn.aborted >= capacity.CHURN_DEVICES  # each comes once at least, on however slow a machine
    assert churn.first_bytes > 0

"""Every command's output: in an encoding that lacks characters, to a full device, to a pipe that nobody reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..suites import mostly_slow

COMMANDS = {
    "plan": ("plan",),
    "JSON": ("plan", "--json"),
    "help": ("--help",),
    "version": ("--version",),
    "a trace": ("trace", "show", "TRACE"),
    "a server": ("edge", "--port", "0", "--until-eof"),
    "chaos": ("chaos", "--sessions", "1", "--jobs", "1"),
}
OFTEN = ("help", "a trace")
"""Those that are not left to the slow suite: each starts a process."""
TRACE = """\
{"t": 0.0, "event": "opened", "at": "2026-01-01T00:00:00+00:00", "side": "edge", "prompt": 2, "length": 2, \
"max_tokens": 3, "scheme": "stream\\u03b3", "peer": "\\u20ac\\ud83d\\ude00"}
{"t": 0.5, "event": "committed", "length": 4, "accepted": 1, "written": 1}
{"t": 0.6, "event": "finished", "reason": "length"}
"""


def airdraft(
    tmp_path: Path, words: tuple[str, ...], stdout: int, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(TRACE)
    return subprocess.run(
        [sys.executable, "-m", "airdraft", *(str(trace) if word == "TRACE" else word for word in words)],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=100,
        env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *(pytest.param(name, "cp1252", marks=() if name in OFTEN else pytest.mark.slow) for name in COMMANDS),
        pytest.param("plan", "ascii", marks=pytest.mark.slow),
        ("a trace", "ascii"),
        pytest.param("a trace", "latin-1", marks=pytest.mark.slow),
    ],
)
def test_an_encoding_that_lacks_characters(name: str, encoding: str, tmp_path: Path) -> None:
    ended = airdraft(tmp_path, COMMANDS[name], subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert ended.stderr == b""
    assert ended.returncode in (0, 1)  # chaos: one session may feel no fault
    assert ended.stdout.decode("utf-8" if encoding == "ascii" else encoding)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("name", mostly_slow(COMMANDS, OFTEN))
def test_a_full_device(name: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = airdraft(tmp_path, COMMANDS[name], full.fileno())
    assert ended.returncode == 2
    assert ended.stderr.decode().splitlines() == [
        "airdraft: the standard output takes no more (No space left on device); make room"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
@pytest.mark.parametrize("name", mostly_slow(["plan", "JSON", "a server"], often=("plan",)))
def test_a_pipe_that_nobody_reads(name: str, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ended = airdraft(tmp_path, COMMANDS[name], writes)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such numbers")
@pytest.mark.parametrize(
    ("closed", "words"),
    [
        ((1,), ("plan",)),
        pytest.param((0, 1, 2), ("plan", "--json"), marks=pytest.mark.slow),
        pytest.param((0,), ("run", "-", "--max-tokens", "2"), marks=pytest.mark.slow),
        pytest.param((0, 1, 2), ("run", "x", "--max-tokens", "2"), marks=pytest.mark.slow),
    ],
)
def test_standard_files_that_are_closed(closed: tuple[int, ...], words: tuple[str, ...]) -> None:
    script = f'exec {" ".join(f"{each}>&-" for each in closed)}; exec "$@"'
    ended = subprocess.run(
        ["/bin/sh", "-c", script, "sh", sys.executable, "-m", "airdraft", *words],
        capture_output=True, check=False, timeout=100,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("module", ["airdraft.errors", "rich", "numpy"])
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "airdraft", "run", "x", "--draft", "none"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split(b"|")[-1].strip() == module.encode():
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130
    assert b"Traceback" not in said
